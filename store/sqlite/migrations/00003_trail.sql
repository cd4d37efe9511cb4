-- +goose Up

-- The audit trail. What is in a body says package audit: people in it are sealed.
CREATE TABLE trail_entries (
	number INTEGER PRIMARY KEY,               -- the place in the log, from 0; without gaps but for what was pruned
	action TEXT    NOT NULL,
	time   INTEGER NOT NULL,                  -- UTC microseconds
	tags   BLOB    NOT NULL,                  -- of 16 bytes each, one after the other, in order
	key    BLOB,                              -- NULL: appending is not to be repeatable
	body   BLOB    NOT NULL
);
CREATE UNIQUE INDEX trail_entries_key ON trail_entries (key) WHERE key IS NOT NULL;

-- By what entries are found, of those before trail_tree.indexed. Those after it are few and read through: so that
-- appending one entry writes one row, and the index is written for some hundred at a time. Tags of a month are random; by runs of
-- numbers, the hundreds lie on few pages and not on one each.
CREATE TABLE trail_tags (
	month  BLOB    NOT NULL,                  -- the first two bytes of the tag
	run    INTEGER NOT NULL,                  -- number >> 12
	tag    BLOB    NOT NULL,
	number INTEGER NOT NULL,
	PRIMARY KEY (month, run, tag, number)
) WITHOUT ROWID;
CREATE TABLE trail_actions (
	action TEXT    NOT NULL,
	time   INTEGER NOT NULL,
	number INTEGER NOT NULL,
	PRIMARY KEY (action, time, number)
) WITHOUT ROWID;

-- The tree over the entries.
CREATE TABLE trail_tiles (
	id   INTEGER PRIMARY KEY,                 -- level << 56 | number
	data BLOB    NOT NULL                     -- hashes of 32 bytes each
);
CREATE TABLE trail_tree (                     -- one row
	size       INTEGER NOT NULL,              -- so many entries have a leaf
	next       INTEGER NOT NULL,              -- no entry gets a smaller number
	indexed    INTEGER NOT NULL,              -- entries before this number are in trail_tags and trail_actions
	checkpoint BLOB
);
INSERT INTO trail_tree VALUES (0, 0, 0, NULL);

PRAGMA user_version = 3;

-- +goose Down
DROP TABLE trail_tree;
DROP TABLE trail_tiles;
DROP TABLE trail_actions;
DROP TABLE trail_tags;
DROP TABLE trail_entries;
PRAGMA user_version = 2;
