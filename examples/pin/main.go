// Command pin is the login page of a small library catalogue: a card number or a user name, and a PIN of four digits.
//
//	go run ./examples/pin
//
// It prints its address and the patrons that it made up. What a library system would take from it is in login.go: the guard's steps around
// what it has already, which is a way to find an account and a way to check a PIN.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"time"

	"github.com/carrel-project/carrel/lockout"
	"github.com/carrel-project/carrel/store/memory"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:8080", "the `address` to listen on")
	secure := flag.Bool("secure", false, "browsers come by HTTPS, which a proxy ends: make all cookies Secure")
	var trusted []netip.Prefix
	flag.Func("trust", "a `network` of proxies whose X-Forwarded-For is believed, like 10.0.0.0/24; may be repeated", func(s string) error {
		p, err := network(s)
		trusted = append(trusted, p)
		return err
	})
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Stdout, *listen, *secure, trusted); err != nil {
		log.Fatal(err)
	}
}

// network reads a network of proxies.
func network(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		like := netip.MustParsePrefix("10.0.0.0/24")
		if a, err := netip.ParseAddr(s); err == nil {
			like = netip.PrefixFrom(a, a.BitLen())
		}
		return p, fmt.Errorf("want a network like %v", like)
	case p.Bits() == 0:
		return p, errors.New("that is everybody, and anybody can write such a header")
	}
	return p, nil
}

func run(ctx context.Context, out io.Writer, listen string, secure bool, trusted []netip.Prefix) error {
	// One process counts in its memory, with a key of its own. Several count in one store, with one key, and each in its memory while the store is down:
	//
	//	key, err := keys.LockoutKey(ctx) // of a crypto.Keyring
	//	guard, err := lockout.New(sqlite.NewLockouts(db), lockout.Config{Profile: lockout.PIN, Key: key, Fallback: memory.NewLockouts()})
	//
	// If they are on several machines, take a store of store/redis. Config.Audit is the place for the audit trail.
	guard, err := lockout.New(memory.NewLockouts(), lockout.Config{Profile: lockout.PIN, Logger: slog.Default()})
	if err != nil {
		return err
	}
	patrons := NewDirectory(OWASP, demo)
	site, err := NewSite(Login{Guard: guard, Find: patrons.Find, Verify: patrons.Verify, Trusted: trusted, Secure: secure, Log: slog.Default()}, patrons.Name, time.Now)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "Open http://%s and log in as one of these, who are made up:\n\n", l.Addr())
	for _, p := range demo {
		fmt.Fprintf(out, "\tcard %s, or user name %s, PIN %s\n", p.Card, p.User, p.PIN)
	}
	server := &http.Server{
		Handler:           site,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second, // more than a login may wait, for others and for its turn
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
	}
	defer context.AfterFunc(ctx, func() { server.Close() })()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
