-- +goose Up

-- What was asked for by right: since when a patron's record is restricted, and when erasure was asked for that waits for what is still owed. UTC microseconds.
ALTER TABLE patrons ADD COLUMN restricted INTEGER;
ALTER TABLE patrons ADD COLUMN erasing INTEGER;
CREATE INDEX patrons_erasing ON patrons (n) WHERE erasing IS NOT NULL;

-- Who is forgotten is taken out of other people's records, too.
CREATE INDEX companions_person ON companions (person);

PRAGMA user_version = 7;

-- +goose Down
DROP INDEX companions_person;
DROP INDEX patrons_erasing;
ALTER TABLE patrons DROP COLUMN erasing;
ALTER TABLE patrons DROP COLUMN restricted;
PRAGMA user_version = 6;
