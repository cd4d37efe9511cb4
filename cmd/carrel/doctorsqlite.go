package main

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"strings"

	"github.com/carrel-project/carrel/store/sqlite"
)

// check implements backend.
func (s *sqliteFile) check(ctx context.Context, d *doctor) {
	if version, err := s.version(ctx); err == nil && version > 0 {
		s.checkIndexes(ctx, d)
	}
	s.checkSettings(ctx, d)
}

// checkIndexes compares the indexes with those of a database that was made this moment.
func (s *sqliteFile) checkIndexes(ctx context.Context, d *doctor) {
	have, err := indexesIn(ctx, s.db)
	if err != nil {
		d.say("indexes", failed, "%v", s.refused(ctx, err))
		return
	}
	model, err := sql.Open("sqlite", ":memory:")
	if err != nil {
		d.say("indexes", failed, "cannot be compared")
		return
	}
	defer model.Close()
	model.SetMaxOpenConns(1) // each connection has a memory of its own
	if _, err = (&sqliteFile{db: model, path: ":memory:"}).migrate(ctx); err != nil {
		d.say("indexes", failed, "cannot be compared")
		return
	}
	want, err := indexesIn(ctx, model)
	if err != nil {
		d.say("indexes", failed, "cannot be compared")
		return
	}
	for name, statement := range want {
		switch there, ok := have[name]; {
		case !ok:
			d.say("indexes", failed, "%s is missing; this brings it back: %s", name, statement)
			return
		case there != statement:
			d.say("indexes", failed, "%s is another one than carrel's: drop it, and then: %s", name, statement)
			return
		}
	}
	d.say("indexes", fine, "all %d are there", len(want))
}

// indexesIn returns the statements that made the indexes, on one line each. What a primary key or a UNIQUE makes is part of its table.
func indexesIn(ctx context.Context, db *sql.DB) (map[string]string, error) {
	rows, err := db.QueryContext(ctx, "SELECT name, sql FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	all := map[string]string{}
	for rows.Next() {
		var name, statement string
		if err := rows.Scan(&name, &statement); err != nil {
			return nil, err
		}
		all[name] = strings.Join(strings.Fields(statement), " ")
	}
	return all, rows.Err()
}

// checkSettings looks at a connection such as the commands have that write. What a reader sees of them is not what erases.
func (s *sqliteFile) checkSettings(ctx context.Context, d *doctor) {
	var now string
	if err := s.db.QueryRowContext(ctx, "PRAGMA journal_mode").Scan(&now); err != nil {
		d.say("settings", failed, "%v", s.refused(ctx, err))
		return
	}
	if now != "wal" { // such a connection would change it, and so the file
		d.say("journal-mode", warning, "is %s, as in a copy: the next command that writes makes it wal, and until then the other settings cannot be looked at", now)
		return
	}
	f, err := os.OpenFile(s.path, os.O_RDWR, 0)
	if err != nil {
		d.say("settings", warning, "were not looked at: this user may not write the file; run it as who sweeps")
		return
	}
	f.Close()
	db, err := sql.Open("sqlite", sqlite.DSN(s.path))
	if err != nil {
		d.say("settings", failed, "the file cannot be opened as commands do that write")
		return
	}
	defer db.Close()
	var secure, synchronous int
	var journal string
	for pragma, to := range map[string]any{"secure_delete": &secure, "journal_mode": &journal, "synchronous": &synchronous} {
		if err := db.QueryRowContext(ctx, "PRAGMA "+pragma).Scan(to); err != nil {
			d.say("settings", failed, "%v", s.refused(ctx, err))
			return
		}
	}
	d.ok("secure-delete", secure == 1, failed, "what is deleted is overwritten", "what is deleted stays in the file: this SQLite does not overwrite it")
	d.ok("journal-mode", journal == "wal", warning, "wal", fmt.Sprintf("is %s, because the file system or another program does not let it be wal: readers and a sweep keep each other waiting", journal))
	d.ok("synchronous", synchronous >= 2, failed, "what is committed survives a power cut", "what is committed may be lost in a power cut: the trail promises that it is not")
}
