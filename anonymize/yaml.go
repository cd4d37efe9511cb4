package anonymize

import (
	"errors"
	"fmt"
	"slices"

	"go.yaml.in/yaml/v3"

	"github.com/carrel-project/carrel/internal/closed"
)

// A PolicyError says what is wrong with a policy file, and where.
type PolicyError struct {
	Line, Column int    // from 1
	Key          string // the key or word at fault, as far as there is one
	Message      string
}

// Error returns one line that begins with the place.
func (e *PolicyError) Error() string {
	return fmt.Sprintf("line %d, column %d: %s", e.Line, e.Column, e.Message)
}

// public makes an error of the reader one of this package.
func public(err error) error {
	if e := (*closed.Error)(nil); errors.As(err, &e) {
		return (*PolicyError)(e)
	}
	return err
}

// words reads a list of texts, or a single one.
func words(into *[]string, what string) func(*yaml.Node) error {
	return func(n *yaml.Node) error {
		items := []*yaml.Node{n}
		if n.Kind == yaml.SequenceNode {
			if items = n.Content; len(items) == 0 {
				return closed.Fault(n, "", "%s is an empty list", what)
			}
		}
		list := make([]string, 0, len(items))
		for _, item := range items {
			s, err := closed.Scalar(item, what)
			if err != nil {
				return err
			}
			list = append(list, s)
		}
		*into = list
		return nil
	}
}

// choice reads one of a closed set of words and hands over its index.
func choice(into func(int), what string, known ...string) func(*yaml.Node) error {
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

// each reads a list with one function per element.
func each(n *yaml.Node, what string, read func(*yaml.Node) error) error {
	if n.Kind != yaml.SequenceNode {
		return closed.Fault(n, "", "%s must be a list", what)
	}
	for _, item := range n.Content {
		if err := read(item); err != nil {
			return err
		}
	}
	return nil
}
