package audit

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/carrel-project/carrel/crypto"
)

// FHIR says how to write the trail for a system that reads FHIR R4.
type FHIR struct {
	LogFilter
	Site    string // name of the library system: source and server of what happened
	Address string // its URI; empty: it has none
}

// WriteFHIR writes the trail as AuditEvent resources of FHIR R4, one a line (NDJSON), in the order of the numbers. Where the Basic Audit
// Log Patterns of IHE (BALP 1.1) have a profile for what happened, the resource follows it and says so:
//
//	view                          PatientRead
//	find, resolve                 PatientQuery; Query when nobody was found
//	create                        PatientCreate
//	update, import                PatientUpdate
//	shred                         PatientDelete; Delete when it can no longer be said whom it was about
//	export to a recipient         PrivacyDisclosure.Source
//
// These profiles are of what succeeded and of one patient each: an event about several people becomes several resources, and one that was
// refused or failed claims none. Everything else is a plain AuditEvent with the codes of DICOM and ISO 21089. A patient is a logical
// reference, by ID or else by the tag, which is a pseudonym for a month. What is not known, such as the network of a client, is said to be
// unknown.
func (r *Reporter) WriteFHIR(ctx context.Context, by By, w io.Writer, f FHIR) (Written, error) {
	if f.Site == "" {
		return Written{}, errors.New("audit: FHIR.Site is empty, want the name of the library system")
	}
	return r.write(ctx, by, "log-fhir", w, f.LogFilter, func(out *json.Encoder, i *item, names []crypto.Subject) error {
		for n := range max(1, len(names)) {
			if err := out.Encode(f.resource(i, names, n)); err != nil {
				return err
			}
		}
		return nil
	})
}

// Code systems.
const (
	fhirDCM        = "http://dicom.nema.org/resources/ontology/DCM"
	fhirType       = "http://terminology.hl7.org/CodeSystem/audit-event-type"
	fhirREST       = "http://hl7.org/fhir/restful-interaction"
	fhirLifecycle  = "http://terminology.hl7.org/CodeSystem/iso-21089-lifecycle"
	fhirPart       = "http://terminology.hl7.org/CodeSystem/v3-ParticipationType"
	fhirProvenance = "http://terminology.hl7.org/CodeSystem/provenance-participant-type"
	fhirSource     = "http://terminology.hl7.org/CodeSystem/security-source-type"
	fhirEntity     = "http://terminology.hl7.org/CodeSystem/audit-entity-type"
	fhirRole       = "http://terminology.hl7.org/CodeSystem/object-role"
	fhirAbsent     = "http://hl7.org/fhir/StructureDefinition/data-absent-reason"
	fhirProfile    = "https://profiles.ihe.net/ITI/BALP/StructureDefinition/IHE.BasicAudit."
	fhirOurs       = "https://github.com/carrel-project/carrel/audit/" // and action, role, purpose, staff, tag, patron …
)

