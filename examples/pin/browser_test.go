package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestInABrowser(t *testing.T) {
	t.Parallel()
	l, d := open(t, setting{}), chromium(t)
	logIn := func(login, pin string) {
		t.Helper()
		d.enter("#login", login)
		d.enter("#pin", pin)
		d.click("button")
	}
	d.open(l.URL)
	require.Equal(t, "Log in to your account", d.about("h1", "text"))
	require.Equal(t, "Card number or user name", d.about("#login", "computedlabel"))
	require.Equal(t, "PIN", d.about("#pin", "computedlabel"))
	require.Equal(t, "Log in", d.about("button", "computedlabel"))
	require.Empty(t, d.all("[role=alert]"))
	var rules int // the policy lets the style through
	d.script("return document.styleSheets[0].cssRules.length", &rules)
	require.NotZero(t, rules)
	d.shoot("start")

	for range 5 {
		logIn("reader1", "0000")
		require.Equal(t, "alert", d.about("#refused", "computedrole"))
		require.Contains(t, d.about("#refused", "text"), sentence)
	}
	d.shoot("refused")
	for _, width := range []int{360, 800} {
		d.size(width, 760)
		var wide bool
		d.script("return document.documentElement.scrollWidth > innerWidth", &wide)
		require.False(t, wide, "the page is wider than a screen of %d", width)
		if width < 500 {
			d.shoot("refused-phone")
		}
	}
	checked := l.checks.Load()
	logIn("reader1", "2718")
	require.Contains(t, d.about("#refused", "text"), sentence)
	require.Equal(t, checked, l.checks.Load())

	l.pass(15 * time.Minute)
	logIn("2900 0000 000077", "2718")
	require.Equal(t, "Your account", d.about("h1", "text"))
	require.Contains(t, d.about("[role=status]", "text"), "reader1")
	d.shoot("account")

	d.click("button") // log out
	require.Equal(t, "Log in to your account", d.about("h1", "text"))
	d.open(l.URL)
	require.Len(t, d.all("#pin"), 1)
}
