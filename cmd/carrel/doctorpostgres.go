package main

import (
	"context"
	"crypto/tls"
	"database/sql"
	"io/fs"
	"net"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/stdlib"
)

// check implements backend.
func (p *postgresSchema) check(ctx context.Context, d *doctor) {
	if version, err := p.version(ctx); err == nil && version > 0 {
		p.checkIndexes(ctx, d, version)
	}
	p.checkConnection(ctx, d)
	p.checkSettings(ctx, d)
}

var (
	createsTable = regexp.MustCompile(`(?is)\bCREATE (?:UNLOGGED )?TABLE (?:IF NOT EXISTS )?(\w+)\s*\((.*?)\n\)`)
	createsIndex = regexp.MustCompile(`(?i)\bCREATE (?:UNIQUE )?INDEX (?:CONCURRENTLY )?(?:IF NOT EXISTS )?(\w+) ON (?:ONLY )?(\w+)`)
	uniqueColumn = regexp.MustCompile(`(?im)^\s*(\w+) .*\bUNIQUE\b`)
	drops        = regexp.MustCompile(`(?i)\bDROP (?:TABLE|INDEX) (?:CONCURRENTLY )?(?:IF EXISTS )?(\w+)`)
	comment      = regexp.MustCompile(`--.*`)
)

// indexesMade returns the indexes that migrations make, and of each the table; those of primary keys and unique columns under the names that PostgreSQL gives them.
func indexesMade(migrations fs.FS, upTo int) (map[string]string, error) {
	made := map[string]string{}
	names, err := fs.Glob(migrations, "*.sql") // in order
	if err != nil {
		return nil, err
	}
	for i, name := range names {
		text, err := fs.ReadFile(migrations, name)
		if err != nil {
			return nil, err
		}
		if i >= upTo {
			break
		}
		up, _, _ := strings.Cut(string(text), "-- +goose Down")
		up = comment.ReplaceAllString(up, "")
		for _, m := range drops.FindAllStringSubmatch(up, -1) {
			delete(made, m[1])
			for index, table := range made {
				if table == m[1] {
					delete(made, index)
				}
			}
		}
		for _, m := range createsTable.FindAllStringSubmatch(up, -1) {
			if strings.Contains(strings.ToUpper(m[2]), "PRIMARY KEY") {
				made[m[1]+"_pkey"] = m[1]
			}
			for _, column := range uniqueColumn.FindAllStringSubmatch(m[2], -1) {
				made[m[1]+"_"+column[1]+"_key"] = m[1]
			}
		}
		for _, m := range createsIndex.FindAllStringSubmatch(up, -1) {
			made[m[1]] = m[2]
		}
	}
	return made, nil
}

func (p *postgresSchema) checkIndexes(ctx context.Context, d *doctor, version int) {
	want, err := indexesMade(p.migrations(), version)
	if err != nil {
		d.say("indexes", failed, "cannot be compared")
		return
	}
	rows, err := p.db.QueryContext(ctx, `SELECT c.relname, i.indisvalid AND i.indisready AND i.indislive
		FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = current_schema()`)
	if err != nil {
		d.say("indexes", failed, "%v", p.refused(ctx, err))
		return
	}
	defer rows.Close()
	var broken []string
	for rows.Next() {
		var name string
		var valid bool
		if err := rows.Scan(&name, &valid); err != nil {
			d.say("indexes", failed, "%v", p.refused(ctx, err))
			return
		}
		if _, ours := want[name]; ours && !valid {
			broken = append(broken, name)
		}
		delete(want, name)
	}
	if err := rows.Err(); err != nil {
		d.say("indexes", failed, "%v", p.refused(ctx, err))
		return
	}
	var missing []string
	for name := range want {
		missing = append(missing, name)
	}
	slices.Sort(missing)
	slices.Sort(broken)
	switch {
	case len(missing) > 0:
		d.say("indexes", failed, "missing: %s; the files in store/postgres/migrations say how to make them", strings.Join(missing, ", "))
	case len(broken) > 0:
		d.say("indexes", failed, "not valid, because making them failed: %s; REINDEX INDEX CONCURRENTLY makes each anew", strings.Join(broken, ", "))
	default:
		d.say("indexes", fine, "all are there and valid")
	}
}

