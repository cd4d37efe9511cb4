package patron

import (
	"bytes"
	"context"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tink-crypto/tink-go/v2/tink"

	"github.com/carrel-project/carrel/access"
	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/crypto"
)

// A world is a directory with all that it stands on. What the directory asks of its store, its keys and its trail is noted in one
// list, so that a test can tell what came first.
type world struct {
	*Directory
	t     testing.TB
	store *memory
	trail *trail
	keys  *crypto.Keyring
	path  string
	kek   tink.AEAD
}

func newWorld(t testing.TB, options ...func(*Config)) *world {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, crypto.CreateKEK(filepath.Join(dir, "kek")))
	kek, err := crypto.OpenKEK(filepath.Join(dir, "kek"))
	require.NoError(t, err)
	w := &world{t: t, path: filepath.Join(dir, "keys"), kek: kek}
	require.NoError(t, crypto.CreateKeyring(w.path, kek))
	w.store = newMemory()
	w.trail = &trail{log: &w.store.log}
	return w.again(options...)
}

// again opens another directory on the same files and store, as another process would.
func (w *world) again(options ...func(*Config)) *world {
	w.t.Helper()
	n := *w
	var err error
	n.keys, err = crypto.OpenKeyring(context.Background(), crypto.Config{Path: w.path, KEK: w.kek, Store: w.store})
	require.NoError(w.t, err)
	cfg := Config{Store: w.store, Keys: n.keys, Access: everything{}, Recorder: w.trail, Grants: w.store}
	for _, o := range options {
		o(&cfg)
	}
	n.Directory, err = New(cfg)
	require.NoError(w.t, err)
	return &n
}

func withLookups(l ...Lookup) func(*Config)     { return func(c *Config) { c.Lookups = l } }
func withAccess(d access.Decider) func(*Config) { return func(c *Config) { c.Access = d } }
func withNow(now func() time.Time) func(*Config) {
	return func(c *Config) { c.Now = now }
}
func withRecorder(r audit.Recorder) func(*Config) { return func(c *Config) { c.Recorder = r } }

// everything is a decider that allows everything.
type everything struct{}

func (everything) Decide(context.Context, access.Request) (access.Decision, error) {
	d := access.Decision{Acts: 1<<8 - 1, BreakGlass: allSegments}
	for s := range allSegments.All() {
		d.Levels = d.Levels.With(s, access.Full)
	}
	return d, nil
}

var anyone = Call{Actor: "staff-17", Role: "any", Purpose: "any", Channel: audit.UI}

func secret(s string) crypto.Secret { return crypto.NewSecret(s) }

func person(identifiers ...string) Profile {
	p := Profile{Names: []Name{{Use: "legal", First: secret("Anna"), Last: secret("Svensson")}}}
	for _, id := range identifiers {
		p.Identifiers = append(p.Identifiers, Identifier{"barcode", secret(id)})
	}
	return p
}

func (w *world) create(p Profile) ID {
	w.t.Helper()
	id, err := w.Create(context.Background(), anyone, p)
	require.NoError(w.t, err)
	return id
}

// plain is a profile as text, to compare with require.
func plain(p Profile) map[string]string {
	m := map[string]string{}
	for s := range allSegments.All() {
		if p.Has(s) {
			m[s.String()] = p.encode(s).Reveal()
		}
	}
	return m
}

// A trail keeps events. What it does besides can be hooked.
type trail struct {
	log *journal

	mu     sync.Mutex
	events []audit.Event
	hook   func(context.Context, audit.Event) error
}

func (r *trail) Record(ctx context.Context, e audit.Event) error {
	r.mu.Lock()
	hook := r.hook
	r.mu.Unlock()
	if hook != nil {
		if err := hook(ctx, e); err != nil {
			return err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	e.Subjects = slices.Clone(e.Subjects)
	r.events = append(r.events, e)
	r.log.note("record " + string(e.Outcome))
	return nil
}

// take returns the events so far and forgets them.
func (r *trail) take() []audit.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	events := r.events
	r.events = nil
	return events
}

func (r *trail) hooked(hook func(context.Context, audit.Event) error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hook = hook
}

// A journal is what happened, in order.
type journal struct {
	mu  sync.Mutex
	ops []string
}

func (j *journal) note(op string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.ops = append(j.ops, op)
}

func (j *journal) take() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	ops := j.ops
	j.ops = nil
	return ops
}

