package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/carrel-project/carrel/internal/nearest"
)

// A mapping says where carrel's columns come from when an export has other names for them: kind of file,
// our column, their source. What it does not name is read under its own name.
type mapping map[string]map[string]source

// A source is where the values of one of our columns come from.
type source struct {
	column    string            // their column; empty: the constant otherwise
	is        []string          // when not nil: "yes" if the value is one of these, else "no"
	values    map[string]string // their value: ours
	otherwise *string           // for values that values does not list; nil: they stay as they are
	line      int               // in the map file
}

// read returns our value, given theirs.
func (s *source) read(value func(column string) string) string {
	v := ""
	if s.column != "" {
		v = strings.TrimSpace(value(s.column))
	}
	if s.is != nil {
		if slices.Contains(s.is, v) {
			return "yes"
		}
		return "no"
	}
	if ours, ok := s.values[v]; ok {
		return ours
	}
	if s.otherwise != nil {
		return *s.otherwise
	}
	return v
}

// A mapError names the line of a map file that is wrong.
type mapError struct {
	line    int
	message string
}

func (e *mapError) Error() string { return e.message }

func mapFault(n *yaml.Node, format string, args ...any) error {
	return &mapError{n.Line, fmt.Sprintf(format, args...)}
}

// parseMapping reads a map file. Its vocabulary is closed: a misspelt key would leave a column empty in silence.
func parseMapping(data []byte) (mapping, error) {
	var doc yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(data))
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) || err == nil && len(doc.Content) != 1 {
		return nil, &mapError{1, "the map is empty; want a kind of file, such as loans, and under it our column: their column"}
	} else if err != nil {
		return nil, &mapError{0, strings.TrimPrefix(err.Error(), "yaml: ")}
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, &mapError{0, "the map is one YAML document; something follows it"}
	}
	m := mapping{}
	kinds := fileKinds()
	versioned := false
	err := eachKey(doc.Content[0], "the map", func(key, value *yaml.Node) error {
		if key.Value == "carrel-map" {
			if value.Value != "1" {
				return mapFault(value, "carrel-map: this carrel reads version 1")
			}
			versioned = true
			return nil
		}
		i := slices.IndexFunc(kinds, func(k fileKind) bool { return k.name == key.Value })
		if i < 0 {
			known := []string{"carrel-map"}
			for _, k := range kinds {
				known = append(known, k.name)
			}
			return mapFault(key, "unknown key %q%s", key.Value, nearest.Hint(key.Value, known))
		}
		m[key.Value] = map[string]source{}
		return eachKey(value, key.Value, func(column, from *yaml.Node) error {
			if !slices.Contains(kinds[i].columns, column.Value) {
				return mapFault(column, "%s have no column %q%s", key.Value, column.Value, nearest.Hint(column.Value, kinds[i].columns))
			}
			s, err := parseSource(from)
			s.line = column.Line
			m[key.Value][column.Value] = s
			return err
		})
	})
	if err == nil && !versioned {
		err = &mapError{1, "carrel-map: 1 is missing; it is the version of the format"}
	}
	return m, err
}

// parseSource reads what stands for one of our columns: their column, nothing (~), or a mapping with
// column, is, values, otherwise and constant.
func parseSource(n *yaml.Node) (s source, err error) {
	empty := ""
	switch {
	case n.Kind == yaml.ScalarNode && (n.Tag == "!!null" || n.Value == ""):
		s.otherwise = &empty
		return s, nil
	case n.Kind == yaml.ScalarNode:
		s.column = n.Value
		return s, nil
	}
	err = eachKey(n, "a source", func(key, value *yaml.Node) error {
		switch key.Value {
		case "column":
			s.column, err = word(value, "column")
		case "constant":
			var v string
			v, err = word(value, "constant")
			s.otherwise = &v
		case "otherwise":
			var v string
			v, err = word(value, "otherwise")
			s.otherwise = &v
		case "is":
			list := value.Content
			if value.Kind == yaml.ScalarNode {
				list = []*yaml.Node{value}
			}
			s.is = []string{}
			for _, item := range list {
				var v string
				if v, err = word(item, "is"); err != nil {
					return err
				}
				s.is = append(s.is, v)
			}
		case "values":
			s.values = map[string]string{}
			return eachKey(value, "values", func(theirs, ours *yaml.Node) error {
				v, err := word(ours, "values")
				s.values[theirs.Value] = v
				return err
			})
		default:
			return mapFault(key, "unknown key %q%s", key.Value, nearest.Hint(key.Value, []string{"column", "is", "values", "otherwise", "constant"}))
		}
		return err
	})
	if err != nil {
		return s, err
	}
	has := map[string]bool{}
	for i := 0; i < len(n.Content); i += 2 {
		has[n.Content[i].Value] = true
	}
	switch {
	case has["constant"] && len(has) > 1:
		return s, mapFault(n, "constant stands alone")
	case !has["constant"] && s.column == "":
		return s, mapFault(n, "want column: and the name of their column, or constant: and a value")
	case has["is"] && (has["values"] || has["otherwise"]):
		return s, mapFault(n, "is gives yes or no and goes with column only")
	case has["is"] && len(s.is) == 0:
		return s, mapFault(n, "is lists no value")
	}
	return s, nil
}

// eachKey goes through a YAML mapping without repeated keys.
func eachKey(n *yaml.Node, what string, do func(key, value *yaml.Node) error) error {
	if n.Kind != yaml.MappingNode {
		return mapFault(n, "%s must be a mapping of keys to values", what)
	}
	seen := map[string]bool{}
	for i := 0; i < len(n.Content); i += 2 {
		key := n.Content[i]
		if key.Kind != yaml.ScalarNode {
			return mapFault(key, "want a plain word as key")
		}
		if seen[key.Value] {
			return mapFault(key, "key %q appears twice", key.Value)
		}
		seen[key.Value] = true
		if err := do(key, n.Content[i+1]); err != nil {
			return err
		}
	}
	return nil
}

func word(n *yaml.Node, key string) (string, error) {
	if n.Kind != yaml.ScalarNode {
		return "", mapFault(n, "%s: want a plain value", key)
	}
	if n.Tag == "!!null" {
		return "", nil
	}
	return n.Value, nil
}