// checkConnection looks whether somebody between this machine and the server can read along.
func (p *postgresSchema) checkConnection(ctx context.Context, d *doctor) {
	conn, err := p.db.Conn(ctx)
	if err != nil {
		d.say("connection", failed, "%v", p.refused(ctx, err))
		return
	}
	defer conn.Close()
	what, well := "goes in the clear over the network: sslmode=verify-full in the address", false
	err = conn.Raw(func(c any) error {
		pg := c.(*stdlib.Conn).Conn().PgConn()
		at := pg.Conn().RemoteAddr()
		tcp, isTCP := at.(*net.TCPAddr)
		if t, ok := pg.Conn().(*tls.Conn); ok {
			what, well = "TLS; sslmode=verify-full in the address would also check who answers", true
			if len(t.ConnectionState().VerifiedChains) > 0 {
				what = "TLS, and the server's certificate was checked"
			}
		} else if !isTCP || tcp.IP.IsLoopback() {
			what, well = "does not leave this machine", true
		}
		return nil
	})
	if err != nil {
		d.say("connection", failed, "%v", p.refused(ctx, err))
		return
	}
	d.ok("connection", well, warning, what, what)
}

// checkSettings looks at what the server does behind carrel's back.
func (p *postgresSchema) checkSettings(ctx context.Context, d *doctor) {
	names := words("fsync synchronous_commit full_page_writes is_superuser autovacuum track_commit_timestamp log_statement log_min_duration_statement " +
		"log_min_duration_sample log_transaction_sample_rate log_parameter_max_length log_parameter_max_length_on_error " +
		"auto_explain.log_min_duration auto_explain.log_parameter_max_length pgaudit.log pgaudit.log_parameter")
	is := map[string]string{}
	for _, name := range names {
		var value sql.NullString // a server that does not know a setting says NULL
		if err := p.db.QueryRowContext(ctx, "SELECT current_setting($1, true)", name).Scan(&value); err != nil {
			d.say("settings", failed, "%v", p.refused(ctx, err))
			return
		}
		is[name] = value.String
	}
	d.ok("fsync", is["fsync"] != "off", failed, "on", "is off: a power cut may destroy the database, and with it what the trail promises; turn it on")
	d.ok("synchronous-commit", is["synchronous_commit"] != "off", warning, is["synchronous_commit"],
		"is off: what was committed last may be lost in a crash, records of the trail and receipts among it; turn it on for this role at least")
	d.ok("full-page-writes", is["full_page_writes"] != "off", warning, "on", "is off: a power cut may leave torn pages; turn it on, unless the file system never writes half of one")
	d.ok("role", is["is_superuser"] != "on", warning, "is no superuser", "is a superuser, who may read all of the server's files and memory: give carrel a role of its own that owns its schema")
	d.ok("autovacuum", is["autovacuum"] != "off", warning, "on", "is off: rows that were deleted stay in the files; turn it on")
	d.ok("commit-timestamps", is["track_commit_timestamp"] != "on", warning, "off", "track_commit_timestamp is on: it says when each row was written, which dates what was unlinked; turn it off")

	var logs []string
	if statements := is["log_statement"]; is["log_parameter_max_length"] != "0" {
		if statements == "mod" || statements == "all" {
			logs = append(logs, "log_statement")
		}
		for name, off := range map[string]string{"log_min_duration_statement": "-1", "log_min_duration_sample": "-1", "log_transaction_sample_rate": "0"} {
			if is[name] != "" && is[name] != off {
				logs = append(logs, name)
			}
		}
	}
	if v := is["log_parameter_max_length_on_error"]; v != "" && v != "0" {
		logs = append(logs, "log_parameter_max_length_on_error")
	}
	if v := is["auto_explain.log_min_duration"]; v != "" && v != "-1" && is["auto_explain.log_parameter_max_length"] != "0" {
		logs = append(logs, "auto_explain.log_min_duration")
	}
	if v := is["pgaudit.log"]; v != "" && v != "none" && is["pgaudit.log_parameter"] == "on" {
		logs = append(logs, "pgaudit.log_parameter")
	}
	slices.Sort(logs)
	d.ok("statement-log", len(logs) == 0, warning, "no values of statements go to the server's log",
		"values of statements go to the server's log and stay there when they are erased here, because of "+strings.Join(logs, ", ")+"; log_parameter_max_length = 0 keeps them out of most")
}
