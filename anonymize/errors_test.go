package anonymize_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/anonymize"
)

// Each broken policy marks with « » where its error must point: the key, or the value when only that
// is wrong. Where both may be meant, both are marked. The error's Key must be one of the marked words.
func TestPolicyErrors(t *testing.T) {
	head := "carrel-retention: 1\nid: broken\nrevision: 1\n"
	rule := func(s string) string { return head + "records:\n  loans:\n    - " + s + "\n" }
	for _, c := range []struct {
		name, text string
		says       string // a word that the message must have: the suggestion, or what is wrong
	}{
		{"unknown key of a rule", rule("{name: a, «grup»: [ug], after: P1D}"), "group"},
		{"unknown key with an underscore", rule("{name: a, «keep_lost»: 5, after: P1D}"), "keep-last"},
		{"unknown key at the top", head + "«recods»:\n  loans: [{name: a, after: P1D}]\n", "records"},
		{"unknown key of the clock", head + "clock: {zone: UTC, «day-end»: \"03:00\"}\nrecords: {loans: [{name: a, after: P1D}]}\n", "day-ends"},
		{"unknown key of patron-may", head + "patron-may: {«shorten»: P1D}\nrecords: {loans: [{name: a, after: P1D}]}\n", "shorten-to"},
		{"unknown key of a hold", head + "holds: [{ref: a, «items»: [i1]}]\nrecords: {loans: [{name: a, after: P1D}]}\n", "item"},
		{"unknown kind", head + "records:\n  «laons»: [{name: a, after: P1D}]\n", "loans"},
		{"a kind in the singular", head + "records:\n  «loan»: [{name: a, after: P1D}]\n", "loans"},
		{"unknown match", head + "«match»: «shortes»\nrecords: {loans: [{name: a, after: P1D}]}\n", "shortest"},
		{"unknown default", head + "«default»: «unlnk»\nrecords: {loans: [{name: a, after: P1D}]}\n", "unlink"},
		{"unknown since", rule("{name: a, after: P1D, «since»: «end»}"), "ended"},
		{"unknown fee word", rule("{name: a, after: P1D, «fee»: «hat»}"), "had"},
		{"unknown per", rule("{name: a, after: P1D, keep-last: 2, «per»: «patrons»}"), "patron"},

		{"a period without a unit", rule("{name: a, «after»: «30»}"), ""},
		{"a period in words", rule("{name: a, «after»: «30 days»}"), "P90D"},
		{"a period without P", rule("{name: a, «after»: «30D»}"), ""},
		{"an unknown unit", rule("{name: a, «after»: «P30X»}"), ""},
		{"zero", rule("{name: a, «after»: «P0D»}"), "at once"},
		{"zero, in parts", rule("{name: a, «after»: «P0Y0DT0H»}"), "at once"},
		{"negative", rule("{name: a, «after»: «-P30D»}"), ""},
		{"negative inside", rule("{name: a, «after»: «P-30D»}"), ""},
		{"fractional", rule("{name: a, «after»: «P1.5Y»}"), ""},
		{"fractional with a comma", rule("{name: a, «after»: «\"P1,5Y\"»}"), ""},
		{"empty period", rule("{name: a, «after»: «P»}"), ""},
		{"empty time part", rule("{name: a, «after»: «P1DT»}"), ""},
		{"units out of order", rule("{name: a, «after»: «P1D1M»}"), ""},
		{"at once misspelled", rule("{name: a, «after»: «at-once»}"), "at once"},
		{"never misspelled", rule("{name: a, «after»: «nevr»}"), "never"},
		{"extend-to misspelled", head + "patron-may: {«extend-to»: «for ever»}\nrecords: {loans: [{name: a, after: P1D}]}\n", "forever"},
		{"shorten-to zero", head + "patron-may: {«shorten-to»: «P0D»}\nrecords: {loans: [{name: a, after: P1D}]}\n", "at once"},
		{"patron-expired without unit", rule("{name: a, «patron-expired»: «3», after: P1D}"), ""},
		{"after is missing", rule("«{name: a»}"), "after"},

		{"the same key twice in a rule", rule("{name: a, after: P1D, «after»: P2D}"), ""},
		{"the same key twice at the top", head + "«revision»: 2\nrecords: {loans: [{name: a, after: P1D}]}\n", ""},
		{"the same kind twice", head + "records:\n  loans: [{name: a, after: P1D}]\n  «loans»: [{name: b, after: P1D}]\n", ""},
		{"no id", "«carrel-retention»: 1\nrevision: 1\nrecords: {loans: [{name: a, after: P1D}]}\n", "id"},
		{"no records", "«carrel-retention»: 1\nid: a\nrevision: 1\n", "records"},
		{"no version", "«id»: a\nrevision: 1\nrecords: {loans: [{name: a, after: P1D}]}\n", "carrel-retention"},
		{"version 2", "«carrel-retention»: «2»\nid: a\nrevision: 1\nrecords: {loans: [{name: a, after: P1D}]}\n", "1"},
		{"a reserved name: default", rule("{«name»: «default», after: P1D}"), "reserved"},
		{"a reserved name: patron-wish", rule("{«name»: «patron-wish», after: P1D}"), "reserved"},
		{"a reserved name further down", head + "records:\n  loans:\n    - after: P1D\n      «name»: «default»\n", "reserved"},
		{"the same name twice, further down", head + "records:\n  loans:\n    - {name: a, after: P1D}\n    - after: P2D\n      «name»: «a»\n", "a"},
		{"a test of an unknown kind, further down", head + "records: {loans: [{name: a, after: P30D}]}\ntests:\n  - name: one\n    record:\n      ended: 2026-10-01\n      «kind»: «lone»\n    on: 2026-10-02\n    want: keep\n", "loan"},
		{"a test that fails on by, further down", head + "records: {loans: [{name: a, after: P30D}]}\ntests:\n  - name: one\n    record: {kind: loan, ended: 2026-10-01}\n    on: 2026-11-02\n    want: unlink\n    «by»: «b»\n", "b"},
		{"the same name twice", head + "records:\n  loans:\n    - {name: a, after: P1D}\n    - {«name»: «a», after: P2D}\n", "a"},
		{"no name", rule("«{after: P1D»}"), "name"},

		{"per item without at-most", rule("{name: a, after: P1D, keep-last: 2, «per»: «item»}"), "at-most"},
		{"at-most shorter than after", rule("{name: a, after: P90D, keep-last: 2, per: patron, «at-most»: «P30D»}"), ""},
		{"at-most shorter than after, other units", rule("{name: a, after: P3Y, keep-last: 2, per: patron, «at-most»: «P24M»}"), ""},
		{"at-most without keep-last", rule("{name: a, after: P90D, «at-most»: «P1Y»}"), "keep-last"},
		{"per without keep-last", rule("{name: a, after: P90D, «per»: «patron»}"), "keep-last"},
		{"keep-last zero", rule("{name: a, after: P90D, «keep-last»: «0», per: patron}"), ""},
		{"keep-last negative", rule("{name: a, after: P90D, «keep-last»: «-1», per: patron}"), ""},
		{"keep-last in words", rule("{name: a, after: P90D, «keep-last»: «five», per: patron}"), ""},
		{"fee-closed without fee: had", rule("{name: a, after: P1D, «since»: «fee-closed»}"), "had"},
		{"fee-closed with fee: none", rule("{name: a, fee: none, after: P1D, «since»: «fee-closed»}"), "had"},

		{"unknown zone", head + "clock: {«zone»: «Europe/Stokholm»}\nrecords: {loans: [{name: a, after: P1D}]}\n", ""},
		{"the zone of the machine", head + "clock: {«zone»: «Local»}\nrecords: {loans: [{name: a, after: P1D}]}\n", ""},
		{"day-ends at 24:00", head + "clock: {«day-ends»: «\"24:00\"»}\nrecords: {loans: [{name: a, after: P1D}]}\n", ""},
		{"day-ends at 3", head + "clock: {«day-ends»: «\"3\"»}\nrecords: {loans: [{name: a, after: P1D}]}\n", ""},
		{"a day that is not", head + "«effective»: «2026-02-30»\nrecords: {loans: [{name: a, after: P1D}]}\n", ""},
		{"a hold until no day", head + "holds: [{ref: a, item: [i1], «until»: «2027-13-01»}]\nrecords: {loans: [{name: a, after: P1D}]}\n", ""},
		{"a hold on nothing", head + "holds: [«{ref: a»}]\nrecords: {loans: [{name: a, after: P1D}]}\n", "item"},
		{"revision in words", "carrel-retention: 1\nid: a\n«revision»: «two»\nrecords: {loans: [{name: a, after: P1D}]}\n", ""},

		{"keep-fields of notices", head + "records: {loans: [{name: a, after: P1D}]}\nkeep-fields:\n  «notices»: {library: keep}\n", ""},
		{"keep-fields: a field that is not", head + "records: {loans: [{name: a, after: P1D}]}\nkeep-fields:\n  loans: {«retured»: month}\n", "returned"},
		{"keep-fields: another kind's field", head + "records: {loans: [{name: a, after: P1D}]}\nkeep-fields:\n  loans: {«requested»: month}\n", ""},
		{"keep-fields: an identifying field", head + "records: {loans: [{name: a, after: P1D}]}\nkeep-fields:\n  loans: {«borrower»: keep}\n", ""},
		{"keep-fields: an unknown word", head + "records: {loans: [{name: a, after: P1D}]}\nkeep-fields:\n  loans: {«returned»: «weekly»}\n", ""},
		{"keep-fields: a date's word misspelled", head + "records: {loans: [{name: a, after: P1D}]}\nkeep-fields:\n  loans: {«returned»: «mont»}\n", "month"},
		{"keep-fields: set is for groups", head + "records: {loans: [{name: a, after: P1D}]}\nkeep-fields:\n  loans: {«library»: «set»}\n", "keep"},

		{"a test that fails", head + "records: {loans: [{name: a, after: P30D}]}\ntests:\n  - {«name: one», record: {kind: loan, ended: 2026-10-01}, on: 2026-10-02, «want»: «unlink»}\n", "one"},
		{"a test that fails on by", head + "records: {loans: [{name: a, after: P30D}]}\ntests:\n  - {«name: one», record: {kind: loan, ended: 2026-10-01}, on: 2026-11-02, want: unlink, «by»: «b»}\n", ""},
		{"a test with an unknown field", head + "records: {loans: [{name: a, after: P30D}]}\ntests:\n  - {name: one, record: {kind: loan, «endet»: 2026-10-01}, on: 2026-10-02, want: keep}\n", "ended"},
		{"a test of an unknown kind", head + "records: {loans: [{name: a, after: P30D}]}\ntests:\n  - {name: one, record: {«kind»: «lone»}, on: 2026-10-02, want: keep}\n", "loan"},
		{"a test that wants nonsense", head + "records: {loans: [{name: a, after: P30D}]}\ntests:\n  - {name: one, record: {kind: loan}, on: 2026-10-02, «want»: «kept»}\n", "keep"},
		{"a test without a date", head + "records: {loans: [{name: a, after: P30D}]}\ntests:\n  - «{name: one», record: {kind: loan}, want: keep}\n", "on"},

		{"a second document", head + "records: {loans: [{name: a, after: P1D}]}\n«---»\n«carrel-retention»: 1\n", ""},
		{"an alias", head + "groups: {a: «&x [ug]», b: *«x»}\nrecords: {loans: [{name: a, after: P1D}]}\n", ""},
		{"a merge key", head + "records: {loans: [«&x {name: a, after: P1D»}, {«<<»: *«x», name: b}]}\n", ""},
		{"rules that are no list", head + "records:\n  «loans»: «{name: a, after: P1D»}\n", ""},
		{"a list that is no list", rule("{name: a, «group»: «{ug: grad}», after: P1D}"), ""},
		{"not a mapping", "«- 1»\n", ""},
		{"a tab", head + "records:\n«\t»loans: []\n", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			text, marks, words := unmark(c.text)
			_, err := anonymize.ParsePolicy([]byte(text))
			require.Error(t, err)
			var pe *anonymize.PolicyError
			require.True(t, errors.As(err, &pe), "%T", err)
			require.Contains(t, marks, [2]int{pe.Line, pe.Column}, "%s", err)
			if c.says != "" {
				require.Contains(t, err.Error(), c.says)
			}
			if pe.Key != "" {
				require.Contains(t, append(words, c.says), pe.Key, "%s", err) // or the key that is missing
			}
		})
	}
}