type (
	auditEvent struct {
		ResourceType string     `json:"resourceType"`
		ID           string     `json:"id"`
		Meta         *fhirMeta  `json:"meta,omitempty"`
		Type         coding     `json:"type"`
		Subtype      []coding   `json:"subtype,omitempty"`
		Action       string     `json:"action"`
		Period       *fhirTimes `json:"period,omitempty"`
		Recorded     string     `json:"recorded"`
		Outcome      string     `json:"outcome"`
		OutcomeDesc  string     `json:"outcomeDesc,omitempty"`
		Purpose      []concept  `json:"purposeOfEvent,omitempty"`
		Agent        []agent    `json:"agent"`
		Source       source     `json:"source"`
		Entity       []entity   `json:"entity,omitempty"`
	}
	fhirMeta struct {
		Profile []string `json:"profile"`
	}
	fhirTimes struct {
		Start string `json:"start"`
		End   string `json:"end"`
	}
	coding struct {
		System  string `json:"system,omitempty"`
		Code    string `json:"code"`
		Display string `json:"display,omitempty"`
	}
	concept struct {
		Coding []coding `json:"coding"`
	}
	identifier struct {
		System string `json:"system,omitempty"`
		Value  string `json:"value"`
	}
	reference struct {
		Type       string      `json:"type,omitempty"`
		Identifier *identifier `json:"identifier,omitempty"`
		Display    string      `json:"display,omitempty"`
	}
	extension struct {
		URL  string `json:"url"`
		Code string `json:"valueCode"`
	}
	fhirNetwork struct {
		Extension []extension `json:"extension,omitempty"`
		Address   string      `json:"address,omitempty"`
		Type      string      `json:"type,omitempty"`
	}
	agent struct {
		Type      concept      `json:"type"`
		Role      []concept    `json:"role,omitempty"`
		Who       *reference   `json:"who,omitempty"`
		Requestor bool         `json:"requestor"`
		Network   *fhirNetwork `json:"network,omitempty"`
	}
	source struct {
		Site     string    `json:"site"`
		Observer reference `json:"observer"`
		Type     []coding  `json:"type"`
	}
	entity struct {
		What        *reference `json:"what,omitempty"`
		Type        coding     `json:"type"`
		Role        coding     `json:"role"`
		Description string     `json:"description,omitempty"`
		Query       string     `json:"query,omitempty"`
		Detail      []detail   `json:"detail,omitempty"`
	}
	detail struct {
		Type  string `json:"type"`
		Value string `json:"valueString"`
	}
)

// A pattern is how an action looks in FHIR.
type pattern struct {
	profile  string // of BALP, after "IHE.BasicAudit."; empty: none
	kind     coding
	subtype  []coding
	action   string // C, R, U, D or E
	user     coding // what the one who acts is
	client   coding // what their program is
	server   coding // what the library system is
	nobody   string // the profile when it is about nobody; empty: none
	searched bool   // an entity says what was asked
}

var (
	restful     = coding{fhirType, "rest", "Restful Operation"}
	fromSource  = coding{fhirDCM, "110153", "Source Role ID"}
	destination = coding{fhirDCM, "110152", "Destination Role ID"}
	application = coding{fhirDCM, "110150", "Application"}
	custodian   = coding{fhirProvenance, "custodian", "Custodian"}
	receiver    = coding{fhirPart, "IRCP", "information recipient"}
	author      = coding{fhirPart, "AUT", "author (originator)"}
	alert       = coding{fhirDCM, "110113", "Security Alert"}
	disclosure  = lifecycle("disclose")
)

func lifecycle(code string) coding { return coding{fhirLifecycle, code, ""} }

