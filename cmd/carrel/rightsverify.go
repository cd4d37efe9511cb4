package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/rights"
)

// A certificateReport is what `rights verify --json` says.
type certificateReport struct {
	Signed bool `json:"signed"` // by this installation, and unchanged
	rights.Certificate
	Tombstone *bool `json:"tombstone,omitempty"` // whether the erasure ledger has the patron's; absent: it was not asked
}

var errWhichKey = errors.New("want either --keys or --key")

func newRightsVerify() *cobra.Command {
	var public, keys string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "verify CERTIFICATE (--key TEXT | --keys FILE)",
		Short: "Check a certificate of erasure",
		Long: `Checks that a certificate is as it was signed, with the text that carrel log key prints, which anybody may have; or with the keyring, and then also that the patron's tombstone
is in the erasure ledger, as it is after any restore. Exit status 1: it is not.`,
		Example: `  carrel rights verify erased.txt --key "carrel/…"
  carrel rights verify erased.txt --keys library.db.keys --json`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return fmt.Errorf("%swhich file? want the name of one certificate, got %d", place(cmd), len(args))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if public != "" && keys != "" {
				return fmt.Errorf("%s%w", place(cmd), errWhichKey)
			}
			signed, err := readFile(cmd, args[0], 1<<24)
			if err != nil {
				return err
			}
			var report certificateReport
			if public != "" {
				if report.Certificate, err = rights.OpenCertificate(signed, public); err != nil && !errors.Is(err, audit.ErrStatement) {
					return fmt.Errorf("%s--key: want the text that carrel log key prints", place(cmd))
				}
			} else {
				err = report.check(cmd, signed, keys)
			}
			if errors.Is(err, audit.ErrStatement) {
				if asJSON {
					if err := printJSON(cmd, certificateReport{}); err != nil {
						return err
					}
				}
				fmt.Fprintf(cmd.ErrOrStderr(), "carrel: %s%s: is no certificate that this installation has signed, or was changed since\n", place(cmd), args[0])
				return errFound
			} else if err != nil {
				return err
			}
			report.Signed = true
			if asJSON {
				err = printJSON(cmd, report)
			} else {
				err = report.print(cmd)
			}
			if err == nil && report.Tombstone != nil && report.Erased.Key && !*report.Tombstone {
				err = errFound
			}
			return err
		},
	}
	cmd.Flags().StringVar(&public, "key", "", "the text that carrel log key prints, instead of a keyring")
	addKeysFlag(cmd, &keys)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// check checks a certificate with the keyring, and asks the ledger.
func (r *certificateReport) check(cmd *cobra.Command, signed []byte, flag string) error {
	if flag == "" && os.Getenv("CARREL_KEYS") == "" {
		return fmt.Errorf("%s%w", place(cmd), errWhichKey)
	}
	files, err := keysBeside(flag, "")
	if err != nil {
		return err
	}
	k, err := files.open(cmd.Context(), nil, nil)
	if err != nil {
		return err
	}
	key, err := audit.VerifierKey(cmd.Context(), k)
	if err != nil {
		return keyProblem(err)
	}
	if r.Certificate, err = rights.OpenCertificate(signed, key); err != nil {
		return err
	}
	tombstones, err := k.Forgotten(cmd.Context(), r.Patron.Subject())
	there := len(tombstones) > 0
	r.Tombstone = &there
	return keyProblem(err)
}

func (r *certificateReport) print(cmd *cobra.Command) error {
	w := &errWriter{out: cmd.OutOrStdout()}
	w.printf("Signed by installation %s on %s.\n", r.Installation, stamp(r.Issued))
	switch {
	case r.Tombstone == nil || !r.Erased.Key:
	case *r.Tombstone:
		w.printf("The patron's tombstone is in the erasure ledger.\n")
	default:
		w.printf("THE PATRON'S TOMBSTONE IS NOT IN THE ERASURE LEDGER of this keyring.\n")
	}
	if w.err != nil {
		return w.err
	}
	return printCertificate(cmd.OutOrStdout(), r.Certificate)
}
