package audit_test

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/crypto"
)

const (
	dcm    = "http://dicom.nema.org/resources/ontology/DCM#"
	rest   = "http://terminology.hl7.org/CodeSystem/audit-event-type#rest"
	doing  = "http://hl7.org/fhir/restful-interaction#"
	part   = "http://terminology.hl7.org/CodeSystem/v3-ParticipationType#"
	entity = "http://terminology.hl7.org/CodeSystem/audit-entity-type#"
	object = "http://terminology.hl7.org/CodeSystem/object-role#"
	balp   = "https://profiles.ihe.net/ITI/BALP/StructureDefinition/IHE.BasicAudit."
)

// balpProfiles is what the profiles of BALP 1.1 (R4) demand, as their StructureDefinitions say it: type and subtype, action, the types of the client, the
// server and the user, and the entities. Cardinalities that are the same in all are in checkFHIR.
var balpProfiles = map[string]struct {
	kind, subtype, action string
	client, server        string
	user                  []string
	patient, query        bool
}{
	"Read":          {rest, doing + "read", "R", dcm + "110152", dcm + "110153", []string{part + "IRCP"}, false, false},
	"PatientRead":   {rest, doing + "read", "R", dcm + "110152", dcm + "110153", []string{part + "IRCP"}, true, false},
	"Query":         {rest, doing + "search", "E", dcm + "110153", dcm + "110152", []string{part + "IRCP"}, false, true},
	"PatientQuery":  {rest, doing + "search", "E", dcm + "110153", dcm + "110152", []string{part + "IRCP"}, true, true},
	"Create":        {rest, doing + "create", "C", dcm + "110153", dcm + "110152", []string{part + "AUT", part + "INF", part + "CST"}, false, false},
	"PatientCreate": {rest, doing + "create", "C", dcm + "110153", dcm + "110152", []string{part + "AUT", part + "INF", part + "CST"}, true, false},
	"Update":        {rest, doing + "update", "U", dcm + "110153", dcm + "110152", []string{part + "AUT", part + "INF", part + "CST"}, false, false},
	"PatientUpdate": {rest, doing + "update", "U", dcm + "110153", dcm + "110152", []string{part + "AUT", part + "INF", part + "CST"}, true, false},
	"Delete": {rest, doing + "delete", "D", dcm + "110150", "http://terminology.hl7.org/CodeSystem/provenance-participant-type#custodian",
		[]string{part + "AUT", part + "INF", part + "CST"}, false, false},
	"PatientDelete": {rest, doing + "delete", "D", dcm + "110150", "http://terminology.hl7.org/CodeSystem/provenance-participant-type#custodian",
		[]string{part + "AUT", part + "INF", part + "CST"}, true, false},
	"PrivacyDisclosure.Source": {dcm + "110106", "http://terminology.hl7.org/CodeSystem/iso-21089-lifecycle#disclose", "R",
		dcm + "110152", dcm + "110153", nil, true, false},
}

type fhir = map[string]any

func codeOf(v any) string {
	c := v.(fhir)
	return fmt.Sprint(c["system"], "#", c["code"])
}

func list(v any) []any {
	l, _ := v.([]any)
	return l
}

var fhirID = regexp.MustCompile(`^[A-Za-z0-9\-.]{1,64}$`)

