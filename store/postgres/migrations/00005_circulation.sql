-- +goose Up

-- What happened. A row is anonymous from birth: it names nobody, and unlinking does not touch it unless a policy's keep-fields makes it coarser. Times are UTC microseconds;
-- an empty text is not known.
CREATE TABLE records (
	n                bigint   PRIMARY KEY,          -- (kind - 1) << 40 | serial: each kind is one range of numbers; dealt in random order
	started          bigint,
	ended            bigint,
	due              bigint,
	amount           bigint   NOT NULL DEFAULT 0,   -- hundredths
	renewals         integer  NOT NULL DEFAULT 0,
	status           smallint NOT NULL DEFAULT 0,   -- 0 open, 1 ended
	fee_status       smallint,                      -- fees only: 0 open, 1 in process, 2 closed
	lost             boolean  NOT NULL DEFAULT false,
	claimed_returned boolean  NOT NULL DEFAULT false,
	id               text COLLATE "C" NOT NULL,     -- the library system's
	grp              text     NOT NULL DEFAULT '',
	library          text     NOT NULL DEFAULT '',
	location         text     NOT NULL DEFAULT '',
	type             text     NOT NULL DEFAULT '',
	item             text COLLATE "C" NOT NULL DEFAULT '',
	categories       text     NOT NULL DEFAULT '',  -- a JSON array
	method           text     NOT NULL DEFAULT '',
	outcome          text     NOT NULL DEFAULT ''
);
CREATE UNIQUE INDEX records_id ON records ((n >> 40), id);
CREATE INDEX records_item ON records (item) WHERE n < 1099511627776 AND item <> '';
-- The few rows that must keep their link whatever a policy says; read again by every write that unlinks.
CREATE INDEX records_guarded ON records (n)
	WHERE status <> 1 OR lost OR claimed_returned OR fee_status <> 2 OR n >> 40 = 3 AND fee_status IS NULL;

-- Whose it is. A record is unlinked when its row here is gone. A person of NULL: the record never named anybody but is not settled either (an export of fees without
-- borrowers, say); with a seq of NULL, too, it is a fee that was unlinked and opened again, and has its row only until it is closed.
CREATE TABLE links (
	n        bigint  PRIMARY KEY,
	person   bigint,
	next     bigint  NOT NULL DEFAULT 0,            -- under this plan the record is not worth reading before; then nothing of it was changed
	version  integer NOT NULL DEFAULT 1,            -- one more with every change of the record, or of a fee of it
	plan     integer NOT NULL DEFAULT 0,            -- 0: it is to be read
	seq      integer,                               -- loans of the borrower that started no later, unlinked ones included
	item_seq integer                                -- the same for the item
);
CREATE INDEX links_person ON links (person) WHERE person IS NOT NULL;
-- What is worth reading under the newest plan is one range of this: all of earlier plans, and of this one what is due.
CREATE INDEX links_due ON links ((n >> 40), plan, next, n);

CREATE TABLE companions (                         -- proxy, sponsor, staff, recipient
	n      bigint   NOT NULL,
	person bigint   NOT NULL,
	role   smallint NOT NULL,
	PRIMARY KEY (n, role, person)
);
CREATE INDEX companions_person ON companions (person);

CREATE TABLE personal (                           -- comments, notes, addresses, messages
	n     bigint   NOT NULL,
	field smallint NOT NULL,
	value text     NOT NULL,
	PRIMARY KEY (n, field)
);

CREATE TABLE ties (                               -- record n points at record target; both are still linked
	n      bigint NOT NULL,
	target bigint NOT NULL,
	PRIMARY KEY (n, target)
);
CREATE INDEX ties_target ON ties (target);

CREATE TABLE fee_summaries (                      -- what a linked loan remembers of fees that were unlinked
	loan   bigint   NOT NULL,
	closed bigint,
	status smallint NOT NULL,
	method text     NOT NULL
);
CREATE INDEX fee_summaries_loan ON fee_summaries (loan);

