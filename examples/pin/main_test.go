package main

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestNetworks(t *testing.T) {
	for s, want := range map[string]string{
		"10.0.0.1":    "want a network like 10.0.0.1/32",
		"2001:db8::1": "want a network like 2001:db8::1/128",
		"proxy":       "want a network like 10.0.0.0/24",
		"10.0.0.0/33": "want a network like 10.0.0.0/24",
		"0.0.0.0/0":   "that is everybody, and anybody can write such a header",
		"::/0":        "that is everybody, and anybody can write such a header",
	} {
		_, err := network(s)
		require.EqualError(t, err, want, s)
	}
	p, err := network("10.0.0.0/24")
	require.NoError(t, err)
	require.Equal(t, "10.0.0.0/24", p.String())
}

// What the command prints is enough to log in.
func TestRun(t *testing.T) {
	t.Parallel()
	ctx, stop := context.WithCancel(t.Context())
	r, w := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, w, "127.0.0.1:0", false, nil); w.Close() }()

	printed := bufio.NewReader(r)
	line, err := printed.ReadString('\n')
	require.NoError(t, err)
	home := regexp.MustCompile(`http://[0-9.:]+`).FindString(line)
	printed.ReadString('\n')
	line, err = printed.ReadString('\n')
	require.NoError(t, err)
	m := regexp.MustCompile(`card (\d+), or user name (\w+), PIN (\d+)`).FindStringSubmatch(line)
	require.Len(t, m, 4, line)
	go io.Copy(io.Discard, printed)

	for _, login := range m[1:3] {
		resp, err := browser(t).PostForm(home+"/login", url.Values{"login": {login}, "pin": {m[3]}})
		require.NoError(t, err)
		resp.Body.Close()
		require.Equal(t, http.StatusSeeOther, resp.StatusCode, login)
	}
	stop()
	require.NoError(t, <-ended)
}
