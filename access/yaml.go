package access

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/carrel-project/carrel/internal/closed"
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

// public makes an error of the reader one of this package.
func public(err error) error {
	if e := (*closed.Error)(nil); errors.As(err, &e) {
		return (*Error)(e)
	}
	return err
}

// entries reads a mapping whose keys are names that the file itself chooses, in file order. Names are plain
// ASCII words, so that two that look alike are the same, and so that they can stand in a trail.
func entries(n *yaml.Node, what, each string, read func(key, value *yaml.Node) error) error {
	if n.Kind != yaml.MappingNode {
		return closed.Fault(n, "", "%s must be a mapping of names", what)
	}
	var seen []string
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		switch {
		case key.Kind != yaml.ScalarNode || !goodName(key.Value):
			return closed.Fault(key, key.Value, "%q cannot name %s: a name has 1 to 64 ASCII letters, digits and - _ . : /", key.Value, each)
		case slices.Contains(seen, key.Value):
			return closed.Fault(key, key.Value, "%q stands twice in %s", key.Value, what)
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

// choice reads one of a closed set of words and hands over its index.
func choice(into func(int), what string, known []string) func(*yaml.Node) error {
	return func(n *yaml.Node) error {
		s, err := closed.Scalar(n, what)
		if err != nil {
			return err
		}
		i := slices.Index(known, s)
		if i < 0 {
			return closed.Fault(n, s, "%s cannot be %q%s", what, s, closed.Hint(s, known))
		}
		into(i)
		return nil
	}
}

// words reads a list of words of a closed set and hands over the index of each.
func words(into func(int), what string, known []string, emptyAllowed bool) func(*yaml.Node) error {
	return func(n *yaml.Node) error {
		if n.Kind != yaml.SequenceNode {
			return closed.Fault(n, "", "%s must be a list", what)
		}
		if len(n.Content) == 0 && !emptyAllowed {
			return closed.Fault(n, "", "%s is an empty list; leave it out", what)
		}
		var seen []int
		for _, item := range n.Content {
			var i int
			if err := choice(func(at int) { i = at }, what, known)(item); err != nil {
				return err
			}
			if slices.Contains(seen, i) {
				return closed.Fault(item, item.Value, "%q stands twice in %s", item.Value, what)
			}
			seen = append(seen, i)
			into(i)
		}
		return nil
	}
}
