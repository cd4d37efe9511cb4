package audit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/mod/sumdb/note"

	"github.com/carrel-project/carrel/crypto"
)

// VerifyConfig says what to verify, and against what.
type VerifyConfig struct {
	Store    Store
	Verifier note.Verifier // see [VerifierKey]

	// Key checks that entries were written by a holder of the keyring. Nil: an auditor who has none; then it is not checked, and whoever
	// owns the database can add entries, claims of pruning among them, before they are signed.
	Key *crypto.TrailKey

	// Anchored is, for each anchor, the checkpoints that it has, in its order: see [FileAnchor.Checkpoints]. Read them before Verify begins. Without any, nothing is
	// found that whoever holds the keyring has done, and no cut that goes back to an older signed checkpoint.
	Anchored [][][]byte

	// Progress hears how many of the entries were read. It is not called by two goroutines at a time. May be nil.
	Progress func(done, all uint64)
}

// A FindingKind is what was done to a trail.
type FindingKind string

// The kinds of findings.
const (
	Edited     FindingKind = "edited"     // an entry is not the one that was signed
	Missing    FindingKind = "missing"    // an entry was deleted, and no prune says so
	Inserted   FindingKind = "inserted"   // an entry stands between the ones that were signed
	Moved      FindingKind = "moved"      // an entry stands elsewhere than it was signed; of a swap both places are named
	Cut        FindingKind = "cut"        // the end of the log is gone
	Lost       FindingKind = "lost"       // all of it is
	Forked     FindingKind = "forked"     // between two checkpoints, history is another than the one that was signed
	Tampered   FindingKind = "tree"       // the stored tree is not what the entries give; they are as they were signed
	Unsigned   FindingKind = "checkpoint" // a checkpoint, stored or anchored, is none of this trail
	Repeated   FindingKind = "repeated"   // an entry is a copy of an earlier one
	Forged     FindingKind = "forged"     // an entry was not written by a holder of the keyring
	FalseClaim FindingKind = "claim"      // a prune or a loss is claimed by somebody who cannot claim it, or for what it is not
	Declared   FindingKind = "declared"   // entries are lost, and [Trail.Restore] said so
)

// A Finding is one thing that is wrong with a trail, with the numbers From ≤ n < To of the entries. They are the numbers with which the entries were
// signed; of entries that were not, the ones they have. Both are zero when it is about no entries.
type Finding struct {
	Kind   FindingKind `json:"kind"`
	From   uint64      `json:"from"`
	To     uint64      `json:"to"`
	Detail string      `json:"detail,omitempty"`
}

// A Verification is what Verify found.
type Verification struct {
	Size      uint64 `json:"size"`      // entries in the tree, counting those that were pruned
	Entries   uint64 `json:"entries"`   // that are there, without the pending ones
	Pruned    uint64 `json:"pruned"`    // whose content is gone, as a prune says
	Collapsed uint64 `json:"collapsed"` // the entries before this number are gone with their hashes
	Pending   uint64 `json:"pending"`   // entries that no checkpoint covers yet

	Anchored    uint64 `json:"anchored"`    // size of the largest anchored tree
	Checkpoints int    `json:"checkpoints"` // that are anchored, signed and agree with the log
	Unchecked   int    `json:"unchecked"`   // anchored and signed, of trees inside a part that has collapsed or is damaged

	Unanchored uint64 `json:"unanchored"` // entries in the tree that come after the last one under an anchored checkpoint
	Torn       int    `json:"torn"`       // beginnings of checkpoints in the anchor, as a crash or a full disk leaves them

	Findings []Finding `json:"findings"` // by number
}

// OK reports whether nothing was found.
func (v Verification) OK() bool { return len(v.Findings) == 0 }

// Intact reports whether nothing was found but losses that were declared.
func (v Verification) Intact() bool {
	return !slices.ContainsFunc(v.Findings, func(f Finding) bool { return f.Kind != Declared })
}

