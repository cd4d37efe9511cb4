package audit

import (
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/crypto"
)

// aboutRecords are the fields of an event that speak of circulation records: their kind and numbers by rule, and nothing by which one could be found.
var aboutRecords = []string{"Kind", "Tally"}

// fieldsOf calls f with every field that a value of the type can hold, however deep.
func fieldsOf(t reflect.Type, path string, seen map[reflect.Type]bool, f func(path string, t reflect.Type)) {
	for t.Kind() == reflect.Slice || t.Kind() == reflect.Array || t.Kind() == reflect.Pointer || t.Kind() == reflect.Map {
		if t.Kind() == reflect.Map {
			fieldsOf(t.Key(), path, seen, f)
		}
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || t == reflect.TypeFor[time.Time]() || t == reflect.TypeFor[crypto.Secret]() || seen[t] {
		return
	}
	seen[t] = true
	for i := range t.NumField() {
		one := t.Field(i)
		f(path+"."+one.Name, one.Type)
		fieldsOf(one.Type, path+"."+one.Name, seen, f)
	}
}

// No event carries both a person and what they borrowed: it has no field for an item or a record at all, and those that speak of records at large are refused
// beside people, for every action and outcome.
func TestNobodyAndWhatTheyBorrowedInOneEvent(t *testing.T) {
	borrowed := regexp.MustCompile(`(?i)item|loan|record|title|barcode|isbn|author|call|copy|holding|request|fee|notice|location|library`)
	for _, root := range []reflect.Type{reflect.TypeFor[Event](), reflect.TypeFor[Login](), reflect.TypeFor[Entry]()} {
		found := 0
		fieldsOf(root, root.Name(), map[reflect.Type]bool{}, func(path string, typ reflect.Type) {
			found++
			name := path[strings.LastIndex(path, ".")+1:]
			require.False(t, borrowed.MatchString(name), path)
			require.NotContains(t, typ.String(), "circulation", path)
			require.NotEqual(t, reflect.Interface, typ.Kind(), "%s may hold anything", path)
		})
		require.Greater(t, found, 4)
	}

	// Every field of Event is one of these; a new one has to be thought about.
	known := []string{"Time", "Action", "Outcome", "Why", "Actor", "Role", "Purpose", "Channel", "Network", "Segments", "Count", "Grant", "Recipient", "Approval", "Object", "Kind",
		"Tally", "Covers", "Before", "Ranges", "Collapsed", "Subjects"}
	typ := reflect.TypeFor[Event]()
	for i := range typ.NumField() {
		require.Contains(t, known, typ.Field(i).Name)
	}
	for _, action := range Actions() {
		for _, outcome := range Outcomes() {
			for _, field := range aboutRecords {
				e := Event{Time: time.Now(), Action: action, Outcome: outcome, Subjects: []Subject{{ID: "p1"}}}
				v := reflect.ValueOf(&e).Elem().FieldByName(field)
				switch v.Kind() {
				case reflect.String:
					v.SetString("loan")
				case reflect.Slice:
					v.Set(reflect.ValueOf([]Tally{{"rule", 1}}))
				}
				require.ErrorIs(t, e.check(), ErrEvent, "%s %s %s", action, outcome, field)
			}
		}
	}
	// The test is one that finds something.
	type leaky struct {
		Subjects []Subject
		Of       struct{ ItemID string }
	}
	hits := 0
	fieldsOf(reflect.TypeFor[leaky](), "leaky", map[reflect.Type]bool{}, func(path string, _ reflect.Type) {
		if borrowed.MatchString(path[strings.LastIndex(path, ".")+1:]) {
			hits++
		}
	})
	require.Equal(t, 1, hits)
	require.True(t, slices.Contains(aboutRecords, "Kind"))
}
