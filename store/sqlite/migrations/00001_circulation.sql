-- +goose Up

-- What happened. A row is anonymous from birth: it names nobody, and unlinking does not touch it unless a
-- policy's keep-fields makes it coarser. Times are UTC microseconds; an empty text is not known.
CREATE TABLE records (
	n                INTEGER PRIMARY KEY,           -- (kind - 1) << 40 | serial: each kind is one range of numbers; dealt in random order
	id               TEXT    NOT NULL,              -- the library system's
	ended            INTEGER,
	status           INTEGER NOT NULL DEFAULT 0,    -- 0 open, 1 ended
	lost             INTEGER NOT NULL DEFAULT 0,
	claimed_returned INTEGER NOT NULL DEFAULT 0,
	grp              TEXT    NOT NULL DEFAULT '',
	library          TEXT    NOT NULL DEFAULT '',
	location         TEXT    NOT NULL DEFAULT '',
	type             TEXT    NOT NULL DEFAULT '',
	item             TEXT    NOT NULL DEFAULT '',
	categories       TEXT    NOT NULL DEFAULT '',   -- a JSON array
	started          INTEGER,
	due              INTEGER,
	renewals         INTEGER NOT NULL DEFAULT 0,
	fee_status       INTEGER,                       -- fees only: 0 open, 1 in process, 2 closed
	method           TEXT    NOT NULL DEFAULT '',
	amount           INTEGER NOT NULL DEFAULT 0,    -- hundredths
	outcome          TEXT    NOT NULL DEFAULT ''
);
CREATE UNIQUE INDEX records_id ON records (n >> 40, id);
CREATE INDEX records_item ON records (item) WHERE n < 1 << 40 AND item <> '';
-- The few rows that must keep their link whatever a policy says; read again by every write that unlinks.
CREATE INDEX records_guarded ON records (n)
	WHERE status <> 1 OR lost <> 0 OR claimed_returned <> 0 OR fee_status <> 2 OR n >> 40 = 3 AND fee_status IS NULL;

-- Whose it is. A record is unlinked when its row here is gone. A person of NULL: the record never named
-- anybody but is not settled either (an export of fees without borrowers, say); with a seq of NULL, too, it is a
-- fee that was unlinked and opened again, and has its row only until it is closed.
CREATE TABLE links (
	n        INTEGER PRIMARY KEY,
	person   INTEGER,
	version  INTEGER NOT NULL,            -- the store's change in which the record last changed
	seq      INTEGER,                     -- loans of the borrower that started no later, unlinked ones included
	item_seq INTEGER                      -- the same for the item
);
-- By blocks of 65,536 numbers, so that unlinking a page, whose numbers lie together but whose borrowers do
-- not, touches a few pages of the index instead of all of them.
CREATE INDEX links_person ON links (n >> 16, person);

CREATE TABLE companions (                 -- proxy, sponsor, staff, recipient
	n      INTEGER NOT NULL,
	role   INTEGER NOT NULL,
	person INTEGER NOT NULL,
	PRIMARY KEY (n, role, person)
) WITHOUT ROWID;

CREATE TABLE personal (                   -- comments, notes, addresses, messages
	n     INTEGER NOT NULL,
	field INTEGER NOT NULL,
	value TEXT    NOT NULL,
	PRIMARY KEY (n, field)
) WITHOUT ROWID;

CREATE TABLE ties (                       -- record n points at record target; both are still linked
	n      INTEGER NOT NULL,
	target INTEGER NOT NULL,
	PRIMARY KEY (n, target)
) WITHOUT ROWID;
CREATE INDEX ties_target ON ties (target);

CREATE TABLE fee_summaries (              -- what a linked loan remembers of fees that were unlinked
	loan   INTEGER NOT NULL,
	status INTEGER NOT NULL,
	closed INTEGER,
	method TEXT    NOT NULL
);
CREATE INDEX fee_summaries_loan ON fee_summaries (loan);

