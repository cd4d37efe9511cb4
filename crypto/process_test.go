package crypto

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// childVariable names, in the environment of a child, which of children the test binary is to be.
const childVariable = "CARREL_CRYPTO_CHILD"

// children are what the test binary does as a process of its own. The arguments are the parent's.
var children = map[string]func(args []string){
	"panic":  panicChild,
	"shred":  shredChild,
	"rotate": rotateChild,
	"index":  indexChild,
}

func TestMain(m *testing.M) {
	if name := os.Getenv(childVariable); name != "" {
		children[name](strings.Split(os.Getenv(childVariable+"_ARGS"), "\n"))
		return
	}
	os.Exit(m.Run())
}

// long reports whether the long versions of tests were asked for.
func long() bool { return os.Getenv("CARREL_TEST_LONG") != "" }

func childCommand(t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(self, "-test.run=^$")
	cmd.Env = append(os.Environ(), childVariable+"="+name, childVariable+"_ARGS="+strings.Join(args, "\n"))
	return cmd
}

// startChild starts a child and returns the lines that it prints.
func startChild(t *testing.T, name string, args ...string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	cmd := childCommand(t, name, args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	return cmd, bufio.NewScanner(out)
}

// childKeyring opens the keyring at a path with the key-encryption key beside it.
func childKeyring(path string, store KeyStore, kek func(kekAEAD) kekAEAD) *Keyring {
	a, err := OpenKEK(strings.TrimSuffix(path, "keys") + "kek")
	childMust(err)
	if kek != nil {
		a = kek(a)
	}
	k, err := OpenKeyring(context.Background(), Config{Path: path, KEK: a, Store: store})
	childMust(err)
	return k
}

func childMust(err error) {
	if err != nil {
		panic(fmt.Sprint("child: ", err))
	}
}
