package access

import (
	"fmt"
	"strings"
)

// An Act is something that may be done with patron records besides looking at them. The vocabulary is
// closed, and values are only ever appended. The zero Act is [Create].
type Act uint8

// The acts.
const (
	Create   Act = iota // add a patron
	Change              // change a patron: only what is shown in full, see [Decision.MayChange]
	Import              // take in patrons from another system
	Export              // hand patrons out of the system
	Resolve             // from the borrower token of a loan to the patron
	Find                // look a patron up by identifier
	Reindex             // rebuild the look-up index
	Review              // review the break-glass uses of others
	Report              // read in the audit trail who did what
	Erase               // forget a patron for good
	Restrict            // keep others from a patron's record, lift that, and work with it meanwhile
)

const actCount = 11

var actWords = [actCount]string{"create", "change", "import", "export", "resolve", "find", "reindex", "review", "report", "erase", "restrict"}

// String returns the word for the act, or act(n) for none that exists.
func (a Act) String() string {
	if a >= actCount {
		return fmt.Sprintf("act(%d)", uint8(a))
	}
	return actWords[a]
}

// ParseAct reads the word that [Act.String] writes. The error does not repeat the word.
func ParseAct(word string) (Act, error) {
	i, err := parseWord(word, "act", actWords[:])
	return Act(i), err
}

// Acts is a set of acts. The zero Acts allows none.
type Acts uint16

// ActsOf returns the set of the acts. Unknown acts are left out.
func ActsOf(acts ...Act) (set Acts) {
	for _, a := range acts {
		if a < actCount {
			set |= 1 << a
		}
	}
	return set
}

// Has reports whether the act is in the set. An unknown act never is.
func (s Acts) Has(a Act) bool { return a < actCount && s&(1<<a) != 0 }

// Names returns the words of the acts in their order; nil for the empty set.
func (s Acts) Names() (names []string) {
	for a := range Act(actCount) {
		if s.Has(a) {
			names = append(names, a.String())
		}
	}
	return names
}

// String returns the words of the acts, separated by commas.
func (s Acts) String() string { return strings.Join(s.Names(), ", ") }
