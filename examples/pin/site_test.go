package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/lockout"
	"github.com/carrel-project/carrel/store/memory"
)

const sentence = "The number or the PIN is wrong, or there were too many tries. Try again later (it can take until tomorrow), or ask at the desk."

// cheap keeps the tests fast under the race detector. TestTheCost is about the real one.
var cheap = Cost{Time: 1, Memory: 64, Threads: 1}

// A library is the site on a real port, with a clock that a test can move.
type library struct {
	*httptest.Server
	guard  *lockout.Guard
	checks atomic.Int64 // PINs that were looked at
	log    syncBuffer

	mu    sync.Mutex
	clock time.Time
}

type syncBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

type setting struct {
	store   lockout.Store
	cfg     lockout.Config
	trusted string
	verify  func(ctx context.Context, id, pin string) (bool, error) // nil: the directory's
	find    func(ctx context.Context, login string) (string, error)
	secure  bool
}

func open(t *testing.T, set setting) *library {
	l := &library{clock: time.Now()}
	set.cfg.Profile, set.cfg.Now = lockout.PIN, l.now
	if set.store == nil {
		set.store = memory.NewLockouts()
	}
	var err error
	l.guard, err = lockout.New(set.store, set.cfg)
	require.NoError(t, err)
	patrons := NewDirectory(cheap, demo)
	login := Login{Guard: l.guard, Find: patrons.Find, Secure: set.secure, Log: slog.New(slog.NewTextHandler(&l.log, nil))}
	if set.find != nil {
		login.Find = set.find
	}
	login.Verify = func(ctx context.Context, id, pin string) (bool, error) {
		l.checks.Add(1)
		if set.verify != nil {
			return set.verify(ctx, id, pin)
		}
		return patrons.Verify(ctx, id, pin)
	}
	if set.trusted != "" {
		login.Trusted = []netip.Prefix{netip.MustParsePrefix(set.trusted)}
	}
	site, err := NewSite(login, patrons.Name, l.now)
	require.NoError(t, err)
	l.Server = httptest.NewServer(site)
	t.Cleanup(l.Close)
	return l
}

func (l *library) now() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.clock
}

func (l *library) pass(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.clock = l.clock.Add(d)
}

