// Package anonymize decides when a circulation record forgets its borrower, and makes it so.
//
// A library writes its retention rules into a policy file ([ParsePolicy]; the language is described in
// docs/formats.md). [Policy.Decide] says of one record whether it is to be unlinked at a time, by which
// rule, or what keeps it and until when. It is pure, so the nightly [Sweep], a dry run, an explanation
// and a simulation give the same answer. [Sweep.Run] goes through a [Store] page by page and
// unlinks what is due, each page with its receipt in one transaction.
//
// An exception (an unfinished, lost or claimed item, money owed, a legal hold) beats every rule and is checked
// again by the store in the transaction that unlinks. A kind that the policy does not name is kept;
// a record that no rule matches is kept unless the policy says otherwise; no policy is an error.
//
// The package never sees a patron. It does not protect against what other tables of a library system
// keep about who borrowed what: see docs/adopting.md.
package anonymize
