-- +goose Up

-- What was asked for by right: since when a patron's record is restricted, and when erasure was asked for that waits for what is still owed. UTC microseconds.
ALTER TABLE patrons ADD COLUMN restricted bigint, ADD COLUMN erasing bigint;
CREATE INDEX patrons_erasing ON patrons (id) WHERE erasing IS NOT NULL;

UPDATE carrel_schema SET version = 7;

-- +goose Down
DROP INDEX patrons_erasing;
ALTER TABLE patrons DROP COLUMN erasing, DROP COLUMN restricted;
UPDATE carrel_schema SET version = 6;
