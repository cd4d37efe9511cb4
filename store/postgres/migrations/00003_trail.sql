-- +goose Up

-- The audit trail. What is in a body says package audit: people in it are sealed.

-- Entries that were appended and have no number yet. Many append at once, also in transactions that take long, and none waits for another. Whoever
-- reads gives numbers to what is committed and moves it to trail_entries.
CREATE SEQUENCE trail_batches;
CREATE TABLE trail_incoming (
	batch  bigint NOT NULL,                   -- of trail_batches: one for each Append, whose entries stay together
	place  bigint NOT NULL,                   -- in the batch
	action text   NOT NULL,
	time   bigint NOT NULL,                   -- UTC microseconds
	tags   bytea  NOT NULL,                   -- of 16 bytes each, one after the other
	key    bytea,                             -- NULL: appending is not to be repeatable
	body   bytea  NOT NULL,
	PRIMARY KEY (batch, place)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000); -- rows stay for seconds

CREATE TABLE trail_entries (
	number bigint PRIMARY KEY,                -- the place in the log, from 0; without gaps but for what was pruned
	action text COLLATE "C" NOT NULL,
	time   bigint NOT NULL,
	tags   bytea  NOT NULL,
	key    bytea,
	body   bytea  NOT NULL
);
CREATE INDEX trail_entries_action ON trail_entries (action, time, number);

CREATE TABLE trail_tags (                     -- of the rows of trail_entries
	tag    bytea  NOT NULL,
	number bigint NOT NULL,
	PRIMARY KEY (tag, number)
);
CREATE TABLE trail_keys (                     -- of the rows of both tables
	key bytea PRIMARY KEY
);

CREATE TABLE trail_numbers (                  -- one row; who locks it gives numbers
	one  boolean PRIMARY KEY DEFAULT true CHECK (one),
	next bigint  NOT NULL                     -- no entry gets a smaller number
);
INSERT INTO trail_numbers (next) VALUES (0);

-- The tree over the entries.
CREATE TABLE trail_tiles (
	id   bigint PRIMARY KEY,                  -- level << 56 | number
	data bytea  NOT NULL                      -- hashes of 32 bytes each
);
CREATE TABLE trail_tree (                     -- one row
	size       bigint NOT NULL,               -- so many entries have a leaf
	checkpoint bytea
);
INSERT INTO trail_tree VALUES (0, NULL);

UPDATE carrel_schema SET version = 3;

-- +goose Down
DROP TABLE trail_tree;
DROP TABLE trail_tiles;
DROP TABLE trail_numbers;
DROP TABLE trail_keys;
DROP TABLE trail_tags;
DROP TABLE trail_entries;
DROP TABLE trail_incoming;
DROP SEQUENCE trail_batches;
UPDATE carrel_schema SET version = 2;
