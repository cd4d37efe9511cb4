// Package status prints what a keyring holds, which contains no key.
package status

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/tink-crypto/tink-go/v2/tink"

	"github.com/carrel-project/carrel/crypto"
)

// Print opens a keyring, which asks the key-encryption key once, and writes its ID and epochs. A server would pass a
// Store in the Config, too, and keep the keyring open for as long as it runs.
func Print(ctx context.Context, out io.Writer, path string, kek tink.AEAD) error {
	keys, err := crypto.OpenKeyring(ctx, crypto.Config{Path: path, KEK: kek})
	if err != nil {
		return err
	}
	st, err := keys.Status()
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "keyring %s, generation %d, %d erased\n", st.ID, st.Generation, st.Shredded)
	for _, e := range st.Epochs {
		current := ""
		if e.Current {
			current = ", current"
		}
		fmt.Fprintf(out, "epoch %d since %s%s\n", e.Number, e.Created.Format(time.RFC3339), current)
	}
	return nil
}