CREATE TABLE persons (
	p          bigint   PRIMARY KEY,                -- random
	changed    xid8     NOT NULL,                   -- the transaction in which something last changed that rules see, newer loans aside
	counted    xid8     NOT NULL,                   -- and that in which loans were last counted
	expires    bigint,
	wish_since bigint,
	loans      integer  NOT NULL DEFAULT 0,         -- ever, unlinked ones included
	wish       smallint NOT NULL DEFAULT 0,
	fresh      smallint NOT NULL DEFAULT 0,         -- since the last sweep began: 1 the account changed, 2 there are newer loans, 3 both
	listed     boolean  NOT NULL DEFAULT false,     -- put here by a list of patrons: not forgotten with the last record
	borrower   text COLLATE "C" NOT NULL UNIQUE,
	grp        text     NOT NULL DEFAULT ''
);
CREATE INDEX persons_changed ON persons (changed);
CREATE INDEX persons_counted ON persons (counted);
CREATE INDEX persons_fresh ON persons (p) WHERE fresh <> 0;

CREATE TABLE holds (
	person  bigint NOT NULL,
	until   bigint,
	changed xid8   NOT NULL,                        -- as in persons
	ref     text COLLATE "C" NOT NULL,
	PRIMARY KEY (person, ref)
);

CREATE TABLE items (
	item    text COLLATE "C" PRIMARY KEY,
	counted xid8    NOT NULL,                       -- as in persons
	loans   integer NOT NULL DEFAULT 0,
	fresh   boolean NOT NULL DEFAULT false
);
CREATE INDEX items_fresh ON items (item) WHERE fresh;

CREATE TABLE leavers (                            -- persons of whom something was unlinked since the last clearing-up; NULL: of very many
	person bigint
);

CREATE TABLE plans (                              -- what records were put off under; the newest counts
	number integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	name   text NOT NULL
);

CREATE TABLE receipts (
	id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	body text NOT NULL
);

CREATE SEQUENCE serials_1;                        -- by kind; numbers are never given twice, some never
CREATE SEQUENCE serials_2;
CREATE SEQUENCE serials_3;
CREATE SEQUENCE serials_4;
CREATE SEQUENCE serials_5;

-- ANALYZE keeps samples of columns. None of those that identify.
ALTER TABLE persons ALTER COLUMN borrower SET STATISTICS 0;
ALTER TABLE personal ALTER COLUMN value SET STATISTICS 0;

-- What was deleted lies in the files until a table is vacuumed.
ALTER TABLE links SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
ALTER TABLE companions SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 100);
ALTER TABLE personal SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 100);
ALTER TABLE ties SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 100);
ALTER TABLE fee_summaries SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 100);
ALTER TABLE persons SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 100);

-- For people who study them.
CREATE VIEW loans AS
	SELECT id, grp, categories, library, location, type, item, to_timestamp(started / 1000000.0) AS loaned,
		to_timestamp(due / 1000000.0) AS due, to_timestamp(ended / 1000000.0) AS returned, renewals, lost, claimed_returned, outcome
	FROM records WHERE n >> 40 = 0;
CREATE VIEW requests AS
	SELECT id, grp, categories, library, location, type, item, to_timestamp(started / 1000000.0) AS requested, to_timestamp(ended / 1000000.0) AS closed, outcome
	FROM records WHERE n >> 40 = 1;
CREATE VIEW sharings AS
	SELECT id, grp, categories, library, location, type, item, to_timestamp(started / 1000000.0) AS requested, to_timestamp(ended / 1000000.0) AS closed, outcome AS state
	FROM records WHERE n >> 40 = 2;
CREATE VIEW fees AS
	SELECT id, grp, categories, library, type, amount, to_timestamp(started / 1000000.0) AS charged, to_timestamp(ended / 1000000.0) AS closed,
		CASE fee_status WHEN 2 THEN 'closed' WHEN 1 THEN 'in-process' ELSE 'open' END AS status, outcome, method
	FROM records WHERE n >> 40 = 3;
CREATE VIEW notices AS
	SELECT id, grp, categories, library, type, to_timestamp(started / 1000000.0) AS created, to_timestamp(ended / 1000000.0) AS sent, outcome
	FROM records WHERE n >> 40 = 4 AND n IN (SELECT n FROM links);
	-- of the others only the ID is left, so that a late export does not bring them back

UPDATE carrel_schema SET version = 5;

-- +goose Down
DROP VIEW notices, fees, sharings, requests, loans;
DROP SEQUENCE serials_1, serials_2, serials_3, serials_4, serials_5;
DROP TABLE receipts, plans, leavers, items, holds, persons, fee_summaries, ties, personal, companions, links, records;
UPDATE carrel_schema SET version = 4;
