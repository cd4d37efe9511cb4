package lockout

import (
	"cmp"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"time"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/crypto"
)

// Config says how many guesses there are. The zero value is the profile [Alma] with what it takes: 5 attempts, 15 minutes.
type Config struct {
	Profile  Profile
	Attempts int           // wrong guesses at one account; 0: the profile's
	Duration time.Duration // in which they are counted, and for which it is then locked; 0: the profile's
	Daily    int           // wrong guesses at one account in 24 hours; 0: the profile's

	// Sources is how many wrong guesses one source has in Duration, at all accounts together: an IPv4 address, or the 64 bits of an IPv6 address that
	// one subscriber has. Behind one address there may be a whole campus. 0: 100; at least Attempts and at most 1000.
	Sources int

	// Known are networks of the library's own, where self-check machines and catalogue terminals stand. From each of them an account has guesses of its own, so
	// that somebody elsewhere who uses up the others keeps nobody from logging in there. Sources in them are counted like all others.
	Known []netip.Prefix

	// Key is at least 32 random bytes, the same for all processes on one store: without it nobody can tell whom the store is about. crypto.Keyring has one
	// ([crypto.Keyring.LockoutKey]). Empty: a key that ends with this Guard, which only a [Local] store may have.
	//
	//	raw := make([]byte, 32)
	//	rand.Read(raw) // once, and then keep it
	//	cfg.Key = crypto.NewSecret(string(raw))
	Key crypto.Secret

	// Audit is told of every lock and unlock, once. Nil: nobody is.
	Audit audit.Recorder

	// Fallback counts while Store cannot: each process for itself, so that during an outage an account has as many guesses as the processes
	// have together. It hears of this process's guesses and of the holds that it meets, so that going over to it and back gives nobody new ones. During an outage it does not hear what other processes unlock. Nil: while Store cannot be reached,
	// every guess is refused. It must be a Local store.
	Fallback Store

	Logger *slog.Logger     // hears of trouble with the store, without any account; nil: nobody does
	Now    func() time.Time // nil: time.Now. Only differences count
}

// minKey is the length of an HMAC-SHA-256 key below which it is weaker than it could be (RFC 2104, section 3).
const minKey = 32

// Check reports what [New] would refuse about the limits, which are the profile, the attempts, the durations and the networks; it fills in what c leaves to the profile.
func (c *Config) Check() error {
	l := c.Profile.Limits()
	if l == (Limits{}) {
		return fmt.Errorf("lockout: Config.Profile is %v, want one of %v", c.Profile, Profiles())
	}
	c.Attempts = cmp.Or(c.Attempts, l.Attempts)
	c.Duration = cmp.Or(c.Duration, l.Duration)
	c.Daily = cmp.Or(c.Daily, l.Daily)
	c.Sources = cmp.Or(c.Sources, 100)
	switch {
	case c.Attempts < l.MinAttempts || c.Attempts > l.MaxAttempts:
		return fmt.Errorf("lockout: Config.Attempts is %d, the profile %v allows %d to %d", c.Attempts, c.Profile, l.MinAttempts, l.MaxAttempts)
	case c.Duration < l.MinDuration || c.Duration > l.MaxDuration:
		return fmt.Errorf("lockout: Config.Duration is %s, the profile %v allows %s to %s", span(c.Duration), c.Profile, span(l.MinDuration), span(l.MaxDuration))
	case c.Duration%time.Second != 0:
		return fmt.Errorf("lockout: Config.Duration is %v, want whole seconds", c.Duration)
	case c.Daily != 0 && (c.Daily < c.Attempts || c.Daily > l.MaxDaily):
		return fmt.Errorf("lockout: Config.Daily is %d, the profile %v allows %d (the attempts) to %d", c.Daily, c.Profile, c.Attempts, l.MaxDaily)
	case c.Sources < c.Attempts || c.Sources > 1000:
		return fmt.Errorf("lockout: Config.Sources is %d, want %d (the attempts) to 1000", c.Sources, c.Attempts)
	}
	for i, p := range c.Known {
		if p = cleanNetwork(p); !p.IsValid() || p.Bits() == 0 {
			return fmt.Errorf("lockout: Config.Known[%d] is no network, or everything", i)
		}
	}
	return nil
}

// span writes a duration without the zeros at its end, as in 15m.
func span(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
