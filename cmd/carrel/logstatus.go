package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/carrel-project/carrel/audit"
)

func newLogStatus() *cobra.Command {
	var dsn, keys string
	var anchors []string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status --db DSN",
		Short: "Say how long the trail is, and whether its checkpoints keep up",
		Long: `Counts, without opening anything: entries, those that no checkpoint covers yet, how far the anchor is and
when it was written, what waits in the spool. It needs no keys, and proves nothing: carrel log verify does.

Exit status 1: the anchor and the trail are not equally far, or the trail has checkpoints and no anchor.`,
		Example: `  carrel log status --db library.db --json`,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := needed(cmd, "db"); err != nil {
				return err
			}
			if len(anchors) > 1 {
				return errors.New("log status: one --anchor at a time")
			}
			return withDatabase(cmd.Context(), dsn, readOnly, func(d *database) error {
				if err := d.besideKeyring(keys); err != nil {
					return err
				}
				paths, err := d.anchorPaths(anchors)
				if err != nil {
					return err
				}
				s := logStatus{Anchor: paths[0]}
				sizes, written, err := anchorSizes(s.Anchor) // before the trail, which goes ahead of it
				if err != nil {
					return trailProblem(err)
				}
				tree, err := d.log(d.db).Tree(cmd.Context())
				if err != nil {
					return err
				}
				s.Entries, s.Pending = tree.Next, tree.Next-min(tree.Next, tree.Size)
				if !written.IsZero() {
					text := stamp(written.Truncate(time.Second))
					s.Anchored = &text
				}
				if s.Spooled, s.Aside, err = d.spooled(); err != nil {
					return err
				}
				problem := s.compare(sizes, written, tree.Size)
				if asJSON {
					err = printJSON(cmd, s)
				} else {
					err = s.print(cmd, problem)
				}
				if err == nil && problem != "" {
					err = errFound
				}
				return err
			})
		},
	}
	addDBFlag(cmd, &dsn)
	cmd.Flags().StringVar(&keys, "keys", "", "of a database on a server: the keyring beside which anchor and spool are (default $CARREL_KEYS); it is not opened")
	addAnchorFlag(cmd, &anchors)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// anchorSizes returns over how many entries the last checkpoints of an anchor are, by their own word, and when the file was written.
func anchorSizes(path string) (sizes []uint64, written time.Time, err error) {
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, written, nil
	} else if err != nil {
		return nil, written, fmt.Errorf("anchor %s: %w", path, reason(err))
	}
	recent, err := audit.NewFileAnchor(path).Recent()
	if err != nil {
		return nil, written, err
	}
	for _, checkpoint := range recent {
		lines := bytes.SplitN(checkpoint, []byte("\n"), 3)
		if len(lines) < 3 || !bytes.Contains(lines[2], []byte("\n\n— ")) {
			continue // half of one
		}
		if size, err := strconv.ParseUint(string(lines[1]), 10, 63); err == nil {
			sizes = append(sizes, size)
		}
	}
	if info.Size() == 0 {
		return sizes, written, nil
	}
	return sizes, info.ModTime(), nil
}

// logStatus is what log status --json prints.
type logStatus struct {
	Entries  uint64  `json:"entries"` // counting those that were pruned
	Pending  uint64  `json:"pending"`
	Anchor   string  `json:"anchor"`
	Anchored *string `json:"anchored"`         // when it was written last
	Size     uint64  `json:"anchored_entries"` // that its last checkpoint is over
	Spooled  int64   `json:"spooled_bytes"`
	Aside    int     `json:"spool_damaged"`
}

// compare says what is wrong between an anchor and a tree, if anything is. Of several processes one may have anchored an older checkpoint after a
// newer one, and the last may not have come to it yet.
func (s *logStatus) compare(sizes []uint64, written time.Time, tree uint64) string {
	if len(sizes) == 0 {
		if tree == 0 {
			return ""
		}
		return fmt.Sprintf("the anchor has no checkpoint, the trail has %s: see carrel log verify", plural(int(tree), "entry"))
	}
	s.Size = sizes[len(sizes)-1]
	level := false
	for _, size := range sizes {
		level = level || size == tree
	}
	if s.Size > tree || !level && time.Since(written) > time.Minute {
		return fmt.Sprintf("the anchor is over %s, the trail has %s: see carrel log verify", plural(int(s.Size), "entry"), thousands(int(tree)))
	}
	return ""
}

func (s *logStatus) print(cmd *cobra.Command, problem string) error {
	w := &errWriter{out: cmd.OutOrStdout()}
	w.printf("%s, %s not yet under a checkpoint\n", plural(int(s.Entries), "entry"), thousands(int(s.Pending)))
	if s.Anchored == nil {
		w.printf("no anchor %s\n", oneLine(s.Anchor))
	} else {
		w.printf("anchor %s, written last at %s, over %s\n", oneLine(s.Anchor), *s.Anchored, plural(int(s.Size), "entry"))
	}
	if problem != "" {
		w.printf("%s\n", problem)
	}
	w.printf("spool: %s bytes, %s put aside\n", thousands(int(s.Spooled)), plural(s.Aside, "file"))
	return w.err
}
