package sqlite

import (
	"context"
	"encoding/json"
	"errors"
	"math"

	"github.com/carrel-project/carrel/audit"
)

// A trailState is the one row of the table of the tree, and the number that comes next.
type trailState struct {
	size, indexed, next int64
}

const trailNext = "max(x.next, " + afterLast + ")"

func (l *Log) state(ctx context.Context, op string) (s trailState, err error) {
	rows, err := l.query(ctx, op, "SELECT x.size, x.indexed, "+trailNext+" FROM trail_tree x LIMIT 1")
	if err != nil {
		return s, err
	}
	defer rows.Close()
	if !rows.Next() {
		if err := rows.Err(); err != nil {
			return s, failed(op, err)
		}
		return s, errTrailTree
	}
	if err := rows.Scan(&s.size, &s.indexed, &s.next); err != nil {
		return s, failed(op, err)
	}
	if s.size < 0 || s.indexed < 0 || s.next < s.size {
		return s, errTrailTree
	}
	return s, failed(op, rows.Close())
}

// The tree's row and the tiles come by one statement, which reads as of one moment.
// More than a tile can have is somebody's attempt on our memory.
const readTree = "SELECT x.size, " + trailNext + `, substr(x.checkpoint, 1, 65536), t.id, substr(t.data, 1, 8192) FROM (SELECT * FROM trail_tree LIMIT 1) x
	LEFT JOIN trail_tiles t ON t.id IN (SELECT value FROM json_each(?))`

// Tree implements audit.Store.
func (l *Log) Tree(ctx context.Context, tiles ...audit.TileID) (audit.Tree, error) {
	const op = "read the trail's tree"
	ids := make([]int64, len(tiles))
	places := make(map[int64][]int, len(tiles))
	for i, tile := range tiles {
		ids[i] = tileID(tile)
		places[ids[i]] = append(places[ids[i]], i)
	}
	list, err := json.Marshal(ids)
	if err != nil {
		return audit.Tree{}, failed(op, err)
	}
	rows, err := l.query(ctx, op, readTree, string(list))
	if err != nil {
		return audit.Tree{}, err
	}
	defer rows.Close()
	tree := audit.Tree{Tiles: make([][]byte, len(tiles))}
	found := false
	for rows.Next() {
		var size, next int64
		var id any
		var data []byte
		if err := rows.Scan(&size, &next, &tree.Checkpoint, &id, &data); err != nil {
			return audit.Tree{}, failed(op, err)
		}
		if size < 0 || next < 0 {
			return audit.Tree{}, errTrailTree
		}
		tree.Size, tree.Next, found = uint64(size), uint64(next), true
		if id, ok := id.(int64); ok {
			for n, place := range places[id] {
				if n > 0 {
					data = append([]byte(nil), data...)
				}
				tree.Tiles[place] = data
			}
		}
	}
	if err := rows.Err(); err != nil {
		return audit.Tree{}, failed(op, err)
	}
	if err := rows.Close(); err != nil || found {
		return tree, failed(op, err)
	}
	// Somebody removed the row, which is how the loss of the whole log looks. What is left is for Verify to see.
	var next int64
	err = l.db.QueryRowContext(ctx, "SELECT "+afterLast).Scan(&next)
	tree.Next = uint64(max(next, 0))
	return tree, failed(op, err)
}

// tileID returns the row of a tile; -1, which none has, if there can be no such tile.
func tileID(t audit.TileID) int64 {
	if t.Level < 0 || t.Level > 7 || t.N >= 1<<56 {
		return -1
	}
	return int64(t.Level)<<56 | int64(t.N)
}

var errNoTile = errors.New("sqlite: advance the trail: not a tile")

const (
	// The size is compared by the statement that changes it, which is the first.
	advanceTree = `UPDATE trail_tree SET size = ?2, checkpoint = ?3, next = max(next, ?2, ` + afterLast + `)
		WHERE size = ?1`
	writeTile = "INSERT INTO trail_tiles (id, data) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET data = excluded.data"
	dropTile  = "DELETE FROM trail_tiles WHERE id = ?"

	removeActions = `DELETE FROM trail_actions WHERE (action, time, number) IN
		(SELECT action, time, number FROM trail_entries WHERE number >= ? AND number < ?)`
	removeTags = `DELETE FROM trail_tags WHERE (month, run, tag, number) IN
		(SELECT substr(tags, 1, 2), number >> 12, tags, number FROM trail_entries WHERE number >= ? AND number < ? AND length(tags) = 16)`
	removeSplit   = "DELETE FROM trail_tags WHERE (month, run, tag, number) IN (" + splitTags + ")"
	removeEntries = "DELETE FROM trail_entries WHERE number >= ? AND number < ?"
)

// Advance implements audit.Store. With the pragmas of [Pragmas] what is removed is overwritten in the file; what [Patrons] says of copies in
// unused parts of pages holds here, too, and they are as sealed as the entries.
func (l *Log) Advance(ctx context.Context, a audit.Advance) error {
	queries := []string{advanceTree, writeTile, dropTile}
	return l.write(ctx, "advance the trail", queries, func(t *tx) error {
		if a.From > math.MaxInt64 || a.Size > math.MaxInt64 {
			return audit.ErrConflict
		}
		n, err := t.exec(advanceTree, int64(a.From), int64(a.Size), a.Checkpoint)
		if err != nil {
			return err
		}
		if n == 0 {
			return audit.ErrConflict
		}
		for _, tile := range a.Tiles {
			id := tileID(tile.TileID)
			if id < 0 {
				return errNoTile
			}
			if _, err := t.exec(writeTile, id, solid(tile.Data)); err != nil {
				return err
			}
		}
		for _, tile := range a.Drop {
			if _, err := t.exec(dropTile, tileID(tile)); err != nil {
				return err
			}
		}
		for _, r := range a.Remove {
			if err := t.removeEntries(bound(r.From), bound(r.To)); err != nil {
				return err
			}
		}
		return nil
	})
}

func bound(n uint64) int64 { return int64(min(n, math.MaxInt64)) }

func (t *tx) removeEntries(from, to int64) error {
	for _, query := range []string{removeActions, removeTags} {
		if _, err := t.exec(query, from, to); err != nil {
			return err
		}
	}
	if err := t.eachSeveral(from, to, removeSplit); err != nil {
		return err
	}
	_, err := t.exec(removeEntries, from, to)
	return err
}