// checkFHIR checks what R4 demands of an AuditEvent, and the profile that it claims.
func checkFHIR(a fhir) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%v", r)
		}
	}()
	must := func(ok bool, what string) {
		if !ok {
			panic(what)
		}
	}
	var noEmpty func(v any)
	noEmpty = func(v any) { // ele-1: no element is empty
		switch v := v.(type) {
		case fhir:
			must(len(v) > 0, "an empty object")
			for _, x := range v {
				noEmpty(x)
			}
		case []any:
			must(len(v) > 0, "an empty list")
			for _, x := range v {
				noEmpty(x)
			}
		case string:
			must(strings.TrimSpace(v) != "", "an empty string")
		case nil:
			panic("null")
		}
	}
	noEmpty(a)
	must(a["resourceType"] == "AuditEvent", "resourceType")
	must(fhirID.MatchString(a["id"].(string)), "id")
	_, bad := time.Parse(time.RFC3339Nano, a["recorded"].(string))
	must(bad == nil, "recorded")
	kind := codeOf(a["type"])
	must(strings.Contains("CRUDE", a["action"].(string)), "action")
	must(strings.Contains("0 4 8 12", a["outcome"].(string)), "outcome")
	subtypes := map[string]bool{}
	for _, s := range list(a["subtype"]) {
		subtypes[codeOf(s)] = true
	}
	agents := map[string]fhir{}
	requestors := 0
	must(len(list(a["agent"])) >= 1, "agent")
	for _, v := range list(a["agent"]) {
		g := v.(fhir)
		code := codeOf(list(g["type"].(fhir)["coding"])[0])
		must(agents[code] == nil, "two agents of a type")
		agents[code] = g
		if g["requestor"].(bool) {
			requestors++
		}
	}
	must(requestors == 1, "one requestor")
	observer := a["source"].(fhir)["observer"].(fhir)
	patients, queries, data := 0, 0, 0
	for _, v := range list(a["entity"]) {
		e := v.(fhir)
		_, what := e["what"]
		switch codeOf(e["role"]) {
		case object + "1":
			w := e["what"].(fhir)
			must(codeOf(e["type"]) == entity+"1" && w["type"] == "Patient" && w["identifier"].(fhir)["value"] != "", "patient")
			patients++
		case object + "24":
			_, err := base64.StdEncoding.DecodeString(e["query"].(string))
			must(err == nil && !what && e["detail"] == nil && codeOf(e["type"]) == entity+"2", "query")
			queries++
		case object + "3", object + "4", object + "20":
			must(what && codeOf(e["type"]) == entity+"2", "data")
			data++
		default:
			panic("role of an entity")
		}
		for _, d := range list(e["detail"]) {
			must(d.(fhir)["type"] != "" && d.(fhir)["valueString"] != nil, "detail")
		}
	}
	meta, ok := a["meta"].(fhir)
	if !ok {
		return nil
	}
	name, ok := strings.CutPrefix(list(meta["profile"])[0].(string), balp)
	p, known := balpProfiles[name]
	must(ok && known, "profile")
	must(a["outcome"] == "0", "the profiles are of success")
	must(kind == p.kind && subtypes[p.subtype] && a["action"] == p.action, "type, subtype, action")
	client, server := agents[p.client], agents[p.server]
	for _, g := range []fhir{client, server} {
		must(g != nil && g["who"] != nil && g["network"] != nil, "client and server with who and network")
	}
	for code, g := range agents {
		if code == p.client || code == p.server {
			continue
		}
		fits := p.user == nil
		for _, u := range p.user {
			fits = fits || u == code
		}
		must(fits && g["who"] != nil && g["requestor"] == true && g["network"] == nil, "user")
	}
	must(patients == map[bool]int{true: 1}[p.patient] && queries == map[bool]int{true: 1}[p.query] && data == map[bool]int{false: 1}[p.query], "entities")
	if name == "PrivacyDisclosure.Source" {
		must(fmt.Sprint(server["who"]) == fmt.Sprint(observer), "val-audit-source: the source is the observer")
	}
	return nil
}

func readFHIR(t *testing.T, data []byte) (list []fhir) {
	t.Helper()
	for lines := bufio.NewScanner(bytes.NewReader(data)); lines.Scan(); {
		var a fhir
		require.NoError(t, json.Unmarshal(lines.Bytes(), &a))
		list = append(list, a)
	}
	return list
}

