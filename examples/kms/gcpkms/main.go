// Command gcpkms opens a keyring whose key-encryption key lies in Google Cloud KMS, and says what is in it.
//
//	go run ./gcpkms -keyring /etc/carrel/keys -create \
//	    -key gcp-kms://projects/PROJECT/locations/LOCATION/keyRings/RING/cryptoKeys/KEY
//
// Credentials are Google's application default credentials.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/tink-crypto/tink-go-gcpkms/v2/integration/gcpkms"

	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/examples/kms/internal/status"
)

func main() {
	path := flag.String("keyring", "", "path of the keyring")
	key := flag.String("key", "", "URI of the key: gcp-kms://projects/P/locations/L/keyRings/R/cryptoKeys/K")
	create := flag.Bool("create", false, "create the keyring, which must not exist")
	flag.Parse()
	if err := run(context.Background(), os.Stdout, *path, *key, *create); err != nil {
		fmt.Fprintln(os.Stderr, "gcpkms:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer, path, key string, create bool) error {
	if path == "" || key == "" {
		return errors.New("want -keyring and -key")
	}
	client, err := gcpkms.NewClient(ctx, key)
	if err != nil {
		return err
	}
	defer client.Close()            // a keyring asks it whenever it changes: a server closes it when it ends
	kek, err := client.GetAEAD(key) // seals the keyring's own key of 32 bytes
	if err != nil {
		return err
	}
	if create {
		if err := crypto.CreateKeyring(path, kek); err != nil {
			return err
		}
	}
	return status.Print(ctx, out, path, kek)
}
