package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"time"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/lockout"
)

// A Login puts a guard around what a library system has already.
type Login struct {
	Guard *lockout.Guard

	// Find returns the ID of the account that a login leads to, and "" when it leads to none. All logins of an account have one ID, so they have one budget of guesses.
	Find func(ctx context.Context, login string) (id string, err error)

	// Verify reports whether it is the account's PIN. For no account it is false, after the same work. An error means that nothing was compared.
	Verify func(ctx context.Context, id, pin string) (bool, error)

	Trusted []netip.Prefix // proxies whose X-Forwarded-For is believed
	Secure  bool           // cookies are only for HTTPS, also when a proxy ended it
	Log     *slog.Logger   // hears what somebody has to see to; nothing of who logs in
}

// maxLogin is more bytes than any login has, and fewer than the guard looks at: two that differ further on would share their guesses.
const maxLogin = 256

// Check returns the ID of the account if the PIN is right and may be looked at. Why it is not ok is nobody's business who guesses. What can be told from the time it
// takes is that the guesses are used up, for then no PIN is hashed; that is so for logins that are nobody's, too.
func (l *Login) Check(r *http.Request, login, pin string) (id string, ok bool) {
	if len(login) > maxLogin { // it could be nobody's, which is no secret
		return "", false
	}
	ctx := r.Context()
	id, err := l.Find(ctx, login)
	if err != nil {
		return "", false
	}
	guess, err := l.Guard.Reserve(ctx, lockout.Attempt{
		Account: lockout.Account{Login: login, ID: id},
		Source:  l.source(r),
		Device:  device(r, id),
		Channel: audit.Self,
	})
	l.unrecorded(err)
	if err != nil {
		return "", false // locked, busy or out of order: the PIN is not looked at
	}
	// From here on the guess counts as wrong unless it turns out to be right, so nothing has to be deferred: after a panic it stays counted.
	switch right, err := l.Verify(ctx, id, pin); {
	case err != nil:
		_ = guess.Abandon(ctx) // nothing was compared, so nothing was learned. If that fails, the guess counts
		return "", false
	case !right:
		l.unrecorded(guess.Failure(ctx)) // whatever else it says, the guess counts
		return "", false
	}
	return id, guess.Success(ctx) == nil // a PIN that is right is not enough when its guess could not be concluded
}

// unrecorded logs that a lock is missing in the audit trail (lockout.Config.Audit): somebody has to see to the trail, and the lock is one all the same.
func (l *Login) unrecorded(err error) {
	if errors.Is(err, lockout.ErrNotAudited) {
		l.Log.Error("a lock is not in the audit trail", "error", err)
	}
}

// source is where the request comes from. A server on a Unix socket sees no address; let it trust its proxy by other means.
func (l *Login) source(r *http.Request) netip.Addr {
	peer, _ := netip.ParseAddrPort(r.RemoteAddr)
	return lockout.Source(peer.Addr(), r.Header.Values("X-Forwarded-For"), l.Trusted)
}

// Remember gives the device of somebody who has just logged in a cookie with which its guesses are counted apart: whoever locks the account from elsewhere does not lock
// out its owner. Terminals that everybody uses should get none; name their network in lockout.Config.Known instead.
func (l *Login) Remember(w http.ResponseWriter, r *http.Request, id string) {
	http.SetCookie(w, &http.Cookie{
		Name:     deviceCookie(id),
		Value:    l.Guard.Remember(lockout.Account{ID: id}),
		Path:     "/login", // nothing else reads it
		MaxAge:   int(lockout.DeviceLife / time.Second),
		HttpOnly: true,
		Secure:   l.secure(r),
		SameSite: http.SameSiteLaxMode,
	})
}

func device(r *http.Request, id string) string {
	c, err := r.Cookie(deviceCookie(id))
	if err != nil {
		return ""
	}
	return c.Value
}

// deviceCookie returns one of 64 names. So the cards of a family stay remembered on one device (when two of them happen to share a name, the
// later one does), while the cookies never fill the 8 KiB that many proxies allow for a header, and a name says next to nothing about whose it is.
func deviceCookie(id string) string {
	return fmt.Sprintf("device-%d", sha256.Sum256([]byte(id))[0]%64)
}

func (l *Login) secure(r *http.Request) bool { return l.Secure || r.TLS != nil }