// A browser keeps cookies, and does not follow redirections by itself.
func browser(t *testing.T) *http.Client {
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	return &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// An answer is all that a browser hears, but the time of day.
type answer struct {
	Status int
	Header http.Header
	Length int64
	Body   string
}

func (l *library) post(c *http.Client, path string, form url.Values, header ...string) (answer, error) {
	req, err := http.NewRequest("POST", l.URL+path, strings.NewReader(form.Encode()))
	if err != nil {
		return answer{}, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	return do(c, req)
}

func do(c *http.Client, req *http.Request) (answer, error) {
	resp, err := c.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	resp.Header.Del("Date")
	return answer{resp.StatusCode, resp.Header, resp.ContentLength, string(body)}, err
}

func (l *library) login(t *testing.T, c *http.Client, login, pin string, header ...string) answer {
	t.Helper()
	a, err := l.post(c, "/login", url.Values{"login": {login}, "pin": {pin}}, header...)
	require.NoError(t, err)
	return a
}

func (l *library) get(t *testing.T, c *http.Client, path string) answer {
	t.Helper()
	req, err := http.NewRequest("GET", l.URL+path, nil)
	require.NoError(t, err)
	a, err := do(c, req)
	require.NoError(t, err)
	return a
}

func (a answer) in(t *testing.T, why ...any) {
	t.Helper()
	require.Equal(t, http.StatusSeeOther, a.Status, why...)
	require.Len(t, a.Header.Values("Set-Cookie"), 2)
}

func (a answer) refused(t *testing.T, why ...any) {
	t.Helper()
	require.Equal(t, http.StatusForbidden, a.Status, why...)
	require.Contains(t, a.Body, sentence)
	require.Empty(t, a.Header.Values("Set-Cookie"))
}

func TestLoginAndLogout(t *testing.T) {
	t.Parallel()
	l, c := open(t, setting{}), browser(t)
	require.Contains(t, l.get(t, c, "/").Body, "Log in to your account")
	l.login(t, c, "reader1", "2718").in(t)
	require.Contains(t, l.get(t, c, "/").Body, "You are logged in as <strong>reader1</strong>")
	require.Contains(t, l.get(t, browser(t), "/").Body, "Log in to your account", "somebody else is not logged in")

	_, err := l.post(c, "/logout", nil)
	require.NoError(t, err)
	require.Contains(t, l.get(t, c, "/").Body, "Log in to your account")

	l.login(t, c, "2900 0000 000085", "3141").in(t)
	require.Contains(t, l.get(t, c, "/").Body, "<strong>reader2</strong>")
	l.pass(sessionLife)
	require.Contains(t, l.get(t, c, "/").Body, "Log in to your account", "a session ends")
}

func TestEveryFailureIsTheSameAnswer(t *testing.T) {
	t.Parallel()
	l := open(t, setting{})
	want := l.login(t, browser(t), "reader1", "0000")
	want.refused(t)
	same := func(why string, a answer) {
		t.Helper()
		require.Equal(t, want, a, why)
	}
	same("unknown login", l.login(t, browser(t), "nobody", "2718"))
	same("nothing typed", l.login(t, browser(t), "", ""))
	same("markup", l.login(t, browser(t), "<script>alert(1)</script>", "2718"))
	for range 4 {
		same("wrong", l.login(t, browser(t), "reader1", "0000"))
	}
	same("locked, and the PIN is right", l.login(t, browser(t), "reader1", "2718"))
	same("locked by its card", l.login(t, browser(t), "29000000000077", "2718"))
	for range 5 {
		same("unknown", l.login(t, browser(t), "nobody", "0000"))
	}

	for range 5 { // five others are at it: the sixth waits two seconds and hears that it is busy
		_, err := l.guard.Reserve(t.Context(), lockout.Attempt{Account: lockout.Account{ID: demo[1].ID}})
		require.NoError(t, err)
	}
	same("busy", l.login(t, browser(t), "reader2", "3141"))

	down := open(t, setting{store: noStore{}, cfg: lockout.Config{Key: key()}})
	same("the store is down", down.login(t, browser(t), "reader1", "2718"))
	require.Zero(t, down.checks.Load(), "and nothing was looked at")

	late := open(t, setting{store: noConclusion{memory.NewLockouts()}, cfg: lockout.Config{Key: key()}})
	same("the store went down during the check", late.login(t, browser(t), "reader1", "2718"))
	require.EqualValues(t, 1, late.checks.Load())

	lost := open(t, setting{find: func(context.Context, string) (string, error) { return demo[0].ID, errors.New("no directory") }})
	same("the directory is down", lost.login(t, browser(t), "reader1", "2718"))

	angry := open(t, setting{verify: func(_ context.Context, _, pin string) (bool, error) { panic(pin) }})
	same("a panic", angry.login(t, browser(t), "reader1", "2718"))
}

// A body that is too long is refused like the rest, but then the connection ends, too.
func TestLongForm(t *testing.T) {
	t.Parallel()
	l := open(t, setting{})
	l.login(t, browser(t), strings.Repeat("a", maxForm), "2718").refused(t)
	l.login(t, browser(t), strings.Repeat("a", maxLogin+1), "2718").refused(t)
	require.Zero(t, l.checks.Load())
	l.login(t, browser(t), "reader1"+strings.Repeat(" ", maxLogin-len("reader1")), "2718").in(t)
	l.login(t, browser(t), "reader1"+strings.Repeat(" ", maxLogin+1-len("reader1")), "2718").refused(t)
	require.EqualValues(t, 1, l.checks.Load())
}

// Who asks for the page of a login again, or by a bookmark, gets the form.
func TestLoginIsNoPage(t *testing.T) {
	t.Parallel()
	l := open(t, setting{})
	a := l.get(t, browser(t), "/login")
	require.Equal(t, http.StatusSeeOther, a.Status)
	require.Equal(t, "/", a.Header.Get("Location"))
}

type deafTrail struct{}

func (deafTrail) Record(context.Context, audit.Event) error { return errDown }

// The lock is one, and whoever runs the site is told once that the trail lacks it.
func TestALockThatIsNotInTheTrailIsLogged(t *testing.T) {
	t.Parallel()
	l := open(t, setting{cfg: lockout.Config{Audit: deafTrail{}}})
	for range 4 {
		l.login(t, browser(t), "reader1", "0000").refused(t)
	}
	require.Empty(t, l.log.String())
	for range 3 {
		l.login(t, browser(t), "reader1", "0000").refused(t)
	}
	require.EqualValues(t, 5, l.checks.Load())
	log := l.log.String()
	require.Equal(t, 1, strings.Count(log, "\n"), log)
	require.Contains(t, log, "a lock is not in the audit trail")
	for _, secret := range []string{demo[0].ID, "reader1", "0000", "127.0.0.1"} {
		require.NotContains(t, log, secret)
	}
}

// Other failures to conclude are nothing to log here: the guard has a log of its own for the store.
func TestAStoreThatFailsIsNotLoggedHere(t *testing.T) {
	t.Parallel()
	l := open(t, setting{store: noConclusion{memory.NewLockouts()}, cfg: lockout.Config{Key: key()}})
	l.login(t, browser(t), "reader1", "0000").refused(t)
	require.Empty(t, l.log.String())
}

type noStore struct{ lockout.Store }

var errDown = errors.New("down")

func (noStore) Reserve(context.Context, time.Time, []lockout.Slot) (lockout.Verdict, error) {
	return lockout.Verdict{}, errDown
}

type noConclusion struct{ lockout.Store }

func (noConclusion) Conclude(context.Context, time.Time, []lockout.Slot, lockout.Conclusion) (lockout.Verdict, error) {
	return lockout.Verdict{}, errDown
}

func key() crypto.Secret {
	var raw [32]byte
	rand.Read(raw[:])
	return crypto.NewSecret(string(raw[:]))
}

func TestAllWaysToAnAccountShareItsGuesses(t *testing.T) {
	t.Parallel()
	l := open(t, setting{})
	for _, login := range []string{"reader1", "29000000000077", " READER1 ", "２９００\u00a0００００\u00a0０００\u200b０７７", "ｒｅａｄｅｒ\u00ad1"} {
		l.login(t, browser(t), login, "0000").refused(t)
	}
	require.EqualValues(t, 5, l.checks.Load())
	for _, login := range []string{"reader1", "29000000000077", "READER1"} {
		l.login(t, browser(t), login, "2718").refused(t, login)
	}
	require.EqualValues(t, 5, l.checks.Load())
	l.login(t, browser(t), "reader2", "3141").in(t, "others are not concerned")
}

func TestALockEndsByItself(t *testing.T) {
	t.Parallel()
	l := open(t, setting{})
	for range 5 {
		l.login(t, browser(t), "reader1", "0000").refused(t)
	}
	l.pass(15*time.Minute - time.Second)
	l.login(t, browser(t), "reader1", "2718").refused(t)
	l.pass(time.Second)
	l.login(t, browser(t), "reader1", "2718").in(t)
}

func TestNoMoreThanFiveAreCheckedHoweverManyCome(t *testing.T) {
	t.Parallel()
	l := open(t, setting{})
	c := browser(t)
	var wg sync.WaitGroup
	var refused atomic.Int64
	for i := range 100 {
		wg.Go(func() {
			a, err := l.post(c, "/login", url.Values{"login": {[]string{"reader1", "29000000000077"}[i%2]}, "pin": {fmt.Sprintf("%04d", i)}})
			if err == nil && a.Status == http.StatusForbidden {
				refused.Add(1)
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 100, refused.Load())
	require.EqualValues(t, 5, l.checks.Load())
	l.login(t, c, "reader1", "2718").refused(t)
	require.EqualValues(t, 5, l.checks.Load())
}

func TestTheOwnersDeviceIsNotLockedOutByOthers(t *testing.T) {
	t.Parallel()
	l, owner := open(t, setting{}), browser(t)
	l.login(t, owner, "reader1", "2718").in(t)
	_, err := l.post(owner, "/logout", nil)
	require.NoError(t, err)
	for range 5 {
		l.login(t, browser(t), "reader1", "0000").refused(t)
	}
	l.login(t, browser(t), "reader1", "2718").refused(t, "from elsewhere")
	l.login(t, owner, "29000000000077", "2718").in(t, "from the owner's device")
	l.login(t, browser(t), "reader1", "2718").refused(t, "it stays locked elsewhere")

	for range 5 {
		l.login(t, owner, "reader1", "0000").refused(t)
	}
	l.login(t, owner, "reader1", "2718").refused(t, "the device has five guesses, too")
}

// The cards of a family are remembered side by side.
func TestOneDeviceRemembersSeveralAccounts(t *testing.T) {
	t.Parallel()
	l, family := open(t, setting{}), browser(t)
	for _, p := range demo {
		l.login(t, family, p.Card, p.PIN).in(t)
	}
	for _, p := range demo {
		for range 5 {
			l.login(t, browser(t), p.Card, "0000").refused(t)
		}
		l.login(t, family, p.Card, p.PIN).in(t)
	}
}

func TestForwardedForOfAStrangerIsIgnored(t *testing.T) {
	t.Parallel()
	l := open(t, setting{cfg: lockout.Config{Sources: 7}})
	c := browser(t)
	for i := range 1000 {
		l.login(t, c, fmt.Sprintf("login%d", i), "0000", "X-Forwarded-For", fmt.Sprintf("198.51.%d.%d", i/250, i%250)).refused(t)
	}
	require.EqualValues(t, 7, l.checks.Load())
}

func TestForwardedForOfAProxyIsReadFromTheRight(t *testing.T) {
	t.Parallel()
	l := open(t, setting{cfg: lockout.Config{Sources: 7}, trusted: "127.0.0.0/8"})
	c := browser(t)
	guess := func(i int, header ...string) { l.login(t, c, fmt.Sprintf("login%d", i), "0000", header...).refused(t) }
	for i := range 50 { // what stands further left is made up by whoever asks
		guess(i, "X-Forwarded-For", fmt.Sprintf("198.51.100.%d, 203.0.113.1", i))
	}
	require.EqualValues(t, 7, l.checks.Load())
	for i := range 50 { // also in a header of its own, and with another proxy of ours in between
		guess(i, "X-Forwarded-For", fmt.Sprintf("198.51.100.%d", i), "X-Forwarded-For", "203.0.113.1, 127.0.0.2")
	}
	require.EqualValues(t, 7, l.checks.Load())
	for i := range 50 {
		guess(100+i, "X-Forwarded-For", fmt.Sprintf("203.0.113.%d", 2+i))
	}
	require.EqualValues(t, 57, l.checks.Load())
}

func TestAPanicCountsAsAGuess(t *testing.T) {
	t.Parallel()
	patrons := NewDirectory(cheap, demo)
	l := open(t, setting{verify: func(ctx context.Context, id, pin string) (bool, error) {
		if pin == "panic" {
			panic(pin)
		}
		return patrons.Verify(ctx, id, pin)
	}})
	for range 2 {
		l.login(t, browser(t), "reader1", "panic").refused(t)
	}
	for range 3 {
		l.login(t, browser(t), "reader1", "0000").refused(t)
	}
	l.pass(2 * lockout.MaxCheck) // until then those that panicked might still turn out right
	l.login(t, browser(t), "reader1", "2718").refused(t)
	require.EqualValues(t, 5, l.checks.Load())
}

// When nothing was compared, the guess is given back.
func TestADirectoryThatIsDownCostsNoGuess(t *testing.T) {
	t.Parallel()
	patrons := NewDirectory(cheap, demo)
	var down atomic.Bool
	down.Store(true)
	l := open(t, setting{verify: func(ctx context.Context, id, pin string) (bool, error) {
		if down.Load() {
			return false, errDown
		}
		return patrons.Verify(ctx, id, pin)
	}})
	for range 20 {
		l.login(t, browser(t), "reader1", "2718").refused(t)
	}
	down.Store(false)
	l.login(t, browser(t), "reader1", "2718").in(t)
}

func TestFormsOfOtherSitesAreRefused(t *testing.T) {
	t.Parallel()
	l, c := open(t, setting{}), browser(t)
	for _, header := range [][]string{{"Origin", "https://elsewhere.example"}, {"Origin", "null"}, {"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}} {
		require.Equal(t, http.StatusForbidden, l.login(t, c, "reader1", "2718", header...).Status)
	}
	require.Zero(t, l.checks.Load())
	l.login(t, c, "reader1", "2718", "Origin", l.URL, "Sec-Fetch-Site", "same-origin").in(t)
	a, err := l.post(c, "/logout", nil, "Sec-Fetch-Site", "cross-site")
	require.NoError(t, err)
	require.Equal(t, http.StatusForbidden, a.Status)
	require.Equal(t, http.StatusMethodNotAllowed, l.get(t, c, "/logout").Status, "a link does not log out")
	require.Contains(t, l.get(t, c, "/").Body, "reader1")
}

func TestCookiesAndHeaders(t *testing.T) {
	t.Parallel()
	for _, secure := range []bool{false, true} {
		l := open(t, setting{secure: secure})
		names := map[string]string{}
		for _, line := range l.login(t, browser(t), "reader1", "2718").Header.Values("Set-Cookie") {
			c, err := http.ParseSetCookie(line)
			require.NoError(t, err)
			require.True(t, c.HttpOnly)
			require.Equal(t, secure, c.Secure)
			require.Equal(t, http.SameSiteLaxMode, c.SameSite)
			require.Empty(t, c.Domain)
			require.NotContains(t, line, demo[0].ID)
			names[c.Path] = c.Name
		}
		require.Equal(t, map[bool]string{false: "session", true: "__Host-session"}[secure], names["/"])
		require.Regexp(t, `^device-[0-9]+$`, names["/login"])
	}
	l := open(t, setting{})
	for _, path := range []string{"/", "/style.css", "/nothing"} {
		h := l.get(t, browser(t), path).Header
		require.Equal(t, "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'", h.Get("Content-Security-Policy"), path)
		require.Equal(t, "no-store", h.Get("Cache-Control"))
		require.Equal(t, "nosniff", h.Get("X-Content-Type-Options"))
		require.Equal(t, "same-origin", h.Get("Referrer-Policy"))
	}
}