// patternOf returns how an event looks in FHIR.
func patternOf(e *Event) pattern {
	p := pattern{user: author, client: application, server: custodian, action: "E"}
	p.subtype = []coding{{fhirOurs + "action", string(e.Action), ""}}
	rest := func(profile, interaction, action string) {
		p.profile, p.nobody, p.kind, p.action = "Patient"+profile, profile, restful, action
		p.subtype = append([]coding{{fhirREST, interaction, interaction}}, p.subtype...)
		p.client, p.server = fromSource, destination
	}
	switch e.Action {
	case View:
		rest("Read", "read", "R")
		p.user, p.client, p.server = receiver, destination, fromSource
	case Find, Resolve:
		rest("Query", "search", "E")
		p.user, p.searched = receiver, true
	case Create:
		rest("Create", "create", "C")
	case Update, Import:
		rest("Update", "update", "U")
	case Shred, Erase:
		rest("Delete", "delete", "D")
		p.client, p.server = application, custodian
	case Export:
		p.kind, p.action, p.user = coding{fhirDCM, "110106", "Export"}, "R", receiver
		p.subtype = append([]coding{disclosure}, p.subtype...)
		p.client, p.server = destination, fromSource
		if e.Recipient != "" {
			p.profile = "PrivacyDisclosure.Source"
		} else {
			p.subtype[0] = lifecycle("extract")
		}
	case LogIn:
		p.kind = coding{fhirDCM, "110114", "User Authentication"}
		p.subtype = append([]coding{{fhirDCM, "110122", "Login"}}, p.subtype...)
	case Lock, Unlock:
		p.kind = alert
		p.subtype = append([]coding{{fhirDCM, "110137", "User Security Attributes Changed"}}, p.subtype...)
	case BreakGlass:
		p.kind = alert
		p.subtype = append([]coding{{fhirDCM, "110127", "Emergency Override Started"}}, p.subtype...)
	case Review:
		p.kind = alert
	case Report:
		p.kind, p.action = coding{fhirDCM, "110101", "Audit Log Used"}, "R"
	case Sweep:
		p.kind, p.action = lifecycle("deidentify"), "U"
	case Hold:
		p.kind, p.action = lifecycle("hold"), "U"
	case Release:
		p.kind, p.action = lifecycle("unhold"), "U"
	case Restrict, Lift:
		p.kind = alert
		p.subtype = append([]coding{{fhirDCM, "110137", "User Security Attributes Changed"}}, p.subtype...)
	case Rotate:
		p.kind, p.action = lifecycle("encrypt"), "U"
	case Reindex:
		p.kind, p.action = lifecycle("transform"), "U"
	case Prune:
		p.kind, p.action = lifecycle("destroy"), "D"
	case Restore:
		p.kind, p.action = lifecycle("restore"), "U"
	case NewAnchor:
		p.kind, p.action = lifecycle("attest"), "C"
	}
	return p
}

const fhirInstant = "2006-01-02T15:04:05.000000Z07:00"

// resource returns the AuditEvent about the person number n of an event, or about nobody.
func (f *FHIR) resource(i *item, names []crypto.Subject, n int) auditEvent {
	e := &i.event
	p := patternOf(e)
	a := auditEvent{ResourceType: "AuditEvent", ID: fmt.Sprintf("carrel-%d-%d", i.number, n), Type: p.kind, Subtype: p.subtype, Action: p.action,
		Recorded: e.Time.Format(fhirInstant), Outcome: "8", OutcomeDesc: e.Why}
	switch {
	case e.Outcome == Done, e.Outcome == NotFound && p.searched: // a search that finds nobody is a good one
		a.Outcome = "0"
	case e.Outcome == Denied, e.Outcome == NotFound:
		a.Outcome = "4"
	}
	if e.Covers > 0 {
		a.Period = &fhirTimes{a.Recorded, e.Time.Add(e.Covers).Format(fhirInstant)}
	}
	if e.Purpose != "" {
		a.Purpose = []concept{{[]coding{{fhirOurs + "purpose", e.Purpose, ""}}}}
	}
	var patient *reference
	profile := p.nobody
	if len(names) > 0 {
		patient, profile = patientOf(names[n], i.tags[n]), p.profile
	}
	if profile != "" && a.Outcome == "0" {
		a.Meta = &fhirMeta{[]string{fhirProfile + profile}}
	}
	self := reference{Display: f.Site}
	a.Source = source{Site: f.Site, Observer: self, Type: []coding{{fhirSource, "4", "Application Server"}}}
	a.Agent = f.agents(e, &p, self, patient)
	a.Entity = entities(e, &p, patient)
	return a
}

func unknownNetwork() *fhirNetwork {
	return &fhirNetwork{Extension: []extension{{fhirAbsent, "unknown"}}}
}

