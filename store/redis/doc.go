// Package redis keeps what package lockout counts in a Redis or Valkey server, for several processes.
//
// Give [NewLockouts] a client of go-redis: a Client, a ClusterClient or a Ring. Every call is one script and one round trip, and what the scripts do is
// what [lockout.Admit] and [lockout.Settle] say.
//
// # What the server must be set to
//
//   - maxmemory-policy noeviction, which is the default. A key that is evicted is a lock that ends early. With noeviction a full server refuses to write, and a
//     Guard then refuses every guess.
//   - appendonly yes, if locks shall survive a restart. With appendfsync everysec, also a default, a crash forgets the guesses of the last second; with always it forgets none.
//   - Replication is asynchronous. A failover may forget the last guesses, and in a partition both sides may count for themselves; min-replicas-to-write makes
//     that shorter. Where that is too much, use one server, or store/sqlite.
//   - The clock of its host may be set while it runs, by up to an hour. See [Lockouts.Sync].
//   - Nobody else may write under the prefix. Whoever can delete keys can unlock.
//
// A client should have ContextTimeoutEnabled set in its options: without it go-redis waits its own timeouts out, whatever the context says. It should have DialerRetries: 1 and
// MaxRetries: -1: otherwise it tries five times to reach a server that is not there, and that four times. A [lockout.Guard] goes on after two seconds in
// any case.
//
// # What is kept
//
// One hash for each [lockout.Name], under {prefix}:name with the name in hexadecimal. The braces keep all keys in one slot of a cluster, so that one script can
// reach them. A field is the rest of a [lockout.Key], in hexadecimal, and its value the [lockout.State] in 48 bytes. Names are HMACs, so nobody without the Guard's key
// can tell from a dump who they are. A hash goes when nothing in it counts, and at the latest 71 minutes after twice the duration of its limits: an hour of
// that is for a clock that was set. The key {prefix}:clock is how far the store's time is from that of the server, and stays.
package redis
