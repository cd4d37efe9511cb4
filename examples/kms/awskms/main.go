// Command awskms opens a keyring whose key-encryption key lies in AWS KMS, and says what is in it.
//
//	go run ./awskms -keyring /etc/carrel/keys -key aws-kms://arn:aws:kms:eu-north-1:111122223333:key/… -create
//
// Credentials are those of the AWS SDK: environment, shared configuration, or the role of the machine.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/tink-crypto/tink-go-awskms/v3/integration/awskms"
	"github.com/tink-crypto/tink-go/v2/tink"

	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/examples/kms/internal/status"
)

func main() {
	path := flag.String("keyring", "", "path of the keyring")
	key := flag.String("key", "", "URI of the key: aws-kms://arn:aws:kms:REGION:ACCOUNT:key/ID")
	create := flag.Bool("create", false, "create the keyring, which must not exist")
	flag.Parse()
	if err := run(context.Background(), os.Stdout, *path, *key, *create); err != nil {
		fmt.Fprintln(os.Stderr, "awskms:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer, path, key string, create bool) error {
	if path == "" || key == "" {
		return errors.New("want -keyring and -key")
	}
	kek, err := newKEK(ctx, key)
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

// newKEK returns the key-encryption key, which seals the keyring's own key of 32 bytes.
func newKEK(ctx context.Context, key string) (tink.AEAD, error) {
	client, err := awskms.NewClientWithOptions(ctx, key)
	if err != nil {
		return nil, err
	}
	return client.GetAEAD(key)
}