// Every kind of event is an AuditEvent as R4 and, where it claims one, its BALP profile want it.
func TestFHIRFollowsTheProfiles(t *testing.T) {
	d, ctx := newDesk(t, "p1", "p2"), t.Context()
	n := 0
	for _, action := range audit.Actions() {
		for _, outcome := range audit.Outcomes() {
			for _, whom := range [][]crypto.Subject{nil, {"p1"}, {"p1", "p2"}} {
				for _, actor := range []string{"staff-17", ""} {
					e := audit.Event{Time: past(n), Action: action, Outcome: outcome, Actor: actor, Role: "desk", Purpose: "circulation", Channel: audit.UI,
						Segments: []string{"names"}, Count: len(whom), Subjects: people(whom...)}
					if outcome == audit.Denied {
						e.Why, e.Channel = "no-right", ""
					}
					if n%2 == 0 && action == audit.Export {
						e.Recipient, e.Approval = "ministry", "A-1"
					}
					if action == audit.LogIn && actor != "" && whom == nil {
						e.Network = "192.0.2.0/24"
					}
					if action == audit.Sweep || action == audit.Prune {
						e.Object, e.Kind, e.Tally = "policy", "loan", []audit.Tally{{Name: "everyone", Count: 3}}
						e.Ranges, e.Before, e.Collapsed = []audit.Range{{From: 1, To: 4}}, morning, 1
					}
					entry, err := d.PrepareClaim(ctx, e)
					if whom != nil && err != nil {
						continue // an action that is not about people
					}
					require.NoError(t, err)
					require.NoError(t, d.log.Append(ctx, []audit.Entry{entry}))
					n++
				}
			}
		}
	}
	r := reporter(t, d, func(c *audit.ReporterConfig) { c.Recorder = &aside{} })
	claimed := map[string]int{}
	for _, named := range []bool{false, true} {
		var out bytes.Buffer
		written, err := r.WriteFHIR(ctx, auditor, &out, audit.FHIR{Site: "Town Library", Address: "https://library.example", LogFilter: audit.LogFilter{Name: named}})
		require.NoError(t, err)
		require.Equal(t, audit.Written{Events: n}, written)
		all := readFHIR(t, out.Bytes())
		require.Greater(t, len(all), n)
		ids := map[string]bool{}
		for i, a := range all {
			require.NoError(t, checkFHIR(a), "%d: %v", i, a)
			require.False(t, ids[a["id"].(string)])
			ids[a["id"].(string)] = true
			if m, ok := a["meta"].(fhir); ok {
				claimed[strings.TrimPrefix(list(m["profile"])[0].(string), balp)]++
			}
		}
		require.Equal(t, named, strings.Contains(out.String(), `"p1"`))
	}
	require.Len(t, claimed, len(balpProfiles)-1, "%v: all but PatientDelete, for whose key was destroyed is not said", claimed)

	// The check is one that finds something.
	var out bytes.Buffer
	_, err := r.WriteFHIR(ctx, auditor, &out, audit.FHIR{Site: "Town Library"})
	require.NoError(t, err)
	found, tried := 0, 0
	for _, a := range readFHIR(t, out.Bytes()) {
		if a["meta"] == nil {
			continue
		}
		for _, field := range []string{"type", "subtype", "action", "recorded", "outcome", "agent", "source", "entity"} {
			was := a[field]
			delete(a, field)
			tried++
			if checkFHIR(a) != nil {
				found++
			}
			a[field] = was
		}
	}
	require.Positive(t, tried)
	require.Equal(t, tried, found)
	_, err = r.WriteFHIR(ctx, auditor, &out, audit.FHIR{})
	require.Error(t, err)
}

func TestFHIRLooksLikeThis(t *testing.T) {
	d := aDay(t)
	r := reporter(t, d)
	var out bytes.Buffer
	_, err := r.WriteFHIR(t.Context(), auditor, &out, audit.FHIR{Site: "Town Library", Address: "https://library.example",
		LogFilter: audit.LogFilter{Name: true, Period: audit.Period{Until: past(60)}}})
	require.NoError(t, err)
	for _, a := range readFHIR(t, out.Bytes()) {
		require.NoError(t, checkFHIR(a))
	}
	golden(t, "fhir.ndjson", out.Bytes())
}
