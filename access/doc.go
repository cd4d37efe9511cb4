// Package access decides who may see which part of a patron record, for what purpose.
//
// A library writes down, in one YAML file, what each role may see for each purpose: nothing of a segment,
// that it exists, a masked form, or all of it; and what else the role may do. [ParseMatrix] reads the
// file and runs the tests in it; [Matrix.Decide] answers for all segments of a patron at once. What the
// file does not allow is denied: an unknown role, purpose or segment, and the empty string, see nothing.
// [Preset] has a file to begin with.
//
// Where the matrix says no, a role with break-glass may open named segments of one patron for at
// most 15 minutes, with a reason ([NewGrant]). Until somebody else has reviewed that use, its actor
// gets no other.
//
// A system with its own engine for such questions implements [Decider] instead.
//
// The package decides and does nothing else: it reads no patron, masks no value, keeps no grant and
// writes no trail; patron does. It does not know whether the caller is who they say they are, nor whether
// the purpose that they name is the true one: the trail is what makes a false purpose costly.
package access
