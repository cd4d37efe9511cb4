-- +goose Up

-- Texts that are looked up or sorted are of the collation "C", which is the order of their bytes: the database's own may change with the operating system, and then indexes do not find what they hold.

-- The keys that patrons' data is sealed under, each wrapped under the key of an epoch, which is not in this database.
CREATE TABLE subject_keys (
	subject text COLLATE "C" PRIMARY KEY,           -- an opaque reference: the ID of a patron
	epoch   bigint           NOT NULL,
	wrapped bytea            NOT NULL
);
-- A rotation asks for the keys of earlier epochs, of which there are none left most of the time.
CREATE INDEX subject_keys_epoch ON subject_keys (epoch, subject);

-- Patrons. What identifies is sealed. Times are UTC microseconds.
CREATE TABLE patrons (
	id         bytea  PRIMARY KEY,                  -- 16 bytes, random
	version    bigint NOT NULL,                     -- 1 when it was inserted, one more with every write
	indexed    bigint NOT NULL,                     -- the change of the index keys with which tokens and lookups were made
	grp        text   NOT NULL,
	categories text   NOT NULL,                     -- a JSON array, or empty
	library    text   NOT NULL,
	expires    bigint,
	wish       text   NOT NULL,                     -- about the reading history: keep, forget or empty
	wish_since bigint,
	tokens     bytea  NOT NULL,                     -- of 16 bytes each, one after the other: what a write has to delete from patron_tokens
	lookups    bytea  NOT NULL,                     -- the same for patron_lookups
	segments   bytea  NOT NULL                      -- for each: its number (one byte), revision and length (unsigned varints as in Protocol Buffers), and so many sealed bytes
);
-- What is sealed does not get smaller: spare the server the attempt.
ALTER TABLE patrons ALTER COLUMN segments SET STORAGE EXTERNAL;

-- The blind indexes. Whose an identifier is: the primary key makes it one patron's.
CREATE TABLE patron_tokens (
	token bytea PRIMARY KEY,
	id    bytea NOT NULL
);

CREATE TABLE patron_lookups (                       -- and by what else patrons are found, several by the same
	token bytea NOT NULL,
	id    bytea NOT NULL,
	PRIMARY KEY (token, id)
);

CREATE TABLE patron_indexes (                       -- one row
	newest bigint NOT NULL                          -- the newest change of the index keys that was ever written
);
INSERT INTO patron_indexes VALUES (0);

-- Who opened what by break-glass, and who reviewed it.
CREATE TABLE grants (
	id       text COLLATE "C" PRIMARY KEY,
	actor    text COLLATE "C" NOT NULL,
	role     text             NOT NULL,
	purpose  text             NOT NULL,
	subject  text             NOT NULL,             -- the ID of a patron
	segments bigint           NOT NULL,             -- a set: bit s stands for segment s
	issued   bigint,
	until    bigint,
	reviewed bigint,                                -- NULL: not yet
	reviewer text             NOT NULL,
	reason   bytea                                  -- sealed under the patron's key
);
CREATE UNIQUE INDEX grants_unreviewed ON grants (actor) WHERE reviewed IS NULL;

UPDATE carrel_schema SET version = 2;

-- +goose Down
DROP TABLE grants;
DROP TABLE patron_indexes;
DROP TABLE patron_lookups;
DROP TABLE patron_tokens;
DROP TABLE patrons;
DROP TABLE subject_keys;
UPDATE carrel_schema SET version = 1;
