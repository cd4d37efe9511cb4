package access

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// An Error says what is wrong with an access file, and where. It repeats words of the file, which name no
// person.
type Error struct {
	Line, Column int    // from 1
	Key          string // the key or word at fault, as far as there is one
	Message      string
}

// Error returns one line that begins with the place.
func (e *Error) Error() string {
	return fmt.Sprintf("line %d, column %d: %s", e.Line, e.Column, e.Message)
}

// fault makes the error for a node.
func fault(n *yaml.Node, key, format string, args ...any) error {
	return &Error{Line: max(n.Line, 1), Column: max(n.Column, 1), Key: key, Message: fmt.Sprintf(format, args...)}
}

// parseYAML returns the one mapping that an access file consists of. Anchors, aliases, tags and merge keys
// are refused: what a role may see must be readable where it stands.
func parseYAML(data []byte) (*yaml.Node, error) {
	start := &yaml.Node{Line: 1, Column: 1}
	if i := firstInvalid(data); i >= 0 {
		start.Line = 1 + bytes.Count(data[:i], []byte("\n"))
		return nil, fault(start, "", "the file is not UTF-8 here")
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, second yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, fault(start, "", "the access file is empty")
	} else if err != nil {
		return nil, syntaxFault(data, err)
	}
	if err := dec.Decode(&second); err == nil {
		return nil, fault(&second, "", "a second document begins here; an access file is one YAML document")
	} else if !errors.Is(err, io.EOF) {
		return nil, syntaxFault(data, err)
	}
	if len(doc.Content) != 1 {
		return nil, fault(start, "", "the access file is empty")
	}
	root := doc.Content[0]
	return root, plain(root, 0)
}

func firstInvalid(data []byte) int {
	for i := 0; i < len(data); {
		r, n := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && n == 1 {
			return i
		}
		i += n
	}
	return -1
}

var yamlLine = regexp.MustCompile(`^(?:yaml: )?(?:line (\d+): )?(.*)$`)

// countedFromZero holds the messages of the YAML library's parser, which counts lines from 0 where its
// scanner counts from 1.
var countedFromZero = [...]string{
	"did not find expected key", "did not find expected '-' indicator", "did not find expected node content",
	"did not find expected ',' or ']'", "did not find expected ',' or '}'", "did not find expected <document start>",
}

// syntaxFault turns the YAML library's error into ours. Where it names no line, the error is about the
// file as a whole or about a word that we can look for.
func syntaxFault(data []byte, err error) error {
	message, _, _ := strings.Cut(err.Error(), "\n")
	m := yamlLine.FindStringSubmatch(message)
	n := &yaml.Node{Line: 1, Column: 1}
	if line, convErr := strconv.Atoi(m[1]); convErr == nil {
		if slices.Contains(countedFromZero[:], m[2]) {
			line++
		}
		n.Line = min(max(line, 1), 1+bytes.Count(data, []byte("\n")))
	} else if i := bytes.IndexFunc(data, func(r rune) bool { return r < ' ' && r != '\n' && r != '\r' && r != '\t' }); i >= 0 {
		n.Line = 1 + bytes.Count(data[:i], []byte("\n"))
	} else if i := bytes.IndexByte(data, '*'); i >= 0 && strings.Contains(message, "anchor") {
		n.Line = 1 + bytes.Count(data[:i], []byte("\n"))
	}
	return fault(n, "", "not valid YAML: %s", m[2])
}

