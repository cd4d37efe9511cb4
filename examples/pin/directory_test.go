package main

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
)

// The real cost, with which the other tests would take minutes.
func TestTheCost(t *testing.T) {
	t.Parallel()
	require.GreaterOrEqual(t, OWASP.Memory, uint32(19456))
	d := NewDirectory(OWASP, demo[:1])
	for _, c := range []struct {
		id, pin string
		want    bool
	}{{demo[0].ID, "2718", true}, {demo[0].ID, "2719", false}, {demo[0].ID, "", false}, {"", "2718", false}} {
		right, err := d.Verify(t.Context(), c.id, c.pin)
		require.NoError(t, err)
		require.Equal(t, c.want, right, c)
	}
}

func TestSaltsDiffer(t *testing.T) {
	d := NewDirectory(cheap, []Patron{{ID: "a", Card: "1", User: "x", PIN: "1111"}, {ID: "b", Card: "2", User: "y", PIN: "1111"}})
	require.NotEqual(t, d.pins["a"], d.pins["b"])
}

// A PIN that fits the hash of nobody opens nothing.
func TestNobodyHasAPIN(t *testing.T) {
	d := NewDirectory(cheap, demo)
	d.nobody = d.pins[demo[0].ID]
	right, err := d.Verify(t.Context(), "", "2718")
	require.NoError(t, err)
	require.False(t, right)
}

// Logins that lead to an account are the same in the same ways as those that lead to none, which the guard compares.
func TestLoginsAreComparedAsTheGuardDoes(t *testing.T) {
	d := NewDirectory(cheap, []Patron{{ID: "a", Card: "29000000000077", User: "straße", PIN: "1111"}})
	for login, want := range map[string]string{
		"2900 0000 000077": "a", "２９００００００００００７７": "a", "2900\u200b0000000077": "a", "STRASSE": "a", "Straße": "a", "stra\u00adsse": "a",
		"strase": "", "2900-0000-000077": "",
	} {
		id, err := d.Find(t.Context(), login)
		require.NoError(t, err)
		require.Equal(t, want, id, login)
	}
}

// Whoever hangs up while waiting for a turn has had nothing compared.
func TestTurns(t *testing.T) {
	d := NewDirectory(cheap, demo)
	for range cap(d.turns) {
		d.turns <- struct{}{}
	}
	ctx, hangUp := context.WithCancel(t.Context())
	hangUp()
	right, err := d.Verify(ctx, demo[0].ID, "2718")
	require.False(t, right)
	require.ErrorIs(t, err, context.Canceled)
	<-d.turns
	right, err = d.Verify(t.Context(), demo[0].ID, "2718")
	require.NoError(t, err)
	require.True(t, right)
}