CREATE TABLE persons (
	p          INTEGER PRIMARY KEY,         -- random
	borrower   TEXT    NOT NULL UNIQUE,
	version    INTEGER NOT NULL,            -- the store's change in which something changed that rules see
	loans      INTEGER NOT NULL DEFAULT 0,  -- ever, unlinked ones included
	listed     INTEGER NOT NULL DEFAULT 0,  -- put here by a list of patrons: not forgotten with the last record
	grp        TEXT    NOT NULL DEFAULT '',
	expires    INTEGER,
	wish       INTEGER NOT NULL DEFAULT 0,
	wish_since INTEGER
);
CREATE INDEX persons_version ON persons (version);

CREATE TABLE holds (
	person INTEGER NOT NULL,
	ref    TEXT    NOT NULL,
	until  INTEGER,
	PRIMARY KEY (person, ref)
) WITHOUT ROWID;

CREATE TABLE items (
	item  TEXT    PRIMARY KEY,
	loans INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;

CREATE TABLE receipts (
	id   INTEGER PRIMARY KEY AUTOINCREMENT,
	body TEXT NOT NULL
);

CREATE TABLE serials (                    -- numbers are never given twice; some never
	kind INTEGER PRIMARY KEY,
	last INTEGER NOT NULL
);
INSERT INTO serials VALUES (1, 0), (2, 0), (3, 0), (4, 0), (5, 0);

CREATE TABLE changes (                    -- one row
	last       INTEGER NOT NULL,          -- the number of the last change to the store
	unfinished INTEGER NOT NULL           -- changes since the last clearing-up
);
INSERT INTO changes VALUES (0, 0);

-- For people who study them.
CREATE VIEW loans AS
	SELECT id, grp, categories, library, location, type, item, datetime(started / 1000000, 'unixepoch') AS loaned,
		datetime(due / 1000000, 'unixepoch') AS due, datetime(ended / 1000000, 'unixepoch') AS returned,
		renewals, lost, claimed_returned, outcome
	FROM records WHERE n BETWEEN 0 AND (1 << 40) - 1;
CREATE VIEW requests AS
	SELECT id, grp, categories, library, location, type, item, datetime(started / 1000000, 'unixepoch') AS requested,
		datetime(ended / 1000000, 'unixepoch') AS closed, outcome
	FROM records WHERE n BETWEEN 1 << 40 AND (2 << 40) - 1;
CREATE VIEW sharings AS
	SELECT id, grp, categories, library, location, type, item, datetime(started / 1000000, 'unixepoch') AS requested,
		datetime(ended / 1000000, 'unixepoch') AS closed, outcome AS state
	FROM records WHERE n BETWEEN 2 << 40 AND (3 << 40) - 1;
CREATE VIEW fees AS
	SELECT id, grp, categories, library, type, amount, datetime(started / 1000000, 'unixepoch') AS charged,
		datetime(ended / 1000000, 'unixepoch') AS closed,
		CASE fee_status WHEN 2 THEN 'closed' WHEN 1 THEN 'in-process' ELSE 'open' END AS status, outcome, method
	FROM records WHERE n BETWEEN 3 << 40 AND (4 << 40) - 1;
CREATE VIEW notices AS
	SELECT id, grp, categories, library, type, datetime(started / 1000000, 'unixepoch') AS created,
		datetime(ended / 1000000, 'unixepoch') AS sent, outcome
	FROM records WHERE n BETWEEN 4 << 40 AND (5 << 40) - 1
		AND n IN (SELECT n FROM links);        -- of the others only the ID is left, so that a late export does not bring them back

PRAGMA user_version = 1;

-- +goose Down
DROP VIEW notices;
DROP VIEW fees;
DROP VIEW sharings;
DROP VIEW requests;
DROP VIEW loans;
DROP TABLE changes;
DROP TABLE serials;
DROP TABLE receipts;
DROP TABLE items;
DROP TABLE holds;
DROP TABLE persons;
DROP TABLE fee_summaries;
DROP TABLE ties;
DROP TABLE personal;
DROP TABLE companions;
DROP TABLE links;
DROP TABLE records;
PRAGMA user_version = 0;
