package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"filippo.io/age"
	"github.com/spf13/cobra"
)

// recipientFlags say who may open a backup.
type recipientFlags struct {
	keys             []string
	file, passphrase string
}

func (r *recipientFlags) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringArrayVar(&r.keys, "recipient", nil, "the public key of somebody who may open it, age1…; may be repeated")
	f.StringVar(&r.file, "recipients-file", "", "file with such public keys, one a line")
	f.StringVar(&r.passphrase, "passphrase-file", "", "file with a passphrase of at least ten characters in its first line, - for standard input, instead of public keys")
}

// recipients returns who they are.
func (r *recipientFlags) recipients(cmd *cobra.Command) (list []age.Recipient, err error) {
	public := len(r.keys) > 0 || r.file != ""
	switch {
	case public && r.passphrase != "":
		return nil, fmt.Errorf("%seither --passphrase-file or public keys", place(cmd))
	case r.passphrase != "":
		passphrase, err := readPassphrase(cmd, r.passphrase)
		if err != nil {
			return nil, err
		}
		if utf8.RuneCountInString(passphrase) < 10 {
			return nil, fmt.Errorf("%s: the passphrase has fewer than ten characters; whoever has the file can try them all", r.passphrase)
		}
		one, err := age.NewScryptRecipient(passphrase)
		return []age.Recipient{one}, err
	case !public:
		return nil, fmt.Errorf("%s--recipient is missing: who may open it; or --recipients-file, or --passphrase-file", place(cmd))
	}
	for _, key := range r.keys {
		// What is no public key is not repeated: it may be a secret one.
		some, err := age.ParseRecipients(strings.NewReader(key))
		if err != nil || len(some) != 1 {
			return nil, fmt.Errorf("%s--recipient: want the public key of age-keygen, age1…", place(cmd))
		}
		list = append(list, some...)
	}
	if r.file != "" {
		f, err := openFile(cmd.Context(), r.file)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		some, err := age.ParseRecipients(interruptible{cmd.Context(), f})
		if err != nil {
			return nil, fmt.Errorf("%s: want public keys of age-keygen, age1…, one a line", r.file)
		}
		list = append(list, some...)
	}
	// Some kinds do not go together; that is heard of before anything is done.
	if _, err := age.Encrypt(io.Discard, list...); err != nil {
		return nil, fmt.Errorf("%spublic keys with and without post-quantum protection do not go together in one backup", place(cmd))
	}
	return list, nil
}

// identityFlags say what opens a backup.
type identityFlags struct{ file, passphrase string }

func (i *identityFlags) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&i.file, "identity-file", "", "file with the secret key that opens it, as age-keygen writes it")
	f.StringVar(&i.passphrase, "passphrase-file", "", "file with the passphrase in its first line")
}

func (i *identityFlags) identities(cmd *cobra.Command) ([]age.Identity, error) {
	if (i.file == "") == (i.passphrase == "") {
		return nil, fmt.Errorf("%swant either --identity-file or --passphrase-file, which opens the backup", place(cmd))
	}
	if i.passphrase != "" {
		passphrase, err := readPassphrase(cmd, i.passphrase)
		if err != nil {
			return nil, err
		}
		one, err := age.NewScryptIdentity(passphrase)
		return []age.Identity{one}, err
	}
	f, err := openFile(cmd.Context(), i.file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	list, err := age.ParseIdentities(interruptible{cmd.Context(), f})
	if err != nil {
		return nil, fmt.Errorf("%s: want a file of age-keygen with a secret key, AGE-SECRET-KEY-1…", i.file)
	}
	return list, nil
}

// readPassphrase reads the first line of a file: not an argument, because shells keep those.
func readPassphrase(cmd *cobra.Command, name string) (string, error) {
	in := cmd.InOrStdin()
	if name != "-" {
		f, err := openFile(cmd.Context(), name)
		if err != nil {
			return "", err
		}
		defer f.Close()
		in = interruptible{cmd.Context(), f}
	}
	line, err := bufio.NewReader(io.LimitReader(in, 4096)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("%s: %w", name, reason(err))
	}
	if line = strings.TrimRight(line, "\r\n"); line == "" {
		return "", fmt.Errorf("%s: its first line is empty; want a passphrase", name)
	}
	return line, nil
}

// openBackup opens the backup that is named by the one argument of a command, and calls f with it.
func (i *identityFlags) openBackup(cmd *cobra.Command, name string, f func(*backupReader) error) error {
	with, err := i.identities(cmd)
	if err != nil {
		return err
	}
	info, err := os.Stat(name)
	switch {
	case err != nil:
		return fmt.Errorf("%s%s: %w", place(cmd), name, reason(err))
	case info.IsDir():
		return fmt.Errorf("%s%s: is a directory, not a backup", place(cmd), name)
	}
	file, err := openFile(cmd.Context(), name)
	if err != nil {
		return err
	}
	defer file.Close()
	r, err := readBackup(bufio.NewReaderSize(file, 1<<20), with)
	if err != nil {
		return fmt.Errorf("%s%s: %w", place(cmd), name, err)
	}
	return f(r)
}

// keyring finds the keyring of a backup, and refuses another one, and one whose ledger is not to be trusted: before anything is unpacked.
func (r *backupReader) keyring(ctx context.Context, flag, beside string) (f keyFiles, err error) {
	if f, err = keysBeside(flag, beside); err != nil {
		return f, err
	}
	k, err := f.open(ctx, nil, nil)
	if err != nil {
		return f, err
	}
	if k.ID() != r.Keyring {
		return f, fmt.Errorf("%s: is not the keyring of this backup; say which is with --keys or CARREL_KEYS", f.keyring)
	}
	return f, nil
}

// oneBackup wants the name of a backup as the one argument.
func oneBackup(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("%swhich file? want the name of one backup, got %d", place(cmd), len(args))
	}
	return nil
}
