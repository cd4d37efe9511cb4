package main

import (
	"context"
	"errors"
	"iter"

	"github.com/spf13/cobra"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/patron"
	"github.com/carrel-project/carrel/rights"
)

func newRights() *cobra.Command {
	return group(&cobra.Command{
		Use:   "rights",
		Short: "Do what a patron may demand: a copy, erasure, restriction",
		Long: `What the General Data Protection Regulation lets a patron demand: a copy of all that is held on them (articles 15 and 20), erasure with a
certificate (17), restriction (18); the same for many, as when accounts have expired; and the list of all personal data (30). Role and purpose are those
of the access file, which says who may export, erase and restrict; in the built-in one that is patron-services for legal. docs/rights.md has it whole.`,
		Example: `  carrel rights export --db library.db --id 6f9619ff-8b86-4d01-b42d-00cf4fc964ff --out copy.zip.age --passphrase-file phrase --actor staff-3 --role patron-services --purpose legal
  carrel rights erase --db library.db --id 6f9619ff-8b86-4d01-b42d-00cf4fc964ff --certificate erased.txt --approval "demand 31" --actor staff-3 --role patron-services --purpose legal
  carrel rights purge --db library.db --policy policy.yaml --certificates /srv/certificates --actor job-night --role systems --purpose legal`,
	}, newRightsExport(), newRightsErase(), newRightsPurge(), newRightsWithdraw(), newRightsRestrict(), newRightsLift(), newRightsVerify(), newRightsInventory())
}

// rightsFlags are what the commands have that do something for one patron or many.
type rightsFlags struct {
	patronFlags
	approval, policy, retain string
}

func (r *rightsFlags) register(cmd *cobra.Command, approval string) {
	r.patronFlags.register(cmd)
	cmd.Flags().StringVar(&r.approval, "approval", "", approval)
}

// registerPolicies is for commands that erase.
func (r *rightsFlags) registerPolicies(cmd *cobra.Command) {
	cmd.Flags().StringVar(&r.policy, "policy", "", "the retention policy: its legal holds are heeded, and its keep-fields say how coarse what stays of a record becomes, as in a sweep")
	cmd.Flags().StringVar(&r.retain, "retain", "", "a policy file of what has to be kept although a patron demands erasure, because a law says so")
}

func (r *rightsFlags) request() rights.Request { return rights.Request{Approval: r.approval} }

// An openedOffice is what the flags of a command name, opened.
type openedOffice struct {
	*openedPatrons
	*rights.Office
}

// office opens what the flags name, and closes it after do.
func (r *rightsFlags) office(cmd *cobra.Command, do func(*openedOffice) error) error {
	var cfg rights.Config
	var err error
	for file, into := range map[string]**anonymize.Policy{r.policy: &cfg.Policy, r.retain: &cfg.Retain} {
		if file == "" {
			continue
		}
		if *into, err = readPolicy(cmd, file); err != nil {
			return err
		}
	}
	return r.open(cmd, func(o *openedPatrons) error {
		office, err := o.office(cfg, r.actor)
		if err != nil {
			return err
		}
		return rightsProblem(do(&openedOffice{o, office}))
	})
}

// office returns the office of a database. Records that it unlinks leave events of counts in the trail.
func (o *openedPatrons) office(cfg rights.Config, actor string) (*rights.Office, error) {
	reporter, err := audit.NewReporter(audit.ReporterConfig{Store: o.db.log(o.db.db), Keys: o.keys, Recorder: o.trail})
	if err != nil {
		return nil, err
	}
	cfg.Directory, cfg.Keys, cfg.Trail, cfg.Reporter, cfg.Borrowers = o.dir, o.keys, o.trail, reporter, o.db.borrowers
	cfg.Types = []string{"patron"} // that of the sealer
	cfg.Circulation = o.db.recorded(o.db.db, o.trail, byCommand(actor, "rights"))
	return rights.New(cfg)
}

// rightsProblem says what to do about an error of the office.
func rightsProblem(err error) error {
	var owed *rights.ObligationsError
	switch {
	case err == nil, errors.Is(err, errFound):
		return err
	case errors.As(err, &owed):
		return err // printed by whoever got it
	case errors.Is(err, crypto.ErrLedger), errors.Is(err, crypto.ErrEnded):
		return keyProblem(err)
	}
	return patronProblem(err)
}

// borrowers yields all tokens of borrowers in the database, page by page.
func (d *database) borrowers(ctx context.Context) iter.Seq2[circulation.Borrower, error] {
	const limit = 1000
	page := func(after string) (list []circulation.Borrower, err error) {
		rows, err := d.db.QueryContext(ctx, "SELECT borrower FROM persons WHERE borrower > $1 ORDER BY borrower LIMIT $2", after, limit)
		if err != nil {
			return nil, d.refused(ctx, err)
		}
		defer rows.Close()
		for rows.Next() {
			var b string
			if err := rows.Scan(&b); err != nil {
				return nil, d.refused(ctx, err)
			}
			list = append(list, circulation.Borrower(b))
		}
		if err := rows.Err(); err != nil {
			return nil, d.refused(ctx, err)
		}
		return list, nil
	}
	return func(yield func(circulation.Borrower, error) bool) {
		for after := ""; ; {
			list, err := page(after)
			if err != nil {
				yield("", err)
				return
			}
			for _, b := range list {
				if !yield(b, nil) {
					return
				}
			}
			if len(list) < limit {
				return
			}
			after = string(list[limit-1])
		}
	}
}

// finish clears up after records were unlinked, and says what is left when it cannot.
func (o *openedOffice) finish(cmd *cobra.Command) error {
	if err := o.db.Finish(cmd.Context()); err != nil {
		return errors.New("erased; but " + o.db.unfinished(err) + "; the next sweep clears them")
	}
	return nil
}

// forgetful is the call by which a restore erases again.
func forgetful(actor string) patron.Call {
	return patron.Call{Actor: actorOf(actor), Role: "systems", Purpose: "legal", Channel: audit.CLI}
}
