package rights

import (
	"fmt"
	"io"
	"reflect"
	"strings"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/patron"
)

// An Item is personal data that is held, for the record of processing activities (GDPR article 30). All of them together are made from the declarations in the code: a field that is added next year
// stands in it.
type Item struct {
	Where     string   `json:"where"`  // in which record
	Part      string   `json:"part"`   // of it
	Fields    []string `json:"fields"` // in it
	Purpose   string   `json:"purpose"`
	Retention string   `json:"retention"`
	Sealing   string   `json:"sealing"`
}

// purposes says what the segments of a patron's record and its facts are for.
var purposes = map[string]string{
	"names": "to address the patron and tell people of the same number apart", "addresses": "to send items, notices and bills", "phones": "to reach the patron about loans and holds",
	"emails": "to send notices", "identifiers": "to find the patron at the desk, at machines and at login", "birth": "to tell people of the same name apart, and age limits where the library has them",
	"blocks": "to keep from lending while something is owed", "notes": "what staff have to know to serve the patron", "roles": "which lending rules apply", "campus": "where items are sent",
	"statistics": "counts for reports", "photo": "to recognize the patron at the desk (a link; no picture is kept)",

	"Group": "which lending and retention rules apply", "Categories": "counts for reports", "Library": "the home library, for delivery and counts", "Expires": "until when the account may be used",
	"Wish": "what the patron wants to become of their reading history", "WishSince": "from when on that counts",
}

// Inventory lists the personal data that carrel's stores hold, what for, for how long and how they are sealed. The policy is the library's retention policy; without one circulation records
// are kept until one is there.
func Inventory(policy *anonymize.Policy) (items []Item) {
	const untilErased = "until the patron is erased (on demand, or by a purge of expired accounts)"
	patron.FieldNames(func(segment string, fields []string) {
		items = append(items, Item{"patron record", segment, fields, purposes[segment], untilErased, "sealed under the patron's own key (AES-256-GCM)"})
	})
	facts := reflect.TypeFor[patron.Facts]()
	for i := range facts.NumField() {
		name := facts.Field(i).Name
		items = append(items, Item{"patron record", "facts", []string{word(name)}, purposes[name], untilErased, "plain: rules read it"})
	}
	items = append(items,
		Item{"patron record", "look-up tokens", []string{"identifiers"}, "to find the patron without opening anything, and to keep identifiers unique", untilErased, "one-way, keyed (HMAC-SHA-256, 128 bits)"},
		Item{"patron record", "standing", []string{"restricted", "erasing"}, "that the patron has exercised a right", untilErased, "plain: dates"})
	for _, k := range circulation.Kinds() {
		items = append(items, circulationItems(k, policy)...)
	}
	items = append(items,
		Item{"legal hold", "patron", []string{"borrower", "reference", "until"}, "an order or a dispute that forbids erasing", "until it is released or has run out", "the borrower is a pseudonym"},
		Item{"break-glass grant", "patron", []string{"patron", "actor", "segments", "reason", "reviewer"}, "emergency access, and its review", "until it is removed; the reason dies with the patron's key", "the reason is sealed under the patron's key, the patron is a random number"},
		Item{"login guesses", "account and source", []string{"count", "time"}, "to limit guesses at passwords", "hours: see the lockout profile", "one-way, keyed names"})
	for _, class := range audit.Classes() {
		items = append(items, Item{"audit trail", string(class), []string{"who acted", "when", "what for", "whom it was about", "what changed"}, "to prove who saw and did what, and to find abuse",
			"until events of the class are pruned (carrel log prune)", "whom it is about and what changed is sealed under that patron's key; staff are references"})
	}
	return items
}

// circulationItems are what a kind of records says that identifies, or may single somebody out.
func circulationItems(k circulation.Kind, policy *anonymize.Policy) (items []Item) {
	retention := "not decided: there is no retention policy"
	switch {
	case policy != nil && policy.Covers(k):
		retention = fmt.Sprintf("until policy %s, revision %d, unlinks the record", policy.Ref().ID, policy.Ref().Revision)
	case policy != nil:
		retention = fmt.Sprintf("kept: policy %s has no rules for this kind", policy.Ref().ID)
	}
	of := map[circulation.Class][]string{}
	for _, f := range circulation.Fields(k) {
		of[f.Class] = append(of[f.Class], word(f.Name))
	}
	const purpose = "to get items back, to settle what is owed, and to serve the patron"
	return []Item{
		{k.String(), "what identifies", of[circulation.Identifying], purpose, retention, "persons and texts are pseudonyms of an epoch (AES-SIV) whose key ends with it"},
		{k.String(), "what may single out", of[circulation.Quasi], purpose + "; after unlinking, statistics", "on linked records as above; on others as coarse as the policy's keep-fields say, without end", "plain"},
	}
}

// word writes the name of a Go field as the formats do: WishSince is wish_since.
func word(name string) string {
	var b strings.Builder
	for i, r := range name {
		if r >= 'A' && r <= 'Z' {
			if i > 0 && name[i-1] >= 'a' && name[i-1] <= 'z' {
				b.WriteByte('_')
			}
			r += 'a' - 'A'
		}
		b.WriteRune(r)
	}
	return b.String()
}

// WriteInventory writes an inventory as a table in Markdown.
func WriteInventory(w io.Writer, items []Item) error {
	var b strings.Builder
	b.WriteString("| where | part | fields | purpose | retention | sealing |\n|---|---|---|---|---|---|\n")
	for _, i := range items {
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n", i.Where, i.Part, strings.Join(i.Fields, ", "), i.Purpose, i.Retention, i.Sealing)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
