package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/patron"
	"github.com/carrel-project/carrel/rights"
)

func newRightsErase() *cobra.Command {
	var r rightsFlags
	var who whoFlags
	var certificate string
	var partial, asJSON bool
	cmd := &cobra.Command{
		Use:   "erase --db DSN (--id ID | --identifier-file FILE) --certificate FILE --approval REF --actor A --role R --purpose P",
		Short: "Forget a patron for good, with a signed certificate",
		Long: `Unlinks the records that name a patron, takes them out of other people's, destroys their key with a tombstone beside the keyring, removes their row, and writes a certificate
that is signed with the key of the audit trail. In old backups they die with their epoch: the certificate says when.

Nothing is done while something is owed: open loans, lost items, unpaid fees, active requests, legal holds; or has to be kept: --retain. That is listed, with exit
status 1. --partial erases what may go and keeps the rest, and the key, until that is settled: then carrel rights purge erases it.

It can be interrupted and run again. For whoever is forgotten already it writes a certificate, too.`,
		Example: `  carrel rights erase --db library.db --id 6f9619ff-8b86-4d01-b42d-00cf4fc964ff --certificate erased.txt --approval "demand 31" --policy policy.yaml --actor staff-3 --role patron-services --purpose legal
  carrel rights erase --db library.db --id 6f9619ff-8b86-4d01-b42d-00cf4fc964ff --certificate partly.txt --approval "demand 31" --partial --retain bookkeeping.yaml --actor staff-3 --role patron-services --purpose legal
  carrel rights verify erased.txt --keys library.db.keys`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := needed(cmd, "certificate", "approval"); err != nil {
				return err
			}
			var c rights.Certificate
			err := r.office(cmd, func(o *openedOffice) error {
				id, err := who.findToErase(cmd, &r.patronFlags, o.dir)
				if err != nil {
					return err
				}
				file, err := draftOf(certificate) // or nobody could say afterwards what was done
				if err != nil {
					return err
				}
				defer file.drop()
				request := r.request()
				request.Partial = partial
				if c, err = o.Erase(cmd.Context(), r.call(), id, request); err != nil {
					return err
				}
				_, err = file.Write(c.Signed)
				if err == nil {
					_, err = file.publish()
				}
				if err != nil {
					return fmt.Errorf("erased, but the certificate could not be written; run it again: %w", file.failed(err))
				}
				return o.finish(cmd)
			})
			var owed *rights.ObligationsError
			if errors.As(err, &owed) {
				if asJSON {
					err = printJSON(cmd, struct {
						Erased  bool          `json:"erased"` // nothing was changed
						Refused []rights.Kept `json:"refused"`
					}{false, owed.Kept})
				} else {
					w := &errWriter{out: cmd.OutOrStdout()}
					w.printf("Not erased: something is owed, or has to be kept. Nothing was changed; --partial erases what may go.\n\n")
					err = errors.Join(w.err, printKept(cmd.OutOrStdout(), owed.Kept))
				}
				if err == nil {
					err = errFound
				}
				return err
			}
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd, c)
			}
			return printCertificate(cmd.OutOrStdout(), c)
		},
	}
	r.register(cmd, "reference of the patron's demand, or of who decided on it")
	r.registerPolicies(cmd)
	who.register(cmd)
	cmd.Flags().StringVar(&certificate, "certificate", "", "the file to write the signed certificate to")
	cmd.Flags().BoolVar(&partial, "partial", false, "erase what may go although something is owed, and keep the rest until that is settled")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func printKept(out io.Writer, kept []rights.Kept) error {
	t := table{columns: words("KIND ID REASONS UNTIL RULE")}
	for _, k := range kept {
		kind, until := k.Kind, "not known yet"
		if kind == "" {
			kind = "patron"
		}
		if !k.Until.IsZero() {
			until = stamp(k.Until)
		}
		t.add(kind, k.ID, strings.Join(k.Reasons, ", "), until, strings.TrimSuffix(k.Rule+": "+k.Why, ": "))
	}
	return t.print(out)
}

func printCertificate(out io.Writer, c rights.Certificate) error {
	w := &errWriter{out: out}
	w.printf("Certificate %s\n", c.Number)
	records := 0
	for _, k := range circulation.Kinds() {
		records += c.Erased.Records[k.String()]
	}
	w.printf("Unlinked: %s; taken out of %s of others.\n", plural(records, "record"), plural(c.Erased.Mentions, "record"))
	if c.Erased.Key {
		w.printf("The key is destroyed, and the row removed: nothing of this patron opens again here.\n")
		if in := c.Unreachable.InBackups; in.IsZero() {
			w.printf("Old backups, with an old copy of the keyring or the keyring of today: the schedule has no horizon, so that their key never ends. See carrel keys schedule --horizon.\n")
		} else {
			w.printf("In old backups, whatever keys their thief has: by %s.\n", stamp(in))
		}
	} else {
		w.printf("Erased of the patron's record: %s. Kept, with the key: %s.\n", orNothing(c.Erased.Segments), orNothing(c.KeptSegments))
		w.printf("The patron is marked: nobody changes the record any more, and carrel rights purge erases the rest when nothing keeps it. carrel rights withdraw takes that back.\n")
	}
	if c.NumbersUnknown {
		w.printf("Whoever it was could not be read any more, so that only records under the ID were looked for: carrel rights purge finds those under a number.\n")
	}
	if len(c.Kept) > 0 {
		w.printf("\n")
	}
	if w.err != nil || len(c.Kept) == 0 {
		return w.err
	}
	return printKept(out, c.Kept)
}

