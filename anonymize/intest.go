package anonymize

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/internal/closed"
)

// runTests runs the tests of a policy file and returns the first that fails.
func (p *Policy) runTests(n *yaml.Node) error {
	parser := circulation.NewRecordParser(p.Zone())
	return each(n, "tests", func(n *yaml.Node) error {
		var name, by string
		var want int
		var r circulation.Record
		var at time.Time
		err := closed.Mapping(n, "a test", []closed.Field{
			{"name", closed.Text(&name, "name")},
			{"record", func(n *yaml.Node) error { return p.testRecord(n, parser, &r) }},
			{"on", func(n *yaml.Node) error {
				s, err := closed.Scalar(n, "on")
				if err != nil {
					return err
				}
				if at, err = circulation.Times(p.Zone())(s); err != nil {
					return closed.Fault(n, s, "on must be a date or a time like 2026-11-01 or 2026-11-01T09:30:00Z")
				}
				return nil
			}},
			{"want", choice(func(i int) { want = i + 1 }, "want", "unlink", "keep")},
			{"by", closed.Text(&by, "by")},
		})
		switch {
		case err != nil:
			return err
		case r.Kind == 0:
			return closed.Fault(n, "record", "a test needs a record")
		case at.IsZero():
			return closed.Fault(n, "on", "a test needs a date: on")
		case want == 0:
			return closed.Fault(n, "want", "a test says what it wants: unlink or keep")
		}
		d := p.Decide(&r, at)
		switch {
		case d.Unlink != (want == 1):
			return closed.Fault(closed.Value(n, "want"), name, "test %q fails: the policy says %s", name, d.explain())
		case by != "" && by != d.Rule && !slices.Contains(d.Reasons.Names(), by):
			return closed.Fault(closed.Value(n, "by"), by, "test %q fails: it wants this by %q, but the policy says %s", name, by, d.explain())
		}
		return nil
	})
}

// explain puts a decision into words.
func (d Decision) explain() string {
	s := "keep"
	if d.Unlink {
		s = "unlink"
	}
	if d.Rule != "" {
		s += fmt.Sprintf(", by %q", d.Rule)
	}
	if d.Reasons != 0 {
		s += ", because of " + strings.Join(d.Reasons.Names(), ", ")
	}
	if !d.EligibleAt.IsZero() {
		s += ", eligible at " + d.EligibleAt.Format(time.RFC3339)
	}
	return s
}

// testRecord reads a record with the keys of the JSON Lines format. The borrower defaults to somebody, the id
// to a stand-in, and a given end implies that the record has ended.
func (p *Policy) testRecord(n *yaml.Node, parser *circulation.RecordParser, r *circulation.Record) error {
	if n.Kind != yaml.MappingNode {
		return closed.Fault(n, "", "record must be a mapping")
	}
	known := circulation.RecordKeys()
	values := map[string]any{"borrower": "somebody", "id": "test"}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		word := strings.ReplaceAll(key.Value, "-", "_")
		if !slices.Contains(known, word) {
			return closed.Fault(key, key.Value, "unknown key %q in record%s", key.Value, closed.Hint(word, known))
		}
		v, err := testValue(word, n.Content[i+1])
		if err != nil {
			return err
		}
		values[word] = v
	}
	if values["ended"] != nil && values["status"] == nil {
		values["status"] = "ended"
	}
	line, err := json.Marshal(values)
	if err == nil {
		err = parser.Parse(line, r)
	}
	if err != nil {
		key, _, _ := strings.Cut(err.Error(), ":") // the parser's errors begin with the key, as JSON spells it
		at := closed.Value(n, key)
		if at == n {
			at = closed.Value(n, strings.ReplaceAll(key, "_", "-"))
		}
		return closed.Fault(at, key, "record: %s", err)
	}
	return nil
}

// testValue turns a YAML value into what JSON has for it, given the key it stands under. Only a few keys
// are not text; a shelf mark that looks like a number stays the text it is.
func testValue(key string, n *yaml.Node) (any, error) {
	switch n.Kind {
	case yaml.SequenceNode:
		list := make([]any, 0, len(n.Content))
		for _, c := range n.Content {
			v, err := testValue(key, c)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		return list, nil
	case yaml.MappingNode:
		m := map[string]any{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			v, err := testValue(n.Content[i].Value, n.Content[i+1])
			if err != nil {
				return nil, err
			}
			m[n.Content[i].Value] = v
		}
		return m, nil
	}
	var flag bool
	var number int
	switch {
	case n.Tag == "!!null":
		return nil, nil
	case n.Tag == "!!bool" && n.Decode(&flag) == nil && slices.Contains([]string{"lost", "claimed_returned", "hold"}, key):
		return flag, nil
	case n.Tag == "!!int" && n.Decode(&number) == nil && strings.HasPrefix(key, "newer_"):
		return number, nil
	}
	return n.Value, nil
}