// agents returns who took part: the program of who asked, the library system, and who asked, if that is known.
func (f *FHIR) agents(e *Event, p *pattern, self reference, patient *reference) []agent {
	is := func(c coding) concept { return concept{[]coding{c}} }
	client := agent{Type: is(p.client), Who: &reference{Display: "unknown"}, Network: unknownNetwork()}
	if e.Channel != "" {
		client.Who = &reference{Identifier: &identifier{fhirOurs + "channel", string(e.Channel)}}
	}
	if e.Recipient != "" {
		client.Who = &reference{Identifier: &identifier{fhirOurs + "recipient", e.Recipient}}
	}
	if e.Network != "" {
		client.Network = &fhirNetwork{Address: e.Network, Type: "2"} // IP address
	}
	server := agent{Type: is(p.server), Who: &self, Network: unknownNetwork()}
	if f.Address != "" {
		server.Network = &fhirNetwork{Address: f.Address, Type: "5"} // URI
	}
	list := []agent{client, server}
	user := agent{Type: is(p.user), Requestor: true}
	switch {
	case e.Actor != "":
		user.Who = &reference{Identifier: &identifier{fhirOurs + "staff", e.Actor}}
	case patient != nil && e.Outcome != Denied || patient != nil && e.Action == LogIn:
		user.Who = patient
	default:
		list[0].Requestor = true // nobody else is known to have asked
		return list
	}
	if e.Role != "" {
		user.Role = []concept{is(coding{fhirOurs + "role", e.Role, ""})}
	}
	return append(list, user)
}

// patientOf refers to a patron: by ID, or by the tag of a month.
func patientOf(id crypto.Subject, tag Tag) *reference {
	one := identifier{fhirOurs + "tag", base64.StdEncoding.EncodeToString(tag[:])}
	if id != "" {
		one = identifier{fhirOurs + "patron", string(id)}
	}
	return &reference{Type: "Patient", Identifier: &one}
}

// entities returns what it was about: the patient, and what of them, or what was asked.
func entities(e *Event, p *pattern, patient *reference) (list []entity) {
	if patient != nil {
		list = append(list, entity{What: patient, Type: coding{fhirEntity, "1", "Person"}, Role: coding{fhirRole, "1", "Patient"}})
	}
	object := coding{fhirEntity, "2", "System Object"}
	if p.searched {
		asked := "a borrower token"
		if e.Action == Find {
			asked = "values that only the patron record has"
		}
		return append(list, entity{Type: object, Role: coding{fhirRole, "24", "Query"}, Description: "by " + asked + ", which the trail does not keep",
			Query: base64.StdEncoding.EncodeToString([]byte(e.Action))})
	}
	if e.Action == LogIn {
		return list
	}
	data := entity{What: &reference{Display: "patron record"}, Type: object, Role: coding{fhirRole, "4", "Domain Resource"}}
	switch e.class() {
	case Jobs, Upkeep:
		data.What, data.Role = &reference{Display: cmp.Or(e.Object, string(e.Action))}, coding{fhirRole, "20", "Job"}
	case Reports:
		data.What, data.Role = &reference{Display: cmp.Or(e.Object, string(e.Action))}, coding{fhirRole, "3", "Report"}
	}
	add := func(name, value string) {
		if value != "" {
			data.Detail = append(data.Detail, detail{name, value})
		}
	}
	for _, s := range e.Segments {
		add("segment", s)
	}
	if e.Count > 0 {
		add("count", fmt.Sprint(e.Count))
	}
	add("grant", e.Grant)
	add("approval", e.Approval)
	add("object", e.Object)
	add("kind", e.Kind)
	for _, t := range e.Tally {
		add("tally", fmt.Sprintf("%s=%d", t.Name, t.Count))
	}
	if !e.Before.IsZero() {
		add("before", e.Before.Format(time.RFC3339Nano))
	}
	var ranges []string
	for _, r := range e.Ranges {
		ranges = append(ranges, fmt.Sprintf("%d-%d", r.From, r.To-1))
	}
	add("ranges", strings.Join(ranges, ","))
	if e.Collapsed > 0 {
		add("collapsed", fmt.Sprint(e.Collapsed))
	}
	return append(list, data)
}
