-- +goose Up

-- How many guesses were made at passwords: see package lockout. Whose a key is can be told only with the guard's key.
CREATE TABLE lockouts (
	key     BLOB    NOT NULL PRIMARY KEY,     -- 16 bytes: 10 of the name, 5 of the lane, what is counted
	start   INTEGER NOT NULL,                 -- of the period
	failed  INTEGER NOT NULL,                 -- guesses in it
	earlier INTEGER NOT NULL,                 -- and in the one before
	lease   INTEGER NOT NULL,                 -- end of the minute in which the newest of those were reserved that are not concluded
	open    INTEGER NOT NULL,                 -- how many they are, of both periods
	older   INTEGER NOT NULL,                 -- and those of the minute before
	until   INTEGER NOT NULL,                 -- locked until then; 0: not
	expires INTEGER NOT NULL                  -- the row says nothing from then on
) WITHOUT ROWID;

CREATE TABLE lockout_clock (                  -- one row
	apart   INTEGER NOT NULL,                 -- the time by which guesses are counted is that of the machine and this
	edition INTEGER NOT NULL                  -- how often that was changed
);
INSERT INTO lockout_clock VALUES (0, 0);

PRAGMA user_version = 4;

-- +goose Down
DROP TABLE lockout_clock;
DROP TABLE lockouts;
PRAGMA user_version = 3;
