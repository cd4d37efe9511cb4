package main

import (
	"bufio"

	"github.com/spf13/cobra"

	"github.com/carrel-project/carrel/rights"
)

func newRightsExport() *cobra.Command {
	var r rightsFlags
	var who whoFlags
	var to recipientFlags
	var out string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "export --db DSN (--id ID | --identifier-file FILE) --out FILE (--recipient KEY | --passphrase-file FILE) --actor A --role R --purpose P",
		Short: "Write a copy of everything that is held on a patron, encrypted",
		Long: `Writes everything that is held on a patron to an age file with a zip archive in it: profile.json; circulation.jsonl, the loans, requests, fees and
notices that still name them; seen.json, who looked at their record in which capacity and for what; manifest.json, with counts and hashes. Records that were unlinked
are not in it: nobody knows any more whose they were. Other people whom records mention are not either.

It opens with the ordinary age tool: age -d -o copy.zip copy.zip.age. The role has to see all of the record for the purpose, and to have the right
to export; that it was done is recorded first. The file is made with access for its owner only and never overwritten.`,
		Example: `  carrel rights export --db library.db --id 6f9619ff-8b86-4d01-b42d-00cf4fc964ff --out copy.zip.age --recipient age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p --approval "demand 31" --actor staff-3 --role patron-services --purpose legal
  echo 99999395390 | carrel rights export --db library.db --identifier-file - --out copy.zip.age --passphrase-file phrase --actor staff-3 --role patron-services --purpose legal`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if err := needed(cmd, "out"); err != nil {
				return err
			}
			recipients, err := to.recipients(cmd)
			if err != nil {
				return err
			}
			var m rights.Manifest
			err = r.office(cmd, func(o *openedOffice) error {
				id, err := who.find(cmd, &r.patronFlags, o.dir)
				if err != nil {
					return err
				}
				if out == "-" {
					w := bufio.NewWriter(cmd.OutOrStdout())
					if m, err = o.Export(cmd.Context(), r.call(), id, r.request(), w, recipients...); err != nil {
						return err
					}
					return w.Flush()
				}
				file, err := draftOf(out)
				if err != nil {
					return err
				}
				defer file.drop()
				w := bufio.NewWriter(file)
				if m, err = o.Export(cmd.Context(), r.call(), id, r.request(), w, recipients...); err != nil {
					return err
				}
				if err := w.Flush(); err != nil {
					return file.failed(err)
				}
				_, err = file.publish()
				return err
			})
			if err != nil {
				return err
			}
			if out == "-" {
				return nil
			}
			if asJSON {
				return printJSON(cmd, m)
			}
			t := table{columns: words("FILE ROWS BYTES WHAT")}
			for _, f := range m.Files {
				t.add(f.Name, thousands(f.Rows), thousands(int(f.Bytes)), f.What)
			}
			return t.print(cmd.OutOrStdout())
		},
	}
	r.register(cmd, "reference of the patron's demand")
	who.register(cmd)
	cmd.Flags().StringVar(&out, "out", "", "the file to write; - for standard output")
	to.register(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the manifest as JSON")
	return cmd
}

func newRightsInventory() *cobra.Command {
	var policyFile string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "inventory [--policy FILE]",
		Short: "List the personal data that carrel holds: what, what for, for how long, how sealed",
		Long: `Prints a table in Markdown of all personal data that carrel's tables hold, with purpose, retention and how they are sealed: a draft of the record of processing activities
(article 30). It is made from the program's own declarations, so that it is of this version; what the library does beside carrel is not in it.`,
		Example: `  carrel rights inventory --policy policy.yaml > processing.md
  carrel rights inventory --json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			items := rights.Inventory(nil)
			if policyFile != "" {
				policy, err := readPolicy(cmd, policyFile)
				if err != nil {
					return err
				}
				items = rights.Inventory(policy)
			}
			if asJSON {
				return printJSON(cmd, items)
			}
			return rights.WriteInventory(cmd.OutOrStdout(), items)
		},
	}
	cmd.Flags().StringVar(&policyFile, "policy", "", "the retention policy, for how long circulation records name somebody")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
