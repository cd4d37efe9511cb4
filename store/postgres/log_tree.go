package postgres

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/carrel-project/carrel/audit"
)

const (
	opTree    = "read the trail's tree"
	opAdvance = "advance the trail"
)

// One statement reads as of one moment. Without the row of the tree, which is how the loss of the whole log looks, what is left is for Verify to see.
// More than a tile can have is somebody's attempt on our memory.
const readTree = `SELECT coalesce(x.size, 0), ` + trailNext + `, substring(x.checkpoint FROM 1 FOR 65536), t.id, substring(t.data FROM 1 FOR 8192)
	FROM (SELECT) AS one LEFT JOIN (SELECT size, checkpoint FROM trail_tree LIMIT 1) x ON true
	LEFT JOIN trail_tiles t ON t.id = ANY (CAST(CAST($1 AS text) AS bigint[]))`

// Tree implements audit.Store.
func (l *Log) Tree(ctx context.Context, tiles ...audit.TileID) (audit.Tree, error) {
	if err := l.number(ctx, opTree); err != nil {
		return audit.Tree{}, err
	}
	places := make(map[int64][]int, len(tiles))
	for i, tile := range tiles {
		id := tileRow(tile)
		places[id] = append(places[id], i)
	}
	tree := audit.Tree{Tiles: make([][]byte, len(tiles))}
	var size, next int64
	var id sql.NullInt64
	var data []byte
	err := each(ctx, opTree, l.db, readTree, []any{tileRows(tiles)}, []any{&size, &next, &tree.Checkpoint, &id, &data}, func() error {
		if size < 0 {
			return errTrailSize
		}
		tree.Size, tree.Next = uint64(size), uint64(next)
		if !id.Valid {
			return nil
		}
		for _, place := range places[id.Int64] {
			tree.Tiles[place] = append([]byte{}, data...)
		}
		return nil
	})
	if err != nil {
		return audit.Tree{}, err
	}
	return tree, nil
}

var (
	errTrailSize = errors.New("postgres: read the trail's tree: its size is negative: the table is damaged")
	errNoTile    = errors.New("postgres: advance the trail: not a tile")
)

// tileRow returns the row of a tile; -1, which none has, if there can be no such tile.
func tileRow(t audit.TileID) int64 {
	if t.Level < 0 || t.Level > 7 || t.N >= 1<<56 {
		return -1
	}
	return int64(t.Level)<<56 | int64(t.N)
}

// tileRows writes the rows of tiles as PostgreSQL writes an array.
func tileRows(tiles []audit.TileID) string {
	var b strings.Builder
	b.WriteByte('{')
	for i, t := range tiles {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprint(&b, tileRow(t))
	}
	b.WriteByte('}')
	return b.String()
}

const (
	// The size is compared by the statement that changes it, which is the first. Who comes second waits for it, and then finds another size.
	advanceTree    = "UPDATE trail_tree SET size = $2, checkpoint = $3 WHERE size = $1"
	advanceNumbers = "UPDATE trail_numbers SET next = $1 WHERE next < $1"

	writeTiles = `
		INSERT INTO trail_tiles (id, data)
		SELECT id, substring(CAST($2 AS bytea) FROM data_at + 1 FOR data_size)
		FROM json_to_recordset(CAST($1 AS json)) AS x (id bigint, data_at integer, data_size integer)
		ON CONFLICT (id) DO UPDATE SET data = excluded.data`
	dropTiles = "DELETE FROM trail_tiles WHERE id = ANY (CAST(CAST($1 AS text) AS bigint[]))"

	// Numbers and keys are gathered first, so that the planner looks them up in the indexes, however many it takes them for.
	removeEntries = `
		WITH gone AS (
			DELETE FROM trail_entries WHERE number = ANY (ARRAY (
				SELECT e.number FROM json_to_recordset(CAST($1 AS json)) AS r (first bigint, behind bigint)
				CROSS JOIN LATERAL (SELECT number FROM trail_entries WHERE number >= r.first AND number < r.behind ORDER BY number) AS e
			)) RETURNING number, tags, key
		), keys AS (
			DELETE FROM trail_keys WHERE key = ANY (ARRAY (SELECT key FROM gone WHERE key IS NOT NULL))
		)
		DELETE FROM trail_tags AS t USING (
			SELECT DISTINCT substring(tags FROM 16*i + 1 FOR 16) AS tag, number FROM gone CROSS JOIN LATERAL generate_series(0, length(tags)/16 - 1) AS i
		) AS g WHERE t.tag = g.tag AND t.number = g.number`
)

// Advance implements audit.Store.
func (l *Log) Advance(ctx context.Context, a audit.Advance) error {
	if a.From > math.MaxInt64 || a.Size > math.MaxInt64 {
		return audit.ErrConflict
	}
	tiles, data, err := packTiles(a.Tiles)
	if err != nil {
		return err
	}
	ranges, err := packRanges(a.Remove)
	if err != nil {
		return err
	}
	if err := l.number(ctx, opAdvance); err != nil { // what is to be removed may not have its number yet
		return err
	}
	// It is not repeatable: the second time would find the size that the first has made.
	return transact(ctx, l.db, opAdvance, false, func(db DB) error {
		n, err := change(ctx, db, opAdvance, advanceTree, int64(a.From), int64(a.Size), a.Checkpoint)
		if err != nil {
			return err
		}
		if n == 0 {
			return audit.ErrConflict
		}
		if _, err := change(ctx, db, opAdvance, advanceNumbers, int64(a.Size)); err != nil {
			return err
		}
		if len(a.Tiles) > 0 {
			if _, err := change(ctx, db, opAdvance, writeTiles, tiles, data); err != nil {
				return err
			}
		}
		if len(a.Drop) > 0 {
			if _, err := change(ctx, db, opAdvance, dropTiles, tileRows(a.Drop)); err != nil {
				return err
			}
		}
		if len(a.Remove) > 0 {
			if _, err := change(ctx, db, opAdvance, removeEntries, ranges); err != nil {
				return err
			}
		}
		return nil
	})
}

// packTiles returns the list of tiles as JSON, and their hashes side by side. Of one that is there twice the last counts.
func packTiles(tiles []audit.Tile) (list string, data []byte, err error) {
	type row struct {
		ID   int64 `json:"id"`
		At   int   `json:"data_at"`
		Size int   `json:"data_size"`
	}
	rows, places := []row{}, map[int64]int{}
	data = []byte{}
	for _, tile := range tiles {
		r := row{tileRow(tile.TileID), len(data), len(tile.Data)}
		if r.ID < 0 {
			return "", nil, errNoTile
		}
		data = append(data, tile.Data...)
		if place, ok := places[r.ID]; ok {
			rows[place] = r
			continue
		}
		places[r.ID] = len(rows)
		rows = append(rows, r)
	}
	text, err := json.Marshal(rows)
	return string(text), data, failed(opAdvance, err)
}

func packRanges(ranges []audit.Range) (string, error) {
	type row struct {
		First  int64 `json:"first"`
		Behind int64 `json:"behind"`
	}
	rows := make([]row, len(ranges))
	for i, r := range ranges {
		rows[i] = row{trailNumber(r.From), trailNumber(r.To)}
	}
	text, err := json.Marshal(rows)
	return string(text), failed(opAdvance, err)
}

// trailNumber returns the number for the database, whose integers end earlier.
func trailNumber(n uint64) int64 { return int64(min(n, math.MaxInt64)) }
