package main

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"

	"github.com/carrel-project/carrel/lockout"
	"github.com/carrel-project/carrel/patron"
)

// lockedFlags name one account, a login that leads to no account, or a source.
type lockedFlags struct {
	id, identifierFile, loginFile, source string
	staff                                 bool
}

// register adds the flags. What has no account can be unlocked and not locked: whoever locks a login that leads to none has mistyped it, or wants the account of
// a member of staff, which --id names.
func (w *lockedFlags) register(cmd *cobra.Command, others bool) {
	f := cmd.Flags()
	f.StringVar(&w.id, "id", "", "an account: the patron's ID, as patron find prints it, about which the access file does not decide; with --staff the ID of an account of a member of staff")
	f.BoolVar(&w.staff, "staff", false, "--id is of an account of a member of staff")
	f.StringVar(&w.identifierFile, "identifier-file", "", "file with a patron's bar code, user name or other identifier in its first line, - for standard input")
	if !others {
		return
	}
	f.StringVar(&w.loginFile, "login-file", "", "file with a login that leads to no account in its first line, as it was typed, - for standard input")
	f.StringVar(&w.source, "source", "", "an IP address; of IPv6 it is the /64 network that counts")
}

// A locked is whom the flags name. Of a patron with an identifier the account is found in the directory.
type locked struct {
	account    lockout.Account
	patron     patron.ID // with --id and without --staff
	source     netip.Addr
	identifier bool
}

// read returns whom the flags name, without opening anything but the file of a login. With nobody it returns false.
func (w *lockedFlags) read(cmd *cobra.Command) (l locked, named bool, err error) {
	var given, known []string
	for _, name := range []string{"id", "identifier-file", "login-file", "source"} {
		f := cmd.Flags().Lookup(name)
		if f == nil {
			continue
		}
		known = append(known, "--"+name)
		if f.Changed {
			given = append(given, "--"+name)
			if f.Value.String() == "" { // a variable that was not set, perhaps: it is not everybody
				return l, false, fmt.Errorf("%s--%s is empty", place(cmd), name)
			}
		}
	}
	switch {
	case len(given) > 1:
		return l, false, fmt.Errorf("%swant one of %s, got %s", place(cmd), strings.Join(known, ", "), strings.Join(given, " and "))
	case w.staff && w.id == "":
		return l, false, fmt.Errorf("%s--staff goes with --id", place(cmd))
	case len(given) == 0:
		return l, false, nil
	case w.id != "":
		l.account, l.patron, err = w.account()
	case w.loginFile != "":
		login, ferr := firstLine(cmd, w.loginFile)
		l.account.Login, err = login.Reveal(), ferr
	case w.source != "":
		if l.source, err = netip.ParseAddr(w.source); err != nil {
			err = errors.New("--source: not an IP address, as in 192.0.2.17 or 2001:db8::1")
		}
	default:
		l.identifier = true
	}
	return l, true, placed(cmd, err)
}

func (w *lockedFlags) account() (a lockout.Account, id patron.ID, err error) {
	if w.staff {
		if !plain(w.id) || oneLine(w.id) != w.id || strings.TrimSpace(w.id) != w.id {
			return a, id, errors.New("--id: not an ID: it has spaces around it, control characters or no UTF-8")
		}
		return lockout.Account{ID: w.id, Staff: true}, id, nil
	}
	if id, err = patron.ParseID(w.id); err != nil {
		return a, id, errors.New("--id: not a patron's ID, as in 6f9619ff-8b86-4d01-b42d-00cf4fc964ff; for a bar code or user name use --identifier-file, for staff --staff")
	}
	return accountOf(id), id, nil
}

func accountOf(id patron.ID) lockout.Account { return lockout.Account{ID: id.String()} }

// missing says that nobody is named.
func (w *lockedFlags) missing(cmd *cobra.Command) error {
	names := "--id or --identifier-file"
	if cmd.Flags().Lookup("source") != nil {
		names = "--id, --identifier-file, --login-file or --source"
	}
	return fmt.Errorf("%swhose? Name one with %s", place(cmd), names)
}
