package audit_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/crypto"
)

// What operators log of an event or a trail names nobody.
func TestLogsNameNobody(t *testing.T) {
	e := view("p-4711", morning, "names")
	e.Actor, e.Approval, e.Grant, e.Network = "staff-0815", "case-0815", "grant-0815", "192.0.2.0/24"
	e.Subjects[0].Note = crypto.NewSecret("note-4711")
	var out bytes.Buffer
	for _, h := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		log := slog.New(h)
		log.Info("one", "event", e, "subject", e.Subjects[0])
		log.Info("one", "event", &e)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
		fmt.Fprintf(&out, verb, e.Subjects)
		fmt.Fprintf(&out, verb, e.Subjects[0])
		fmt.Fprintf(&out, verb, &e.Subjects[0])
	}
	require.NotContains(t, out.String(), "4711")
	require.NotContains(t, out.String(), "0815")
	require.NotContains(t, out.String(), "192.0.2")
	require.Contains(t, out.String(), `"action":"view","outcome":"done","role":"desk","purpose":"circulation","channel":"ui","segments":["names"],"count":1`)

	d := aDay(t)
	s, err := reporter(t, d).Summary(t.Context(), audit.Period{}, d.path+"-no-such-spool")
	require.NoError(t, err)
	out.Reset()
	slog.New(slog.NewTextHandler(&out, nil)).Info("trail", "trail", s)
	require.Contains(t, out.String(), "trail.entries.login.denied=4")
	require.Contains(t, out.String(), "trail.pending=21")
	for _, word := range []string{"p1", "p2", "staff", "ministry", "A-12"} {
		require.NotContains(t, out.String(), word)
	}
}
