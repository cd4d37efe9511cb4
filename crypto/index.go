package crypto

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// IndexIdentifier is the one index for all identifiers of a patron, whatever their type: bar code, user name, external
// number, e-mail used as login. Because it is one, an identifier is unique across the types.
const IndexIdentifier = "identifier"

// A Token stands for a value in a blind index: 128 bits of HMAC-SHA-256 under a key of the keyring. Equal values have
// equal tokens, and that is all a token tells without the key.
type Token [16]byte

// A Field is what an index is over.
type Field struct {
	Name       string
	LowEntropy bool // few values, or a few frequent ones: birth date or year, sex, postcode, group
}

// An Index says what is looked up together. The zero value is not usable.
type Index struct {
	name   string
	fields []Field
}

// NewIndex declares an index over one field, or over several together. A field of low entropy by itself, or only in the company of
// others, is refused with [ErrLowEntropy]: how often each token occurs would tell what it stands for. That a
// field has few values is what the caller says, or what its name says (birth, year, sex, gender, postcode, zip, city, group …).
func NewIndex(name string, fields ...Field) (Index, error) {
	if name == "" || len(fields) == 0 {
		return Index{}, errors.New("crypto: an index needs a name and a field")
	}
	for _, f := range fields {
		if !f.LowEntropy && !soundsLow(f.Name) {
			return Index{name, slices.Clone(fields)}, nil
		}
	}
	return Index{}, fmt.Errorf("%w: index %q needs a field with many values beside it", ErrLowEntropy, name)
}

var lowWords = [...]string{"birth", "dob", "year", "age", "sex", "gender", "postcode", "postal", "zip", "zipcode", "city", "town",
	"state", "country", "group", "category", "class", "status", "language", "library", "branch", "expir"}

// soundsLow looks at the words of a name, be they written dateOfBirth, date_of_birth or dateofbirth.
func soundsLow(field string) bool {
	var apart strings.Builder
	for i, r := range field {
		if i > 0 && r >= 'A' && r <= 'Z' && field[i-1] >= 'a' && field[i-1] <= 'z' {
			apart.WriteByte(' ')
		}
		apart.WriteRune(r)
	}
	for word := range strings.FieldsFuncSeq(strings.ToLower(apart.String()), func(r rune) bool { return r < 'a' || r > 'z' }) {
		if slices.ContainsFunc(lowWords[:], func(low string) bool {
			return word == low || len(low) > 3 && (strings.HasPrefix(word, low) || strings.HasSuffix(word, low))
		}) {
			return true
		}
	}
	return false
}

// The life of an index key: a new one is building until every row has its token, and then active, and its predecessor is
// gone. Until then both are written and looked up.
const (
	indexBuilding = "building"
	indexActive   = "active"
)

type indexKey struct {
	Name    string   `json:"name"`
	Fields  []string `json:"fields"`
	Version uint32   `json:"version"`
	Since   uint64   `json:"since"` // the change with which it began to be built
	State   string   `json:"state"`
	Key     []byte   `json:"key"`
}

// Indexes makes tokens. It is a snapshot of the index keys at one moment: whoever stores or looks up tokens hands its
// Change to the store, which refuses one that is out of date, so that nobody goes on with keys of yesterday.
// It is immutable and safe for concurrent use.
type Indexes struct {
	change uint64
	keys   hidden[map[string][]indexKey]
}

func newIndexes(change uint64, list []indexKey) (*Indexes, error) {
	keys := map[string][]indexKey{}
	for _, k := range list {
		if len(k.Key) != keySize || k.Name == "" {
			return nil, errDamaged
		}
		keys[k.Name] = append(keys[k.Name], k)
	}
	return &Indexes{change, hide(keys)}, nil
}

// Indexes returns the index keys as this process knows them.
func (k *Keyring) Indexes() *Indexes { return k.state.Load().indexes }

// RefreshIndexes returns the index keys as the keyring file has them now. Call it when a store has seen a newer change than ours.
func (k *Keyring) RefreshIndexes() (*Indexes, error) {
	s, err := k.refresh(k.state.Load())
	if err != nil {
		return nil, err
	}
	return s.indexes, nil
}

// Change is a number that grows whenever an index is added or rotated.
func (x *Indexes) Change() uint64 { return x.change }

// Has reports whether there is a key for an index.
func (x *Indexes) Has(name string) bool { return len(x.keys()[name]) > 0 }

// Ready reports whether an index is complete: every row in the store has its tokens.
func (x *Indexes) Ready(name string) bool {
	return slices.ContainsFunc(x.keys()[name], func(k indexKey) bool { return k.State == indexActive })
}

// Since returns the change from which on rows have the tokens that are looked up by. A store that has not seen that
// change is older than the keyring: an old backup, whose rows would not be found.
func (x *Indexes) Since() (since uint64) {
	for _, versions := range x.keys() {
		for _, k := range versions {
			if k.State == indexActive {
				since = max(since, k.Since)
			}
		}
	}
	return since
}

// All returns the names of all indexes that there are keys for, and the names of the fields that each is over. So a program that writes
// rows makes the tokens of indexes, too, that another one has added.
func (x *Indexes) All() map[string][]string {
	all := map[string][]string{}
	for name, versions := range x.keys() {
		all[name] = slices.Clone(versions[0].Fields)
	}
	return all
}

