-- +goose Up

-- When a record that was kept is worth reading again: from next on if plan is that of the sweep, else now. Whatever changes
-- a record sets its plan to 0; NULL: it was never put off.
ALTER TABLE links ADD COLUMN plan INTEGER;
ALTER TABLE links ADD COLUMN next INTEGER NOT NULL DEFAULT 0;
-- Plans' numbers only grow, so that what is worth reading is the beginning of each block. By blocks like links_person, so
-- that what a page of a sweep unlinks and puts off lies together here, too. What was never put off is not in it, so that
-- records that come and go without that, as in a library's first night, cost nothing here.
CREATE INDEX links_plan ON links (n >> 16, plan, next) WHERE plan IS NOT NULL AND person IS NOT NULL;
ALTER TABLE serials ADD COLUMN indexed INTEGER NOT NULL DEFAULT 0;   -- up to here all records that name somebody are in links_plan

-- 1: since the last sweep began, somebody came under a hold or out of one, or borrowed something while the plan asked for newer loans.
-- Their older loans are woken by the next sweep, all at once. Not the number of the change: it would stand at the borrower and
-- at the item of a loan, and join the two after it was unlinked.
ALTER TABLE persons ADD COLUMN stirred INTEGER NOT NULL DEFAULT 0;
CREATE INDEX persons_stirred ON persons (stirred) WHERE stirred = 1;
ALTER TABLE items ADD COLUMN stirred INTEGER NOT NULL DEFAULT 0;
CREATE INDEX items_stirred ON items (stirred) WHERE stirred = 1;

CREATE TABLE plan (                       -- one row: what sweeps go by
	number  INTEGER NOT NULL,             -- the change to the store in which it came into force
	name    TEXT    NOT NULL,
	needs   INTEGER NOT NULL,             -- as in package anonymize
	settled INTEGER NOT NULL,             -- what changed until then has woken whom it should
	cleared INTEGER NOT NULL              -- the change in which stirred was last set to 0 somewhere: what was read before may have missed it
);
INSERT INTO plan VALUES (0, '', 0, 0, 0);

PRAGMA user_version = 5;

-- +goose Down
DROP TABLE plan;
DROP INDEX items_stirred;
ALTER TABLE items DROP COLUMN stirred;
DROP INDEX persons_stirred;
ALTER TABLE persons DROP COLUMN stirred;
ALTER TABLE serials DROP COLUMN indexed;
DROP INDEX links_plan;
ALTER TABLE links DROP COLUMN next;
ALTER TABLE links DROP COLUMN plan;
PRAGMA user_version = 4;