// Verify reads a whole trail and says what was done to it. What it finds it can name exactly as long as one of the copies of the tree – the leaf
// hashes, the tiles above them, the signed checkpoints – was left alone: an edited, deleted, moved or inserted entry by its number; one whose leaf hash was
// rewritten, too, within 256 numbers; one for which the whole tree was rewritten, within two anchored checkpoints. Entries that no checkpoint
// covers yet are not a finding.
//
// It may run while the trail is written to. An error says that the trail could not be read, never that something is wrong with it.
func Verify(ctx context.Context, cfg VerifyConfig) (Verification, error) {
	if cfg.Store == nil || cfg.Verifier == nil {
		return Verification{}, errors.New("audit: VerifyConfig needs a Store and a Verifier")
	}
	anchored, torn, findings, err := openAnchored(ctx, cfg)
	if err != nil {
		return Verification{}, err
	}
	for try := 0; ; try++ {
		v := &verifier{VerifyConfig: cfg, ctx: ctx, anchored: anchored}
		v.result.Findings, v.result.Torn = slices.Clone(findings), torn
		if err := v.run(); err != nil {
			return Verification{}, err
		}
		if v.result.OK() || try == 2 {
			return v.result, nil
		}
		// A prune at the same time looks like a deletion, for those who began before its claim was signed.
		now, err := cfg.Store.Tree(ctx)
		if err != nil {
			return Verification{}, err
		}
		if now.Size == v.tree.Size && string(now.Checkpoint) == string(v.tree.Checkpoint) {
			return v.result, nil
		}
	}
}

// A verifier is one run of Verify.
type verifier struct {
	VerifyConfig
	ctx      context.Context
	anchored []signedTree // by size
	result   Verification

	tree    Tree
	stored  *signedTree // the checkpoint in the store; nil: there is none of ours
	scan    scan
	upper   []level // of hashes above the leaves; [0] is not used
	claims  claims
	pending []pendingHash
}

func (v *verifier) find(kind FindingKind, from, to uint64, format string, args ...any) {
	v.result.Findings = append(v.result.Findings, Finding{kind, from, to, fmt.Sprintf(format, args...)})
}

func (v *verifier) run() (err error) {
	if v.tree, err = v.Store.Tree(v.ctx); err != nil {
		return err
	}
	v.openStored()
	// Nobody has signed a larger tree than these.
	signed := uint64(0)
	if tree, err := OpenCheckpoint(v.tree.Checkpoint, v.Verifier); err == nil {
		signed = uint64(tree.N)
	}
	for _, a := range v.anchored {
		signed = max(signed, a.size())
	}
	if v.tree.Size > 2*signed+1<<20 { // so much would be made room for
		v.find(Tampered, 0, 0, "the store says that its tree has %d entries, and nobody has signed more than %d", v.tree.Size, signed)
		v.tree.Size = signed
	}
	if err := v.readUpper(); err != nil {
		return err
	}
	if err := v.readEntries(); err != nil {
		return err
	}
	v.settleLeaves()
	v.settleTree()
	if err := v.checkRoots(); err != nil {
		return err
	}
	if err := v.readClaims(); err != nil {
		return err
	}
	if err := v.checkClaims(); err != nil {
		return err
	}
	v.checkTiles()
	v.checkAnchored()
	if err := v.checkEntries(); err != nil {
		return err
	}
	v.count()
	return nil
}

// count fills in the numbers of the result, and puts the findings in order.
func (v *verifier) count() {
	r := &v.result
	r.Size, r.Collapsed, r.Entries = v.tree.Size, v.claims.collapsed, v.scan.bodies
	for _, m := range v.scan.missing {
		r.Pruned += v.claims.covers(m)
	}
	for _, a := range v.anchored {
		r.Anchored = max(r.Anchored, a.size())
	}
	r.Unanchored = r.Size - min(r.Size, r.Anchored)
	slices.SortStableFunc(r.Findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.To, b.To), cmp.Compare(a.Detail, b.Detail))
	})
	merged := make([]Finding, 0, len(r.Findings))
	for _, f := range r.Findings {
		if n := len(merged) - 1; n >= 0 && f.To > 0 && merged[n].Kind == f.Kind && merged[n].Detail == f.Detail && merged[n].To >= f.From {
			merged[n].To = max(merged[n].To, f.To)
			continue
		}
		merged = append(merged, f)
	}
	r.Findings = merged
}
