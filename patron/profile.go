package patron

import (
	"github.com/carrel-project/carrel/access"
	"github.com/carrel-project/carrel/crypto"
)

// A Profile is what is known of a patron, as plain values in memory. What says something about the person is a
// [crypto.Secret] and does not print; each use of it is a call of Reveal. Uses, types and codes are short words and say what an
// entry is, not who has it.
//
// Only an identifier is required. The zero value of everything else means that it is not known.
type Profile struct {
	Facts Facts

	Names       []Name
	Addresses   []Address
	Phones      []Phone
	Emails      []Email
	Identifiers []Identifier  // by which the patron is found; unique across all types and patrons
	Birth       crypto.Secret // the date, as in 1984-02-29
	Blocks      []Block
	Notes       []Note
	Roles       []Role
	Campus      []Campus
	Statistics  []Statistic
	Photo       crypto.Secret // a link, https only; carrel keeps no pictures
}

// A Name is one of the names of a patron. Use: legal, preferred …
type Name struct {
	Use                                 string
	Prefix, First, Middle, Last, Suffix crypto.Secret
}

// An Address is where somebody lives or gets post. Use: home, mailing, work …
type Address struct {
	Use                                                         string
	Street, Extra, City, Region, Postcode, Country, From, Until crypto.Secret
}

// A Phone is a number, best as E.164 (+46701234567), because that is how it is compared. Use: day, evening, mobile …
type Phone struct {
	Use    string
	Number crypto.Secret
}

// An Email is an address. Use: personal, school …
type Email struct {
	Use     string
	Address crypto.Secret
}

// An Identifier is a bar code, user name, external number or e-mail address used as login. Use is its type. A patron has
// several of one type if need be.
type Identifier struct {
	Use   string
	Value crypto.Secret
}

// A Block keeps a patron from borrowing. Use is its code.
type Block struct {
	Use               string
	Note, From, Until crypto.Secret
}

// A Note is free text about a patron. Use: general, pop-up …
type Note struct {
	Use              string
	Text, At, Author crypto.Secret
}

// A Role is something the patron is in the institution. Use: student, instructor, staff …
type Role struct {
	Use                string
	Scope, From, Until crypto.Secret // Scope: the course, department or library
}

// A Campus is a place of the institution the patron belongs to. Use is its code.
type Campus struct {
	Use  string
	Name crypto.Secret
}

// A Statistic is a statistical value in free text. Use is its category. Coded categories are Facts.
type Statistic struct {
	Use   string
	Value crypto.Secret
}

// Reveal hands on the entries of a segment in plain, each with its use and those of its [Fields] that are not empty by name, for
// printing and for other formats.
func (p *Profile) Reveal(s access.Segment, do func(entry map[string]string)) {
	for e := range p.entries(s) {
		plain := map[string]string{}
		if e.use != nil && *e.use != "" {
			plain["use"] = *e.use
		}
		for i, f := range fieldTable[s] {
			if !e.fields[i].IsEmpty() {
				plain[f.Name] = e.fields[i].Reveal()
			}
		}
		do(plain)
	}
}

// RevealAll does what Reveal does for all segments, with their names.
func (p *Profile) RevealAll(do func(segment string, entry map[string]string)) {
	for _, s := range access.AllSegments() {
		p.Reveal(s, func(entry map[string]string) { do(s.String(), entry) })
	}
}

// FieldNames hands on each segment with the names of its fields, in their order: what personal data there may be in a profile.
func FieldNames(do func(segment string, fields []string)) {
	for _, s := range access.AllSegments() {
		var names []string
		for _, f := range Fields(s) {
			names = append(names, f.Name)
		}
		do(s.String(), names)
	}
}
