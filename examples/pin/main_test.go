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
