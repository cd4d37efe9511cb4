package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
)

func newMigrate() *cobra.Command {
	var dsn string
	var status, asJSON bool
	cmd := &cobra.Command{
		Use:   "migrate --db DSN",
		Short: "Bring the tables of a database up to date",
		Long: `Makes the tables that this version of carrel wants, or changes those of an earlier one, and says from which version to
which. Several machines may do so at once: one does the work, the others wait for it. On PostgreSQL nothing else changes tables
that are there: every other command refuses a database that is older than it, and one that is newer. So update the program on one
machine, migrate, and then update the others.

With --status it only says how things stand.

Exit status: 0 up to date, 1 with --status: behind, 2 misuse or failure, also when a newer carrel has migrated the database.`,
		Example: `  carrel migrate --db library.db
  carrel migrate --db "postgres://carrel@db.example.org/lms?search_path=carrel"
  carrel migrate --db "postgres://carrel@db.example.org/lms?search_path=carrel" --status`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := needed(cmd, "db"); err != nil {
				return err
			}
			mode := upgradeIt
			if status {
				mode = readOnly
			}
			d, err := connect(cmd.Context(), dsn, mode)
			if err != nil {
				return err
			}
			m, err := d.bringUp(cmd.Context(), status)
			if cerr := d.close(); err == nil {
				err = cerr
			}
			if err != nil {
				return err
			}
			if asJSON {
				err = printJSON(cmd, m)
			} else {
				_, err = fmt.Fprintln(cmd.OutOrStdout(), m)
			}
			if err == nil && m.Behind {
				err = errFound
			}
			return err
		},
	}
	addDBFlag(cmd, &dsn)
	cmd.Flags().BoolVar(&status, "status", false, "only say whether the tables are up to date")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// A migration is what `migrate --json` says.
type migration struct {
	From   int  `json:"from"` // version of the schema; 0: there were no tables
	To     int  `json:"to"`   // this program's
	Done   bool `json:"migrated"`
	Behind bool `json:"behind"` // and it stays so, because only the status was asked for
	path   string
	jobs   bool // the tables of the worker's jobs were not up to date, whatever the schema was
}

func (m migration) String() string {
	at := oneLine(m.path) + ": "
	switch {
	case m.jobs && m.From == m.To && m.Behind:
		return at + "the worker's job tables are missing or old; carrel migrate makes them"
	case m.jobs && m.From == m.To:
		return at + "made the worker's job tables"
	case m.Behind && m.From == 0:
		return at + fmt.Sprintf("there are no tables yet; carrel migrate makes those of version %d", m.To)
	case m.Behind:
		return at + fmt.Sprintf("the schema is of version %d; carrel migrate brings it to version %d", m.From, m.To)
	case m.Done && m.From == 0:
		return at + fmt.Sprintf("made the tables of version %d", m.To)
	case m.Done:
		return at + fmt.Sprintf("migrated from version %d to version %d", m.From, m.To)
	}
	return at + fmt.Sprintf("the schema is of version %d, up to date", m.To)
}

// bringUp migrates, or says what that would do.
func (d *database) bringUp(ctx context.Context, status bool) (m migration, err error) {
	m.path = d.path
	if m.From, err = d.version(ctx); err != nil {
		return m, err
	}
	if m.To, err = newest(d.migrations()); err != nil {
		return m, err
	}
	if err := d.upgradable(ctx, m.From); err != nil {
		return m, err
	}
	switch {
	case m.From > m.To:
		return m, fmt.Errorf("%s: %w", d.path, errNewerSchema)
	case status:
		m.jobs, err = d.jobs(ctx, true)
		m.Behind = m.jobs || m.From < m.To
		return m, err
	case m.From < m.To:
		if m.From, err = d.migrate(ctx); err != nil {
			return m, err
		}
	}
	if m.jobs, err = d.jobs(ctx, false); err != nil {
		return m, err
	}
	m.Done = m.jobs || m.From < m.To
	return m, d.ready(ctx, upgradeIt)
}
