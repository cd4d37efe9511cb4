package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/tink-crypto/tink-go/v2/core/registry"
	"github.com/tink-crypto/tink-go/v2/testing/fakekms"

	"github.com/carrel-project/carrel/crypto"
)

// A key in a KMS is reached through whatever client was built in.
func TestKEKInAKMS(t *testing.T) {
	uri, err := fakekms.NewKeyURI()
	require.NoError(t, err)
	t.Setenv("CARREL_KEK", uri)
	f, err := findKeys(filepath.Join(t.TempDir(), "keys"), "")
	require.NoError(t, err)
	_, err = f.openKEK()
	require.ErrorContains(t, err, "built without a client for fake-kms")

	client, err := fakekms.NewClient(uri)
	require.NoError(t, err)
	registry.RegisterKMSClient(client)
	t.Cleanup(registry.ClearKMSClients)
	require.NoError(t, f.create(os.Stderr))
	assert.NoFileExists(t, f.keyring+".kek")
	_, err = f.open(t.Context(), nil, nil)
	require.NoError(t, err)

	other, err := fakekms.NewKeyURI()
	require.NoError(t, err)
	t.Setenv("CARREL_KEK", other)
	_, err = findKeys("", "")
	require.Error(t, err)
	f.kek = other
	again, err := fakekms.NewClient(other)
	require.NoError(t, err)
	registry.ClearKMSClients()
	registry.RegisterKMSClient(again)
	_, err = f.open(t.Context(), nil, nil)
	require.ErrorIs(t, err, crypto.ErrWrongKEK)

	t.Setenv("CARREL_KEK", "c2VjcmV0")
	_, err = findKeys("x", "")
	require.EqualError(t, err, "CARREL_KEK: want file:PATH, or the URI of a key in a KMS such as aws-kms://…", "it may be the key")
}

// BenchmarkImportPatrons imports 100,000 new patrons from a CSV file of 16 columns into a new database.
func BenchmarkImportPatrons(b *testing.B) {
	n := 100_000
	if testing.Short() {
		n = 2000
	}
	csv := filepath.Join(b.TempDir(), "patrons.csv")
	f, err := os.Create(csv)
	require.NoError(b, err)
	fmt.Fprintln(f, "patron,group,library,expires,barcode,username,first,last,email,day_phone,street,city,region,postcode,country,birth")
	for i := range n {
		fmt.Fprintf(f, "p%d,students,main,2027-01-%02d,2900000%07d,user%[1]d,First%[1]d,Last%[1]d,user%[1]d@example.org,+4670%07[3]d,Street %[1]d,City,Region,%05[1]d,SE,19%02[4]d-%02[5]d-%02[2]d\n",
			i, 1+i%28, i, i%100, 1+i%12)
	}
	require.NoError(b, f.Close())
	for b.Loop() {
		db := filepath.Join(b.TempDir(), "library.db")
		out, err := command(b, "import", "--db", db, "--patrons", csv).CombinedOutput()
		require.NoError(b, err, string(out))
	}
	b.ReportMetric(float64(n*b.N)/b.Elapsed().Seconds(), "patrons/s")
}
