package crypto

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
)

// A store that one keyring has sealed in is refused by every other one, also by one with the same KEK, and by an old copy.
func TestForeignStore(t *testing.T) {
	ctx := context.Background()
	ours, theirs := newHouse(t), newHouse(t)
	store := newMemory()
	k := ours.open(store)
	other := theirs.open(store) // nothing is sealed there yet
	require.NoError(t, k.CreateKeys(ctx))
	_, err := OpenKeyring(ctx, Config{Path: theirs.path, KEK: theirs.kek, Store: store})
	require.ErrorIs(t, err, ErrForeignStore)
	require.ErrorIs(t, other.CreateKeys(ctx, "a"), ErrForeignStore, "also one that was opened before")
	_, err = OpenKeyring(ctx, Config{Path: theirs.path, KEK: theirs.kek})
	require.NoError(t, err, "without the store it is no matter")

	old := ours.file("")
	_, err = k.Rotate(ctx, nil)
	require.NoError(t, err)
	_, err = OpenKeyring(ctx, Config{Path: ours.path, KEK: ours.kek, Store: store})
	require.NoError(t, err)
	ours.write("", old)
	_, err = OpenKeyring(ctx, Config{Path: ours.path, KEK: ours.kek, Store: store})
	require.ErrorIs(t, err, ErrOldKeyring)
}
