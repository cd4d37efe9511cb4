package main

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A webdriver is one Chromium, asked through chromedriver in as much of the WebDriver protocol as the test of this page needs
// (W3C WebDriver 2, section 6 on).
type webdriver struct {
	t       *testing.T
	session string // the address of the session
}

// chromium starts a browser without a profile and without a screen, or skips the test.
func chromium(t *testing.T) *webdriver {
	t.Helper()
	driver, err := exec.LookPath("chromedriver")
	browser, err2 := exec.LookPath("chromium")
	if err != nil || err2 != nil {
		t.Skip("SKIPPED: the page was not tried in a browser: needs chromium and chromedriver: Debian packages chromium and chromium-driver")
	}
	profile, err := os.MkdirTemp("", "carrel-pin-")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(profile) }) // t.TempDir fails the test when the browser still writes a file
	cmd := exec.Command(driver, "--port=0")
	cmd.Env = append(os.Environ(), "HOME="+profile)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })

	port := make(chan string, 1)
	go func() {
		started := regexp.MustCompile(`started successfully on port (\d+)`)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if m := started.FindStringSubmatch(lines.Text()); m != nil {
				port <- m[1]
			}
		}
	}()
	d := &webdriver{t: t}
	select {
	case p := <-port:
		d.session = "http://127.0.0.1:" + p + "/session"
	case <-time.After(20 * time.Second):
		require.FailNow(t, "chromedriver did not start")
	}
	var made struct {
		SessionID string `json:"sessionId"`
	}
	d.do("POST", "", object{"capabilities": object{"alwaysMatch": object{
		"browserName": "chrome",
		"goog:chromeOptions": object{"binary": browser, "args": []string{
			"--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run", "--disable-background-networking",
			"--disable-component-update", "--disable-sync", "--user-data-dir=" + profile, "--window-size=800,760",
		}},
	}}}, &made)
	d.session += "/" + made.SessionID
	t.Cleanup(func() { d.do("DELETE", "", nil, nil) })
	return d
}

type object = map[string]any

func (d *webdriver) do(method, path string, body, into any) {
	d.t.Helper()
	var raw []byte
	var err error
	if body != nil {
		raw, err = json.Marshal(body)
		require.NoError(d.t, err)
	}
	req, err := http.NewRequest(method, d.session+path, bytes.NewReader(raw))
	require.NoError(d.t, err)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(d.t, err)
	defer resp.Body.Close()
	raw, err = io.ReadAll(resp.Body)
	require.NoError(d.t, err)
	require.Equal(d.t, http.StatusOK, resp.StatusCode, "%s %s: %s", method, path, raw)
	if into != nil {
		require.NoError(d.t, json.Unmarshal(raw, &struct{ Value any }{into}))
	}
}

func (d *webdriver) open(url string) { d.t.Helper(); d.do("POST", "/url", object{"url": url}, nil) }

// all returns the elements that a CSS selector finds.
func (d *webdriver) all(css string) (ids []string) {
	d.t.Helper()
	var found []map[string]string
	d.do("POST", "/elements", object{"using": "css selector", "value": css}, &found)
	for _, e := range found {
		for _, id := range e { // under a name that the standard made up
			ids = append(ids, id)
		}
	}
	return ids
}

func (d *webdriver) one(css string) string {
	d.t.Helper()
	found := d.all(css)
	require.Len(d.t, found, 1, css)
	return "/element/" + found[0]
}

func (d *webdriver) enter(css, text string) {
	d.t.Helper()
	d.do("POST", d.one(css)+"/value", object{"text": text}, nil)
}

// click clicks, and waits for the page that comes of it.
func (d *webdriver) click(css string) {
	d.t.Helper()
	before := d.one("html")
	d.do("POST", d.one(css)+"/click", object{}, nil)
	require.Eventually(d.t, func() bool {
		now := d.all("html")
		return len(now) == 1 && "/element/"+now[0] != before
	}, 10*time.Second, 20*time.Millisecond)
}

// about returns what the browser says of an element: its text, its computedrole, its computedlabel.
func (d *webdriver) about(css, what string) (text string) {
	d.t.Helper()
	d.do("GET", d.one(css)+"/"+what, nil, &text)
	return text
}

func (d *webdriver) size(width, height int) {
	d.t.Helper()
	d.do("POST", "/window/rect", object{"width": width, "height": height}, nil)
}

// script returns what a piece of JavaScript returns; for looking, the page has none.
func (d *webdriver) script(code string, into any) {
	d.t.Helper()
	d.do("POST", "/execute/sync", object{"script": code, "args": []any{}}, into)
}

// shoot takes a picture of the page. With PIN_SCREENSHOTS it is kept in that folder, for people to look at.
func (d *webdriver) shoot(name string) {
	d.t.Helper()
	var encoded string
	d.do("GET", "/screenshot", nil, &encoded)
	png, err := base64.StdEncoding.DecodeString(encoded)
	require.NoError(d.t, err)
	require.True(d.t, bytes.HasPrefix(png, []byte("\x89PNG")), "no picture")
	if dir := os.Getenv("PIN_SCREENSHOTS"); dir != "" {
		require.NoError(d.t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("%s.png", name)), png, 0o600))
	}
}