// unmark takes the marks away and returns the positions and the words that they marked.
func unmark(s string) (text string, marks [][2]int, words []string) {
	var b strings.Builder
	line, column := 1, 1
	var open []int
	for _, c := range s {
		switch c {
		case '«':
			marks = append(marks, [2]int{line, column})
			open = append(open, b.Len())
			continue
		case '»':
			words = append(words, strings.Trim(b.String()[open[len(open)-1]:], `"`))
			open = open[:len(open)-1]
			continue
		case '\n':
			line, column = line+1, 0
		}
		column++
		b.WriteRune(c)
	}
	return b.String(), marks, words
}

// Words that are close, but right.
func TestPolicyAccepts(t *testing.T) {
	head := "carrel-retention: 1\nid: fine\nrevision: 1\n"
	for name, text := range map[string]string{
		"one kind":               "records: {loans: [{name: a, after: P1D}]}\n",
		"the same name, 2 kinds": "records: {loans: [{name: a, after: P1D}], fees: [{name: a, after: P1D}]}\n",
		"at-most as long":        "records: {loans: [{name: a, after: P30D, keep-last: 1, per: item, at-most: P30D}]}\n",
		"an effective date":      "effective: 2026-10-01\nrecords: {loans: [{name: a, after: P1D}]}\n",
		"a literal group":        "records: {loans: [{name: a, group: [nowhere-defined], after: P1D}]}\n",
		"hyphens in tests": "records: {loans: [{name: a, after: P30D, keep-last: 5, per: patron}]}\ntests:\n" +
			"  - {name: one, record: {kind: loan, ended: 2026-10-01, newer-by-borrower: 5}, on: 2026-11-01, want: unlink, by: a}\n" +
			"  - {name: two, record: {kind: loan, ended: 2026-10-01, newer_by_borrower: 5}, on: 2026-11-01, want: unlink, by: a}\n",
		"by an exception": "records: {loans: [{name: a, after: P30D}]}\ntests:\n" +
			"  - {name: one, record: {kind: loan, ended: 2026-10-01, lost: true}, on: 2027-11-01, want: keep, by: lost}\n",
	} {
		_, err := anonymize.ParsePolicy([]byte(head + text))
		require.NoError(t, err, name)
	}
}
