package postgres

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"

	"github.com/carrel-project/carrel/audit"
)

const opAppend = "append to the trail"

// The keys come first, and in their order: of several who append the same ones at once, one inserts them all, and the others wait until that one is through. $1 is
// NULL for a batch that one statement takes.
const appendEntries = `
	WITH batch AS MATERIALIZED (
		SELECT coalesce(CAST($1 AS bigint), nextval('trail_batches')) AS id
	), given AS MATERIALIZED (
		SELECT place, action, time, substring(CAST($3 AS bytea) FROM tags_at + 1 FOR tags_size) AS tags, decode(key, 'hex') AS key,
			substring(CAST($4 AS bytea) FROM body_at + 1 FOR body_size) AS body
		FROM json_to_recordset(CAST($2 AS json))
			AS x (place bigint, action text, time bigint, key text, tags_at integer, tags_size integer, body_at integer, body_size integer)
	), fresh AS (
		INSERT INTO trail_keys (key) SELECT key FROM given WHERE key IS NOT NULL ORDER BY key
		ON CONFLICT DO NOTHING RETURNING key
	)
	INSERT INTO trail_incoming (batch, place, action, time, tags, key, body)
	SELECT batch.id, place, action, time, tags, key, body FROM given, batch
	WHERE key IS NULL OR key IN (SELECT key FROM fresh)`

// Append implements audit.Store.
func (l *Log) Append(ctx context.Context, entries []audit.Entry) error {
	if len(entries) == 0 {
		return failed(opAppend, ctx.Err())
	}
	parcels, err := pack(entries)
	if err != nil {
		return err
	}
	repeatable := true // what has a key is appended once
	for _, p := range parcels {
		repeatable = repeatable && p.bare == 0
	}
	if _, ok := l.db.(beginner); ok && len(entries) == 1 {
		// One statement is a transaction by itself.
		err := parcels[0].append(ctx, l.db, nil)
		if err == nil || !again(err) || !repeatable && !surely(err) {
			return err
		}
	}
	return transact(ctx, l.db, opAppend, repeatable, func(db DB) error {
		if len(parcels) == 1 {
			return parcels[0].append(ctx, db, nil)
		}
		var batch int64
		if err := db.QueryRowContext(ctx, "SELECT nextval('trail_batches')").Scan(&batch); err != nil {
			return failed(opAppend, err)
		}
		for _, p := range parcels {
			if err := p.append(ctx, db, batch); err != nil {
				return err
			}
		}
		return nil
	})
}

// surely reports that the server took back what it was told to do.
func surely(err error) bool {
	var known *Error
	return errors.As(err, &known) && known.undone()
}

// A parcel is what one statement appends. Tags and bodies lie side by side, so that they need not be written as text.
type parcel struct {
	rows         []parcelRow
	list         string // the rows as JSON
	tags, bodies []byte
	bare         int64 // entries without a key
}

type parcelRow struct {
	Place    int    `json:"place"`
	Action   string `json:"action"`
	Time     int64  `json:"time"`
	Key      string `json:"key,omitempty"`
	TagsAt   int    `json:"tags_at"`
	TagsSize int    `json:"tags_size"`
	BodyAt   int    `json:"body_at"`
	BodySize int    `json:"body_size"`
}

const (
	parcelEntries = 4096
	parcelBytes   = 16 << 20
)

// pack leaves out entries with a key that one before has.
func pack(entries []audit.Entry) (list []*parcel, err error) {
	p := &parcel{tags: []byte{}, bodies: []byte{}}
	seen := map[[16]byte]bool{}
	for i := range entries {
		e := &entries[i]
		row := parcelRow{Place: i, Action: string(e.Action), Time: e.Time.UnixMicro(), TagsAt: len(p.tags), BodyAt: len(p.bodies), BodySize: len(e.Body)}
		if e.Key == [16]byte{} {
			p.bare++
		} else if seen[e.Key] {
			continue
		} else {
			seen[e.Key] = true
			row.Key = hex.EncodeToString(e.Key[:])
		}
		for _, tag := range e.Tags {
			p.tags = append(p.tags, tag[:]...)
		}
		row.TagsSize = len(p.tags) - row.TagsAt
		p.bodies = append(p.bodies, e.Body...)
		p.rows = append(p.rows, row)
		if len(p.rows) == parcelEntries || len(p.bodies)+len(p.tags) >= parcelBytes {
			list = append(list, p)
			p = &parcel{tags: []byte{}, bodies: []byte{}}
		}
	}
	if len(p.rows) > 0 {
		list = append(list, p)
	}
	for _, p := range list {
		text, err := json.Marshal(p.rows)
		if err != nil {
			return nil, failed(opAppend, err)
		}
		p.list = string(text)
	}
	return list, nil
}

var errTrailKeptOut = errors.New("postgres: append to the trail: a trigger or a rule keeps entries out")

func (p *parcel) append(ctx context.Context, db DB, batch any) error {
	n, err := change(ctx, db, opAppend, appendEntries, batch, p.list, p.tags, p.bodies)
	if err == nil && n < p.bare {
		return errTrailKeptOut
	}
	return err
}
