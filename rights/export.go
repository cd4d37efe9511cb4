package rights

import (
	"archive/zip"
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"time"

	"filippo.io/age"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/patron"
)

// A Manifest says what is in a copy. It is the last file in it.
type Manifest struct {
	Format       string    `json:"format"` // carrel-export 1
	Installation string    `json:"installation"`
	Patron       patron.ID `json:"patron"`
	Approval     string    `json:"approval,omitempty"`
	Created      time.Time `json:"created"`
	Files        []File    `json:"files"`
}

// A File is one file in a copy.
type File struct {
	Name   string `json:"name"`
	What   string `json:"what"`
	Rows   int    `json:"rows"` // segments' entries, records, looks
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

const exportFormat = "carrel-export 1"

var errNoRecipient = errors.New("rights: a copy is encrypted: it needs an age recipient or a passphrase")

// Export writes a copy of everything that is held on a patron (GDPR articles 15 and 20) to w: a zip archive, encrypted to age recipients (a passphrase is [age.NewScryptRecipient]), which the ordinary age tool opens.
// In it are profile.json, circulation.jsonl with the records that still name them, seen.json with who saw what of them in which capacity, and manifest.json with counts and hashes. Other people whom
// records mention are not in it. It needs what [patron.Directory.Copy] needs. With an error what was written is useless.
//
// Errors: [patron.ErrDenied], [patron.ErrNotFound], [patron.ErrNotRecorded], [crypto.ErrShredded]; those of the stores and of w.
func (o *Office) Export(ctx context.Context, call patron.Call, id patron.ID, r Request, w io.Writer, recipients ...age.Recipient) (Manifest, error) {
	if len(recipients) == 0 {
		return Manifest{}, errNoRecipient
	}
	m := Manifest{Format: exportFormat, Installation: o.Keys.ID(), Patron: id, Approval: r.Approval, Created: o.Now().UTC().Truncate(time.Second)}
	view, err := o.Directory.Copy(ctx, call, id, r.Approval)
	if err != nil {
		return Manifest{}, err
	}
	out, err := age.Encrypt(w, recipients...)
	if err != nil {
		return Manifest{}, errors.New("rights: the copy cannot be encrypted to these recipients")
	}
	x := &export{o: o, zip: zip.NewWriter(out), m: &m}
	err = errors.Join(
		x.add("profile.json", "what the patron's record says", func(w io.Writer) (int, error) { return writeProfile(w, id, &view.Profile) }),
		x.add("circulation.jsonl", "loans, requests, resource sharing, fees and notices that still name the patron, one a line", func(w io.Writer) (int, error) {
			return x.records(ctx, w, patron.References(id, view.Profile))
		}))
	if err == nil && o.Reporter != nil {
		err = x.add("seen.json", "when, for what purpose and in which capacity the record was looked up, looked at or given out, and to whom", func(w io.Writer) (int, error) {
			return x.seen(ctx, w, call, id)
		})
	}
	if err != nil {
		return Manifest{}, err
	}
	// The manifest does not name itself.
	f, err := x.zip.CreateHeader(&zip.FileHeader{Name: "manifest.json", Method: zip.Deflate, Modified: m.Created})
	if err == nil {
		err = writeJSON(f, m)
	}
	if err == nil {
		err = x.zip.Close()
	}
	if err == nil {
		err = out.Close()
	}
	if err != nil {
		return Manifest{}, err
	}
	return m, nil
}

// export is a copy on its way.
type export struct {
	o   *Office
	zip *zip.Writer
	m   *Manifest
}

// add writes one file and takes down how long it is and what its hash is.
func (x *export) add(name, what string, write func(io.Writer) (rows int, err error)) error {
	f, err := x.zip.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Deflate, Modified: x.m.Created})
	if err != nil {
		return err
	}
	h := sha256.New()
	n := &counted{w: io.MultiWriter(f, h)}
	buffer := bufio.NewWriter(n)
	rows, err := write(buffer)
	if err == nil {
		err = buffer.Flush()
	}
	x.m.Files = append(x.m.Files, File{name, what, rows, n.n, hex.EncodeToString(h.Sum(nil))})
	return err
}