// Name returns the name under which the index was declared.
func (x Index) Name() string { return x.name }

func (x Index) fieldNames() (names []string) {
	for _, f := range x.fields {
		names = append(names, f.Name)
	}
	return names
}

// Tokens returns the tokens of a value: the one to look up by first, then those of other versions while the index is being
// rotated. Write all of them and look for any of them. The value has one part for each field of the index, already
// normalized. Errors: [ErrNoIndex]; the number of parts is not that of the fields.
func (x *Indexes) Tokens(index Index, parts ...string) ([]Token, error) {
	versions := x.keys()[index.name]
	switch {
	case index.name == "" || len(versions) == 0:
		return nil, fmt.Errorf("%w: %q", ErrNoIndex, index.name)
	case len(parts) != len(index.fields):
		return nil, fmt.Errorf("crypto: index %q is over %d fields, got %d values", index.name, len(index.fields), len(parts))
	}
	b := append(make([]byte, 0, 128), labelIndex...)
	b = appendPart(b, index.name)
	for _, p := range parts {
		b = appendPart(b, p)
	}
	tokens := make([]Token, len(versions))
	for i, v := range versions {
		tokens[i] = mac(v.Key, b)
	}
	return tokens, nil
}

// AddIndex draws a key for a new index, which is then building: rows written from now on get its tokens, those that are
// there have to be rewritten, and then [Keyring.FinishIndexes] called. An index that exists is left as it is; if it is over other fields,
// that is an error.
func (k *Keyring) AddIndex(ctx context.Context, index Index) error {
	if index.name == "" {
		return errors.New("crypto: the zero Index cannot be added")
	}
	return k.change(ctx, func(c *content) (bool, error) {
		for _, x := range c.Indexes {
			if x.Name == index.name && !slices.Equal(x.Fields, index.fieldNames()) {
				return false, fmt.Errorf("crypto: there is an index %q over other fields; take another name", index.name)
			} else if x.Name == index.name {
				return false, nil
			}
		}
		c.IndexChange++
		c.Indexes = append(c.Indexes, indexKey{Name: index.name, Fields: index.fieldNames(), Version: 1, Since: c.IndexChange, State: indexBuilding, Key: newKey(keySize)})
		return true, nil
	})
}

// RotateIndex draws a new key for an index, which is then building beside the active one. If one is building already, it is left
// as it is: finish that first.
func (k *Keyring) RotateIndex(ctx context.Context, name string) error {
	return k.change(ctx, func(c *content) (bool, error) {
		i := slices.IndexFunc(c.Indexes, func(x indexKey) bool { return x.Name == name })
		if i < 0 {
			return false, fmt.Errorf("%w: %q", ErrNoIndex, name)
		}
		if slices.ContainsFunc(c.Indexes, func(x indexKey) bool { return x.Name == name && x.State != indexActive }) {
			return false, nil
		}
		old := c.Indexes[i]
		c.IndexChange++
		c.Indexes = append(c.Indexes, indexKey{Name: name, Fields: old.Fields, Version: old.Version + 1, Since: c.IndexChange, State: indexBuilding, Key: newKey(keySize)})
		return true, nil
	})
}

// ReopenIndexes makes those indexes building again that rows in a store lack the tokens of, which has seen no later change than the one
// given: it was restored from a backup. Until [Keyring.FinishIndexes], they are not Ready for anybody.
func (k *Keyring) ReopenIndexes(ctx context.Context, seen uint64) error {
	return k.change(ctx, func(c *content) (changed bool, err error) {
		for i := range c.Indexes {
			if x := &c.Indexes[i]; x.State == indexActive && x.Since > seen {
				if !changed {
					c.IndexChange++
				}
				x.State, x.Since, changed = indexBuilding, c.IndexChange, true
			}
		}
		return changed, nil
	})
}

// FinishIndexes ends the building of indexes, after every row in the store has been written with the tokens of the
// change given (that of [Indexes.Change]): those that were building become active, and the versions before them are dropped, so that
// rows have to be written once more to lose the old tokens. It returns whether that is so. If the keyring has changed
// since, it does nothing and returns true.
func (k *Keyring) FinishIndexes(ctx context.Context, change uint64) (again bool, err error) {
	err = k.change(ctx, func(c *content) (bool, error) {
		if c.IndexChange != change {
			again = true
			return false, nil
		}
		newest, built := map[string]uint32{}, map[string]bool{}
		for _, x := range c.Indexes {
			newest[x.Name] = max(newest[x.Name], x.Version)
			built[x.Name] = built[x.Name] || x.State == indexBuilding
		}
		old := len(c.Indexes)
		c.Indexes = slices.DeleteFunc(c.Indexes, func(x indexKey) bool { return built[x.Name] && x.Version < newest[x.Name] })
		again = len(c.Indexes) < old
		changed := again
		for i := range c.Indexes {
			if c.Indexes[i].State == indexBuilding {
				c.Indexes[i].State = indexActive
				changed = true
			}
		}
		if again {
			c.IndexChange++
		}
		return changed, nil
	})
	return again, err
}
