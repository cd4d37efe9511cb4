// Command vault opens a keyring whose key-encryption key lies in the transit engine of HashiCorp Vault, and says what is in it.
//
//	vault write -f transit/keys/carrel
//	go run ./vault -keyring /etc/carrel/keys -key hcvault://vault.example.org:8200/transit/keys/carrel -create
//
// The token and TLS settings are those of Vault's own client: VAULT_TOKEN, VAULT_CACERT and so on.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/url"
	"os"

	"github.com/hashicorp/vault/api"
	"github.com/tink-crypto/tink-go-hcvault/v2/integration/hcvault"
	"github.com/tink-crypto/tink-go/v2/tink"

	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/examples/kms/internal/status"
)

func main() {
	path := flag.String("keyring", "", "path of the keyring")
	key := flag.String("key", "", "URI of the key: hcvault://HOST:PORT/transit/keys/NAME")
	create := flag.Bool("create", false, "create the keyring, which must not exist")
	flag.Parse()
	if err := run(context.Background(), os.Stdout, *path, *key, *create); err != nil {
		fmt.Fprintln(os.Stderr, "vault:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer, path, key string, create bool) error {
	if path == "" || key == "" {
		return errors.New("want -keyring and -key")
	}
	kek, err := newKEK(key)
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

// newKEK returns the key-encryption key, which seals the keyring's own key of 32 bytes. The transit key must not be a derived one:
// there is no context to derive from.
func newKEK(key string) (tink.AEAD, error) {
	u, err := url.Parse(key)
	if err != nil {
		return nil, errors.New("-key is not a URI")
	}
	cfg := api.DefaultConfig() // reads VAULT_CACERT and its like
	if cfg.Error != nil {
		return nil, cfg.Error
	}
	cfg.Address = "https://" + u.Host
	vault, err := api.NewClient(cfg) // reads VAULT_TOKEN
	if err != nil {
		return nil, err
	}
	client, err := hcvault.NewClientWithAEADOptions(key, vault.Logical())
	if err != nil {
		return nil, err
	}
	return client.GetAEAD(key)
}
