package circulation

// Saved counts what became of entries handed to a store.
type Saved struct {
	Added   int // new records
	Updated int // records that were there, still named a borrower, and differed
	Same    int // records that were there and did not differ
	// AlreadyUnlinked were there and named nobody any more: nothing of them was changed, because a late
	// export must not bring a borrower back.
	AlreadyUnlinked int
	// PointersDropped are pointers to records that name nobody any more; they were left out.
	PointersDropped int
	KeptLinked      int // named nobody any more, but an exception keeps their borrower
}