// memory keeps patrons, keys and grants in maps. Before each operation a hook may refuse it.
type memory struct {
	log journal

	mu      sync.Mutex
	hook    func(op string) error
	rows    map[ID]Row
	owners  map[crypto.Token]map[ID]bool
	indexed uint64
	keys    map[crypto.Subject]crypto.WrappedKey
	grants  map[string]Grant
}

func newMemory() *memory {
	return &memory{rows: map[ID]Row{}, owners: map[crypto.Token]map[ID]bool{}, keys: map[crypto.Subject]crypto.WrappedKey{}, grants: map[string]Grant{}}
}

func (m *memory) hooked(hook func(op string) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hook = hook
}

func (m *memory) start(ctx context.Context, op string) error {
	m.mu.Lock()
	hook := m.hook
	m.mu.Unlock()
	if hook != nil {
		if err := hook(op); err != nil {
			return err
		}
	}
	m.log.note(op)
	return ctx.Err()
}

func copyRow(r Row) Row {
	r.Facts.Categories = slices.Clone(r.Facts.Categories)
	r.Tokens, r.Lookups, r.Segments = slices.Clone(r.Tokens), slices.Clone(r.Lookups), slices.Clone(r.Segments)
	for i := range r.Segments {
		r.Segments[i].Data = bytes.Clone(r.Segments[i].Data)
	}
	return r
}

