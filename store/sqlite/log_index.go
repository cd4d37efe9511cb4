package sqlite

import (
	"errors"
	"math"
)

// Entries come one by one, and each would change a page of every index. So they are indexed some hundred at a time, sorted, by the append
// that makes the hundreds full. Until then they are found by reading them.

// indexEvery is how many entries are indexed at a time, or more.
const indexEvery = 256

// fills reports whether enough entries have come with the numbers from begin to end, exclusive, to index them.
func fills(begin, end int64) bool { return begin/indexEvery != end/indexEvery }

const (
	// Whatever it finds, it takes the write lock.
	indexLock = "UPDATE trail_tree SET indexed = indexed"
	indexFrom = "SELECT indexed FROM trail_tree"
	indexDone = "UPDATE trail_tree SET indexed = max(indexed, " + afterLast + ")"

	indexActions = `INSERT INTO trail_actions (action, time, number)
		SELECT action, time, number FROM trail_entries WHERE number >= ? ORDER BY action, time, number ON CONFLICT DO NOTHING`
	indexTags = `INSERT INTO trail_tags (month, run, tag, number)
		SELECT substr(tags, 1, 2), number >> 12, tags, number FROM trail_entries WHERE number >= ? AND length(tags) = 16 ORDER BY 1, 2, 3
		ON CONFLICT DO NOTHING`
	indexSplit = "INSERT INTO trail_tags (month, run, tag, number) " + splitTags + " WHERE true ON CONFLICT DO NOTHING"

	// Of entries about several people, an import say.
	severalTags = "SELECT number, tags FROM trail_entries WHERE number >= ? AND number < ? AND length(tags) > 16 ORDER BY number LIMIT 1"
)

// splitTags has a row of the index for each tag in ?1, with the number ?2.
const splitTags = `
	WITH RECURSIVE at (k) AS (
		SELECT 1 WHERE length(?1) > 0
		UNION ALL
		SELECT k + 16 FROM at WHERE k + 16 < length(?1)
	)
	SELECT substr(?1, k, 2), ?2 >> 12, substr(?1, k, 16), ?2 FROM at`

// indexing is what indexTrail executes.
var indexing = []string{indexLock, indexFrom, indexActions, indexTags, severalTags, indexSplit, indexDone}

// indexTrail indexes all entries that are not indexed yet.
func (t *tx) indexTrail() error {
	if _, err := t.exec(indexLock); err != nil {
		return err
	}
	var from int64
	if err := t.get(indexFrom, nil, &from); errors.Is(err, errNone) {
		return errTrailTree
	} else if err != nil {
		return err
	}
	for _, query := range []string{indexActions, indexTags} {
		if _, err := t.exec(query, from); err != nil {
			return err
		}
	}
	if err := t.eachSeveral(from, math.MaxInt64, indexSplit); err != nil {
		return err
	}
	_, err := t.exec(indexDone)
	return err
}

// eachSeveral executes a statement with the tags and number of each entry that has several tags.
func (t *tx) eachSeveral(from, to int64, query string) error {
	for {
		var tags []byte
		err := t.get(severalTags, []any{from, to}, &from, &tags)
		if errors.Is(err, errNone) {
			return nil
		} else if err != nil {
			return err
		}
		if _, err := t.exec(query, tags, from); err != nil {
			return err
		}
		from++
	}
}