// plain refuses what an access file does not need, and nesting that only an attacker needs.
func plain(n *yaml.Node, depth int) error {
	switch {
	case n.Kind == yaml.AliasNode:
		return fault(n, n.Value, "aliases are not used in access files; write it out")
	case n.Anchor != "":
		return fault(n, n.Anchor, "anchors are not used in access files; write it out")
	case n.Style&yaml.TaggedStyle != 0:
		return fault(n, n.Tag, "tags are not used in access files; write the plain value")
	case depth > 20:
		return fault(n, "", "nested too deeply")
	}
	for _, c := range n.Content {
		if err := plain(c, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// A field is a key that a mapping may have, and how its value is read.
type field struct {
	key  string
	read func(*yaml.Node) error
}

// mapping reads a mapping with a closed set of keys, in the order in which the fields are listed, so that
// a field may rely on the ones before it.
func mapping(n *yaml.Node, what string, fields []field) error {
	if n.Kind != yaml.MappingNode {
		return fault(n, "", "%s must be a mapping of keys to values", what)
	}
	known := make([]string, len(fields))
	for i, f := range fields {
		known[i] = f.key
	}
	values := map[string]*yaml.Node{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		if key.Kind != yaml.ScalarNode || !slices.Contains(known, key.Value) {
			return fault(key, key.Value, "unknown key %q in %s%s", key.Value, what, hint(key.Value, known))
		}
		if values[key.Value] != nil {
			return fault(key, key.Value, "%q stands twice in %s", key.Value, what)
		}
		values[key.Value] = n.Content[i+1]
	}
	for _, f := range fields {
		if v := values[f.key]; v != nil {
			if err := f.read(v); err != nil {
				return err
			}
		}
	}
	return nil
}

// entries reads a mapping whose keys are names that the file itself chooses, in file order. Names are plain
// ASCII words, so that two that look alike are the same, and so that they can stand in a trail.
func entries(n *yaml.Node, what, each string, read func(key, value *yaml.Node) error) error {
	if n.Kind != yaml.MappingNode {
		return fault(n, "", "%s must be a mapping of names", what)
	}
	var seen []string
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		switch {
		case key.Kind != yaml.ScalarNode || !goodName(key.Value):
			return fault(key, key.Value, "%q cannot name %s: a name has 1 to 64 ASCII letters, digits and - _ . : /", key.Value, each)
		case slices.Contains(seen, key.Value):
			return fault(key, key.Value, "%q stands twice in %s", key.Value, what)
		}
		seen = append(seen, key.Value)
		if err := read(key, n.Content[i+1]); err != nil {
			return err
		}
	}
	return nil
}

func goodName(s string) bool {
	const good = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:/"
	return s != "" && len(s) <= 64 && strings.Trim(s, good) == ""
}

// value returns the value of a key of a mapping, or the mapping if it has none.
func value(n *yaml.Node, key string) *yaml.Node {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return n
}

// scalar returns the text of a plain value. A value that is only a key and a colon is an error.
func scalar(n *yaml.Node, what string) (string, error) {
	if n.Kind != yaml.ScalarNode {
		return "", fault(n, "", "%s must be a single value", what)
	}
	if n.Tag == "!!null" || n.Value == "" {
		return "", fault(n, "", "%s has no value", what)
	}
	return n.Value, nil
}

func text(into *string, what string) func(*yaml.Node) error {
	return func(n *yaml.Node) (err error) {
		*into, err = scalar(n, what)
		return err
	}
}

// count reads a whole number of at least 1.
func count(into *int, what string) func(*yaml.Node) error {
	return func(n *yaml.Node) error {
		s, err := scalar(n, what)
		if err != nil {
			return err
		}
		v, convErr := strconv.Atoi(s)
		if convErr != nil || v < 1 || v > 1e9 {
			return fault(n, s, "%s must be a whole number of at least 1", what)
		}
		*into = v
		return nil
	}
}

// choice reads one of a closed set of words and hands over its index.
func choice(into func(int), what string, known []string) func(*yaml.Node) error {
	return func(n *yaml.Node) error {
		s, err := scalar(n, what)
		if err != nil {
			return err
		}
		i := slices.Index(known, s)
		if i < 0 {
			return fault(n, s, "%s cannot be %q%s", what, s, hint(s, known))
		}
		into(i)
		return nil
	}
}

// words reads a list of words of a closed set and hands over the index of each.
func words(into func(int), what string, known []string, emptyAllowed bool) func(*yaml.Node) error {
	return func(n *yaml.Node) error {
		if n.Kind != yaml.SequenceNode {
			return fault(n, "", "%s must be a list", what)
		}
		if len(n.Content) == 0 && !emptyAllowed {
			return fault(n, "", "%s is an empty list; leave it out", what)
		}
		var seen []int
		for _, item := range n.Content {
			var i int
			if err := choice(func(at int) { i = at }, what, known)(item); err != nil {
				return err
			}
			if slices.Contains(seen, i) {
				return fault(item, item.Value, "%q stands twice in %s", item.Value, what)
			}
			seen = append(seen, i)
			into(i)
		}
		return nil
	}
}