func (m *memory) Get(ctx context.Context, id ID) (Row, error) {
	if err := m.start(ctx, "get"); err != nil {
		return Row{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.rows[id]
	if !ok {
		return Row{}, ErrNotFound
	}
	return copyRow(r), nil
}

func (m *memory) Find(ctx context.Context, tokens []crypto.Token) (Found, error) {
	if err := m.start(ctx, "find"); err != nil {
		return Found{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	f := Found{Owners: map[crypto.Token][]ID{}, Indexed: m.indexed}
	for _, t := range tokens {
		if ids := m.owners[t]; len(ids) > 0 {
			f.Owners[t] = slices.Collect(maps.Keys(ids))
		}
	}
	return f, nil
}

func (m *memory) Write(ctx context.Context, batch Batch) error {
	if err := m.start(ctx, "write"); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if batch.Indexed < m.indexed {
		return ErrStaleIndexes
	}
	claimed, seen := map[crypto.Token]ID{}, map[ID]bool{}
	for _, w := range batch.Writes {
		if m.rows[w.Row.ID].Version != w.Old {
			return &ConflictError{w.Row.ID}
		}
		if seen[w.Row.ID] {
			panic("an ID occurs twice in a batch")
		}
		seen[w.Row.ID] = true
	}
	for _, w := range batch.Writes {
		for _, t := range w.Row.Tokens {
			for id := range m.owners[t] {
				if id != w.Row.ID && !seen[id] {
					return &DuplicateError{w.Row.ID}
				}
			}
			if by, ok := claimed[t]; ok && by != w.Row.ID {
				return &DuplicateError{w.Row.ID}
			}
			claimed[t] = w.Row.ID
		}
	}
	m.indexed = batch.Indexed
	for _, w := range batch.Writes {
		old := m.rows[w.Row.ID]
		for _, t := range append(slices.Clone(old.Tokens), old.Lookups...) {
			delete(m.owners[t], w.Row.ID)
			if len(m.owners[t]) == 0 {
				delete(m.owners, t)
			}
		}
		delete(m.rows, w.Row.ID)
		if w.Remove {
			continue
		}
		m.rows[w.Row.ID] = copyRow(w.Row)
		for _, t := range append(slices.Clone(w.Row.Tokens), w.Row.Lookups...) {
			if m.owners[t] == nil {
				m.owners[t] = map[ID]bool{}
			}
			m.owners[t][w.Row.ID] = true
		}
	}
	return nil
}

func (m *memory) Rows(ctx context.Context, q Query) ([]Row, error) {
	if err := m.start(ctx, "rows"); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var ids []ID
	for id, r := range m.rows {
		if bytes.Compare(id[:], q.After[:]) > 0 && (q.IndexedBefore == 0 || r.Indexed < q.IndexedBefore) {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b ID) int { return bytes.Compare(a[:], b[:]) })
	var page []Row
	for _, id := range ids[:min(len(ids), q.Limit)] {
		page = append(page, copyRow(m.rows[id]))
	}
	return page, nil
}

// tamper lets a test change rows as somebody with the database could.
func (m *memory) tamper(id ID, f func(*Row)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := copyRow(m.rows[id])
	f(&r)
	m.rows[id] = r
}

func (m *memory) row(id ID) Row {
	m.mu.Lock()
	defer m.mu.Unlock()
	return copyRow(m.rows[id])
}

func (m *memory) size() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.rows)
}

func (m *memory) Key(ctx context.Context, s crypto.Subject) (crypto.WrappedKey, error) {
	if err := m.start(ctx, "key"); err != nil {
		return crypto.WrappedKey{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	k, ok := m.keys[s]
	if !ok {
		return k, crypto.ErrNoKey
	}
	return k, nil
}

func (m *memory) PutKeys(ctx context.Context, changes []crypto.KeyChange) (lost []crypto.Subject, err error) {
	if err := m.start(ctx, "put keys"); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range changes {
		is, ok := m.keys[c.Key.Subject]
		if c.Old == nil && ok || c.Old != nil && (!ok || !bytes.Equal(is.Wrapped, c.Old)) {
			lost = append(lost, c.Key.Subject)
			continue
		}
		m.keys[c.Key.Subject] = c.Key
	}
	return lost, nil
}

func (m *memory) OlderKeys(ctx context.Context, before uint32, after crypto.Subject, limit int) (page []crypto.WrappedKey, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range slices.Sorted(maps.Keys(m.keys)) {
		if k := m.keys[s]; s > after && k.Epoch < before && len(page) < limit {
			page = append(page, k)
		}
	}
	return page, ctx.Err()
}

func (m *memory) DeleteKey(ctx context.Context, s crypto.Subject) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.keys, s)
	return ctx.Err()
}

func (m *memory) AddGrant(ctx context.Context, g Grant) error {
	if err := m.start(ctx, "add grant"); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, is := range m.grants {
		if is.Actor == g.Actor && is.Reviewer == "" {
			return access.ErrUnreviewed
		}
	}
	m.grants[g.ID] = g
	return nil
}

func (m *memory) Grant(ctx context.Context, id string) (Grant, error) {
	if err := m.start(ctx, "grant"); err != nil {
		return Grant{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	g, ok := m.grants[id]
	if !ok {
		return g, ErrNotFound
	}
	return g, nil
}

func (m *memory) Unreviewed(ctx context.Context, actor string) (list []Grant, err error) {
	if err := m.start(ctx, "unreviewed"); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, g := range m.grants {
		if g.Reviewer == "" && (actor == "" || g.Actor == actor) {
			list = append(list, g)
		}
	}
	slices.SortFunc(list, func(a, b Grant) int { return a.Issued.Compare(b.Issued) })
	return list, nil
}

func (m *memory) ReviewGrant(ctx context.Context, id, reviewer string, at time.Time) error {
	if err := m.start(ctx, "review grant"); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	g, ok := m.grants[id]
	switch {
	case !ok:
		return ErrNotFound
	case g.Reviewer != "":
		return ErrReviewed
	}
	g.Reviewer, g.Reviewed = reviewer, at
	m.grants[id] = g
	return nil
}