func orNothing(list []string) string {
	if len(list) == 0 {
		return "nothing"
	}
	return strings.Join(list, ", ")
}

// A purgeReport is what `rights purge --json` says.
type purgeReport struct {
	rights.Purged
	DryRun bool         `json:"dry_run"`
	Left   []leftPatron `json:"left,omitempty"`
	Again  rights.Again `json:"again"` // who came back, by a late export or from a backup, and was erased again
}

// A leftPatron is somebody of whom something is left, or who could not be erased.
type leftPatron struct {
	Patron  patron.ID `json:"patron"`
	Reasons []string  `json:"reasons"`
}

func newRightsPurge() *cobra.Command {
	var r rightsFlags
	var expired, file, certificates string
	var partial, dry, asJSON bool
	cmd := &cobra.Command{
		Use:   "purge --db DSN [--expired-before DATE] [--patrons-file FILE] --actor A --role R --purpose P",
		Short: "Erase patrons whose time has come, and those whose erasure was waiting",
		Long: `Does what carrel rights erase does for many: always for those whose erasure was asked for and waited until nothing was owed or held any more, or was interrupted; with --expired-before
for all whose account expired before then; with --patrons-file for those whose IDs are in a file, one a line. And it looks for records and rows of people who are forgotten
already, brought back by a late export or from a backup, and erases them again. Meant to be run every night; it can be interrupted and run again.

Those who owe something are left as they are, and counted; with --partial what may go of theirs goes. --dry-run says what would be done, and changes nothing. Exit status 1: somebody's record
could not be opened, or something names somebody who is forgotten and is protected.`,
		Example: `  carrel rights purge --db library.db --policy policy.yaml --certificates /srv/certificates --actor job-night --role systems --purpose legal
  carrel rights purge --db library.db --expired-before 2024-01-01 --policy policy.yaml --dry-run --approval "retention rule 4" --actor dpo --role systems --purpose legal --json
  carrel rights purge --db library.db --expired-before 2024-01-01 --partial --policy policy.yaml --retain bookkeeping.yaml --certificates /srv/certificates --approval "retention rule 4" --actor job-night --role systems --purpose legal --json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p := rights.Purge{Request: rights.Request{Approval: r.approval, Partial: partial, DryRun: dry}}
			if (expired != "" || file != "") && r.approval == "" {
				return fmt.Errorf("%s--approval is missing: the reference under which it was decided to erase them", place(cmd))
			}
			if expired != "" {
				before, err := circulation.Times(time.UTC)(expired)
				if err != nil {
					return fmt.Errorf("--expired-before: %w", err)
				}
				if before.After(time.Now()) {
					return errors.New("--expired-before lies in the future: it would erase people whose account is in use")
				}
				p.ExpiredBefore = before
			}
			if file != "" {
				var err error
				if p.Patrons, err = readPatrons(cmd, file); err != nil {
					return err
				}
			}
			if certificates != "" {
				if info, err := os.Stat(certificates); err != nil || !info.IsDir() {
					return fmt.Errorf("--certificates %s: is not a directory", certificates)
				}
			}
			report := purgeReport{DryRun: dry}
			err := r.office(cmd, func(o *openedOffice) (err error) {
				show := newProgress(cmd.ErrOrStderr(), "erasing", 0)
				defer show.end()
				looked := 0
				p.Done = func(id patron.ID, c rights.Certificate, err error) error {
					looked++
					show.set(int64(looked), plural(looked, "patron"))
					report.note(id, c, err)
					if certificates == "" || !tells(c) {
						return nil
					}
					return writePrivate(filepath.Join(certificates, c.Number+".txt"), c.Signed)
				}
				if !dry {
					report.Again, err = o.EraseAgain(cmd.Context(), r.call())
				}
				if err == nil {
					report.Purged, err = o.Purge(cmd.Context(), r.call(), p)
				}
				if err == nil && !dry && (report.Erased+report.Partly+report.Again.Persons+report.Again.Rows > 0) {
					err = o.finish(cmd)
				}
				if err != nil && cmd.Context().Err() != nil {
					return interruption(fmt.Sprintf("%sinterrupted after %s; run it again and it goes on", place(cmd), plural(looked, "patron")))
				}
				return err
			})
			if err != nil {
				return err
			}
			if asJSON {
				err = printJSON(cmd, report)
			} else {
				err = printPurge(cmd.OutOrStdout(), report)
			}
			if err == nil && (report.Failed > 0 || len(report.Again.Kept) > 0) {
				err = errFound
			}
			return err
		},
	}
	r.register(cmd, "reference of what was decided, for the audit trail and the certificates")
	r.registerPolicies(cmd)
	f := cmd.Flags()
	f.StringVar(&expired, "expired-before", "", "all patrons whose account expired before this date")
	f.StringVar(&file, "patrons-file", "", "file with IDs of patrons, one a line, - for standard input")
	f.StringVar(&certificates, "certificates", "", "directory to write a signed certificate of each to")
	f.BoolVar(&partial, "partial", false, "erase what may go of those who owe something, and keep the rest until that is settled")
	f.BoolVar(&dry, "dry-run", false, "say what would be done and change nothing")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// tells reports whether a certificate says that something was erased: of those who wait there is none every night.
func tells(c rights.Certificate) bool {
	return len(c.Signed) > 0 && !c.Before && (c.Erased.Key || len(c.Erased.Records) > 0 || len(c.Erased.Segments) > 0)
}

// note takes down of whom something is left.
func (r *purgeReport) note(id patron.ID, c rights.Certificate, err error) {
	kept := c.Kept
	var owed *rights.ObligationsError
	switch {
	case errors.As(err, &owed):
		kept = owed.Kept
	case errors.Is(err, patron.ErrNotFound), c.Before:
		r.Left = append(r.Left, leftPatron{id, []string{"not-there"}})
		return
	case errors.Is(err, patron.ErrDenied):
		r.Left = append(r.Left, leftPatron{id, []string{"restricted"}})
		return
	case err != nil:
		r.Left = append(r.Left, leftPatron{id, []string{"failed"}})
		return
	}
	reasons := map[string]bool{}
	for _, k := range kept {
		for _, why := range k.Reasons {
			reasons[why] = true
		}
	}
	if len(reasons) > 0 {
		r.Left = append(r.Left, leftPatron{id, slices.Sorted(maps.Keys(reasons))})
	}
}

func printPurge(out io.Writer, r purgeReport) error {
	w := &errWriter{out: out}
	done := "erased"
	if r.DryRun {
		done = "would be erased"
	}
	w.printf("%s looked at: %d %s, %d partly, %d refused, %d not there, %d failed.\n", plural(r.Looked, "patron"), r.Erased, done, r.Partly, r.Refused, r.Missing, r.Failed)
	t := table{columns: []string{"KEPT BECAUSE", "RECORDS"}}
	for _, why := range slices.Sorted(maps.Keys(r.Reasons)) {
		t.add(why, thousands(r.Reasons[why]))
	}
	n := 0
	for _, k := range r.Again.Records {
		n += k
	}
	if n+r.Again.Rows > 0 {
		w.printf("Came back and erased again: %s, %s of patrons.\n", plural(n, "record"), plural(r.Again.Rows, "row"))
	}
	if len(r.Again.Kept) > 0 {
		w.printf(namesForgotten)
	}
	if w.err == nil && len(r.Again.Kept) > 0 {
		w.err = printKept(out, r.Again.Kept)
	}
	if w.err == nil && len(t.rows) > 0 {
		w.err = t.print(out)
	}
	return w.err
}

// namesForgotten comes before a list.
const namesForgotten = "These name somebody who is forgotten, and are protected. Settle what they are about (take the item back, close the fee or the request, import that), and the next carrel rights purge unlinks them:\n"

// readPatrons reads IDs, one a line.
func readPatrons(cmd *cobra.Command, name string) (ids []patron.ID, err error) {
	data, err := readFile(cmd, name, 1<<26)
	if err != nil {
		return nil, err
	}
	s := bufio.NewScanner(strings.NewReader(strings.TrimPrefix(string(data), "\ufeff")))
	for n := 1; s.Scan(); n++ {
		text := strings.TrimSpace(s.Text())
		if text == "" {
			continue
		}
		id, err := patron.ParseID(text)
		if err != nil {
			return nil, fmt.Errorf("%s: line %d: not an ID, as in 6f9619ff-8b86-4d01-b42d-00cf4fc964ff", name, n)
		}
		ids = append(ids, id)
	}
	return ids, s.Err()
}

// writePrivate writes a file that must not exist yet and that only its owner may read.
func writePrivate(name string, data []byte) error {
	f, err := draftOf(name)
	if err != nil {
		return err
	}
	defer f.drop()
	if _, err := f.Write(data); err != nil {
		return f.failed(err)
	}
	_, err = f.publish()
	return err
}
