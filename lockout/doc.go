// Package lockout limits guesses at the passwords and PINs of patrons and staff.
//
// A login page needs [Guard], [Config] with its [Profile], [Attempt], [Account], [Reservation] and [Source]. The rest is for those who write a [Store].
//
// Call [Guard.Reserve] before a password is looked at, and conclude the [Reservation] after:
//
//	r, err := guard.Reserve(ctx, lockout.Attempt{Account: lockout.Account{Login: typed, ID: id}, Source: source})
//	if err != nil {
//		… // refuse, with the same words as for a wrong password
//	}
//	if !verify(password) {
//		r.Failure(ctx)
//		… // refuse
//	}
//	err = r.Success(ctx) // refuse if it is not nil
//
// A guess is paid for before it is checked: one atomic step of the store counts it, and a right one is taken back. So of any number of guesses at the same time, in any
// number of processes, no more are checked than [Config] allows; a counter that is read first and written later, or after the check, lets them all through. Logins that are right wait for each other, at most two seconds.
//
// All logins of an account share its guesses: give its ID whichever way somebody came to it. Logins that lead to no account are counted in the same way, under the login
// itself, in which case, width, spaces and other variants of writing make no difference: [Fold] says which. Whatever finds the account of a login must compare logins exactly by Fold: anything finer or coarser
// tells which logins exist. Sources have a limit of their own: an IPv4 address, or 64 bits of an IPv6 one.
// Whoever uses up an account's guesses locks it for everybody who comes without a token of [Guard.Remember] and not from a network in [Config.Known].
//
// What it does not do: it does not stop one guess at each of many accounts from many sources, it does not know good passwords from bad, and it does not hide from somebody who knows two logins of an
// account that they are of one. An owner of the store can delete what it counts.
//
// How to start, the rules, and where other systems have them otherwise, are in docs/lockout.md.
package lockout