type counted struct {
	w io.Writer
	n int64
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// writeProfile writes the segments by their names, each a list of entries, and the facts.
func writeProfile(w io.Writer, id patron.ID, p *patron.Profile) (rows int, err error) {
	f := p.Facts
	segments := map[string][]map[string]string{}
	p.RevealAll(func(segment string, entry map[string]string) {
		segments[segment] = append(segments[segment], entry)
		rows++
	})
	return rows, writeJSON(w, struct {
		ID         patron.ID                      `json:"id"`
		Group      string                         `json:"group,omitempty"`
		Categories []string                       `json:"categories,omitempty"`
		Library    string                         `json:"library,omitempty"`
		Expires    time.Time                      `json:"expires,omitzero"`
		Wish       patron.Wish                    `json:"wish,omitempty"` // about the reading history
		WishSince  time.Time                      `json:"wish_since,omitzero"`
		Segments   map[string][]map[string]string `json:"segments"`
	}{id, f.Group, f.Categories, f.Library, f.Expires, f.Wish, f.WishSince, segments})
}

// A recordLine is a record as a copy has it.
type recordLine struct {
	Kind           string            `json:"kind"`
	ID             string            `json:"id"`
	Roles          []string          `json:"roles"` // of the patron in it
	Status         string            `json:"status"`
	Outcome        string            `json:"outcome,omitempty"`
	Item           string            `json:"item,omitempty"`
	Type           string            `json:"type,omitempty"`
	Library        string            `json:"library,omitempty"`
	Location       string            `json:"location,omitempty"`
	Group          string            `json:"group,omitempty"`
	Categories     []string          `json:"categories,omitempty"`
	Started        time.Time         `json:"started,omitzero"`
	Due            time.Time         `json:"due,omitzero"`
	Ended          time.Time         `json:"ended,omitzero"`
	Renewals       int               `json:"renewals,omitempty"`
	Lost           bool              `json:"lost,omitempty"`
	ClaimedReturn  bool              `json:"claimed_returned,omitempty"`
	FeeStatus      string            `json:"fee_status,omitempty"`
	AmountHundreds int64             `json:"amount_hundredths,omitempty"`
	Method         string            `json:"method,omitempty"`
	Texts          map[string]string `json:"texts,omitempty"`
	PointsAt       []string          `json:"points_at,omitempty"` // kind and ID
}

// unreadable stands for a text whose key has ended.
const unreadable = "(can no longer be read by anybody)"

func (x *export) records(ctx context.Context, w io.Writer, references []crypto.Secret) (rows int, err error) {
	persons, err := x.o.persons(references)
	if err != nil {
		return 0, err
	}
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	for q := (Query{Persons: persons, Limit: 1000}); ; {
		page, err := x.o.Circulation.Named(ctx, q)
		if err != nil {
			return rows, err
		}
		for i := range page.Records {
			l, err := x.line(&page.Records[i])
			if err == nil {
				err = e.Encode(l)
			}
			if err != nil {
				return rows, err
			}
			rows++
		}
		if q.Cursor = page.Cursor; q.Cursor == "" {
			return rows, nil
		}
	}
}

func (x *export) line(n *Named) (recordLine, error) {
	f := &n.Facts
	if !n.own() { // the borrower's, who is somebody else
		f.Group, f.Categories = "", nil
	}
	l := recordLine{Kind: f.Kind.String(), ID: f.ID, Status: f.Status.String(), Outcome: f.Outcome, Item: f.Item, Type: f.Type, Library: f.Library, Location: f.Location, Group: f.Group,
		Categories: f.Categories, Started: f.Started, Due: f.Due, Ended: f.Ended, Renewals: f.Renewals, Lost: f.Lost, ClaimedReturn: f.ClaimedReturned,
		AmountHundreds: int64(f.Amount), Method: f.Method}
	if f.Kind == circulation.KindFee {
		l.FeeStatus = f.FeeStatus.String()
	}
	for _, r := range n.Roles {
		l.Roles = append(l.Roles, r.String())
	}
	for _, t := range n.Texts {
		text, err := x.text(t.Value)
		if err != nil {
			return l, err
		}
		if l.Texts == nil {
			l.Texts = map[string]string{}
		}
		l.Texts[t.Field.String()] = text
	}
	for _, p := range n.Points {
		l.PointsAt = append(l.PointsAt, p.Kind.String()+" "+p.ID)
	}
	return l, nil
}

// text opens a text that is a pseudonym of [patron.Texts]; another is as it is.
func (x *export) text(value string) (string, error) {
	s, err := x.o.texts.Open(value)
	switch _, token := crypto.TokenEpoch(value); {
	case err == nil:
		return s.Reveal(), nil
	case !errors.Is(err, crypto.ErrNotPseudonym):
		return "", err
	case token:
		return unreadable, nil
	}
	return value, nil
}

func (x *export) seen(ctx context.Context, w io.Writer, call patron.Call, id patron.ID) (int, error) {
	by := audit.By{Actor: call.Actor, Role: call.Role, Purpose: call.Purpose, Channel: call.Channel}
	if !call.Self.IsZero() {
		by.Self = call.Self.Subject()
	}
	t, err := x.o.Reporter.Seen(ctx, by, id.Subject(), audit.Period{})
	if err != nil {
		return 0, err
	}
	var b bytes.Buffer
	if err := writeJSON(&b, t); err != nil {
		return 0, err
	}
	_, err = w.Write(b.Bytes())
	return len(t.Rows), err
}
