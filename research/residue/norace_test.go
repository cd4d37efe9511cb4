//go:build !race

package residue

// RaceDetector says that SQLite is fifty times slower than usual, so that tests make do with less of it.
const RaceDetector = false
