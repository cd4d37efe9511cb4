-- +goose Up

-- The keys that patrons' data is sealed under, each wrapped under the key of an epoch, which is not in this file.
CREATE TABLE subject_keys (
	subject TEXT    PRIMARY KEY,            -- an opaque reference: the ID of a patron
	epoch   INTEGER NOT NULL,
	wrapped BLOB    NOT NULL
) WITHOUT ROWID;
-- A rotation asks for the keys of earlier epochs, of which there are none left most of the time.
CREATE INDEX subject_keys_epoch ON subject_keys (epoch, subject);

-- Patrons. What identifies is sealed. Times are UTC microseconds.
CREATE TABLE patrons (
	n          INTEGER PRIMARY KEY,         -- made of the ID, see place in patrons.go. Rows in the order of their arrival would tell who is old, and after a sorted export even how a name begins
	id         BLOB    NOT NULL,            -- 16 bytes, random; no two alike
	version    INTEGER NOT NULL,            -- 1 when it was inserted, one more with every write
	indexed    INTEGER NOT NULL,            -- the change of the index keys with which tokens and lookups were made
	grp        TEXT    NOT NULL,
	categories TEXT    NOT NULL,            -- a JSON array, or empty
	library    TEXT    NOT NULL,
	expires    INTEGER,
	wish       TEXT    NOT NULL,            -- about the reading history: keep, forget or empty
	wish_since INTEGER,
	tokens     BLOB    NOT NULL,            -- of 16 bytes each, one after the other: what a write has to delete from patron_tokens
	lookups    BLOB    NOT NULL,            -- the same for patron_lookups
	segments   BLOB    NOT NULL             -- for each: its number (one byte), revision and length (unsigned varints as in Protocol Buffers), and so many sealed bytes
);

-- The blind indexes. Whose an identifier is: the primary key makes it one patron's.
CREATE TABLE patron_tokens (
	token BLOB    PRIMARY KEY,
	n     INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE patron_lookups (               -- and by what else patrons are found, several by the same
	token BLOB    NOT NULL,
	n     INTEGER NOT NULL,
	PRIMARY KEY (token, n)
) WITHOUT ROWID;

CREATE TABLE patron_indexes (               -- one row
	newest INTEGER NOT NULL                 -- the newest change of the index keys that was ever written
);
INSERT INTO patron_indexes VALUES (0);

-- Who opened what by break-glass, and who reviewed it.
CREATE TABLE grants (
	id       TEXT    PRIMARY KEY,
	actor    TEXT    NOT NULL,
	role     TEXT    NOT NULL,
	purpose  TEXT    NOT NULL,
	subject  TEXT    NOT NULL,              -- the ID of a patron
	segments INTEGER NOT NULL,              -- a set: bit s stands for segment s
	issued   INTEGER,
	until    INTEGER,
	reviewed INTEGER,                       -- NULL: not yet
	reviewer TEXT    NOT NULL,
	reason   BLOB                           -- sealed under the patron's key
) WITHOUT ROWID;
CREATE UNIQUE INDEX grants_unreviewed ON grants (actor) WHERE reviewed IS NULL;

PRAGMA user_version = 2;

-- +goose Down
DROP TABLE grants;
DROP TABLE patron_indexes;
DROP TABLE patron_lookups;
DROP TABLE patron_tokens;
DROP TABLE patrons;
DROP TABLE subject_keys;
PRAGMA user_version = 1;
