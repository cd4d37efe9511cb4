// Package closed reads YAML files whose vocabulary is closed: every key and word is known, and what is not is an error that names
// line, column and the nearest known word. Anchors, aliases and tags are refused: such files are read by people, who must find
// what a line means where it stands.
package closed

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

	"github.com/carrel-project/carrel/internal/nearest"
)

// An Error says what is wrong with a file, and where.
type Error struct {
	Line, Column int    // from 1
	Key          string // the key or word at fault, as far as there is one
	Message      string
}

// Error returns one line that begins with the place.
func (e *Error) Error() string {
	return fmt.Sprintf("line %d, column %d: %s", e.Line, e.Column, e.Message)
}

// Fault makes the error for a node.
func Fault(n *yaml.Node, key, format string, args ...any) error {
	return &Error{Line: max(n.Line, 1), Column: max(n.Column, 1), Key: key, Message: fmt.Sprintf(format, args...)}
}

// Parse returns the one mapping that a file consists of. A file is called what it is ("policy") in messages, and whoFills says where
// an empty one gets its contents.
func Parse(data []byte, what, whoFills string) (*yaml.Node, error) {
	start := &yaml.Node{Line: 1, Column: 1}
	if i := firstInvalid(data); i >= 0 {
		start.Line = 1 + bytes.Count(data[:i], []byte("\n"))
		return nil, Fault(start, "", "the file is not UTF-8 here")
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, second yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, Fault(start, "", "the %s is empty%s", what, whoFills)
	} else if err != nil {
		return nil, syntaxFault(data, err)
	}
	if err := dec.Decode(&second); err == nil {
		return nil, Fault(&second, "", "a second document begins here; %s is one YAML document", article(what))
	} else if !errors.Is(err, io.EOF) {
		return nil, syntaxFault(data, err)
	}
	if len(doc.Content) != 1 {
		return nil, Fault(start, "", "the %s is empty%s", what, whoFills)
	}
	root := doc.Content[0]
	return root, plain(root, plural(what), 0)
}

func article(what string) string {
	if strings.HasPrefix(what, "a") {
		return "an " + what
	}
	return "a " + what
}

func plural(what string) string {
	if stem, ok := strings.CutSuffix(what, "y"); ok {
		return stem + "ies"
	}
	return what + "s"
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
	return Fault(n, "", "not valid YAML: %s", m[2])
}

// plain refuses what these files do not need, and nesting that only an attacker needs.
func plain(n *yaml.Node, files string, depth int) error {
	switch {
	case n.Kind == yaml.AliasNode:
		return Fault(n, n.Value, "aliases are not used in %s; write it out", files)
	case n.Anchor != "":
		return Fault(n, n.Anchor, "anchors are not used in %s; write it out", files)
	case n.Style&yaml.TaggedStyle != 0:
		return Fault(n, n.Tag, "tags are not used in %s; write the plain value", files)
	case depth > 20:
		return Fault(n, "", "nested too deeply")
	}
	for _, c := range n.Content {
		if err := plain(c, files, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// A Field is a key that a mapping may have, and how its value is read.
type Field = struct { // an alias, so that a table of them may be written without the names
	Key  string
	Read func(*yaml.Node) error
}

// Mapping reads a mapping with a closed set of keys, in the order in which the fields are listed, so that
// a field may rely on the ones before it.
func Mapping(n *yaml.Node, what string, fields []Field) error {
	if n.Kind != yaml.MappingNode {
		return Fault(n, "", "%s must be a mapping of keys to values", what)
	}
	known := make([]string, len(fields))
	for i, f := range fields {
		known[i] = f.Key
	}
	values := map[string]*yaml.Node{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		if key.Kind != yaml.ScalarNode || !slices.Contains(known, key.Value) {
			return Fault(key, key.Value, "unknown key %q in %s%s", key.Value, what, Hint(key.Value, known))
		}
		if values[key.Value] != nil {
			return Fault(key, key.Value, "%q stands twice in %s", key.Value, what)
		}
		values[key.Value] = n.Content[i+1]
	}
	for _, f := range fields {
		if v := values[f.Key]; v != nil {
			if err := f.Read(v); err != nil {
				return err
			}
		}
	}
	return nil
}

// Hint names the nearest known word, or all of them when they are few.
func Hint(s string, known []string) string {
	if h := nearest.Hint(s, known); h != "" {
		return h
	}
	if len(known) > 0 && len(known) <= 16 {
		return "; known are " + strings.Join(known, ", ")
	}
	return ""
}

// Value returns the value of a key of a mapping, or the mapping if it has none.
func Value(n *yaml.Node, key string) *yaml.Node {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return n
}

// Scalar returns the text of a plain value. A value that is only a key and a colon is an error.
func Scalar(n *yaml.Node, what string) (string, error) {
	if n.Kind != yaml.ScalarNode {
		return "", Fault(n, "", "%s must be a single value", what)
	}
	if n.Tag == "!!null" || n.Value == "" {
		return "", Fault(n, "", "%s has no value", what)
	}
	return n.Value, nil
}

// Text reads a plain value.
func Text(into *string, what string) func(*yaml.Node) error {
	return func(n *yaml.Node) (err error) {
		*into, err = Scalar(n, what)
		return err
	}
}

// Count reads a whole number of at least 1.
func Count(into *int, what string) func(*yaml.Node) error {
	return func(n *yaml.Node) error {
		s, err := Scalar(n, what)
		if err != nil {
			return err
		}
		v, convErr := strconv.Atoi(s)
		if convErr != nil || v < 1 || v > 1e9 {
			return Fault(n, s, "%s must be a whole number of at least 1", what)
		}
		*into = v
		return nil
	}
}
