-- +goose Up

-- Of which epoch the tokens are that stand for borrowers (persons.borrower) and texts (personal.value), if they are a keyring's.
CREATE TABLE token_epoch (                -- one row
	one   INTEGER PRIMARY KEY DEFAULT 1 CHECK (one = 1),
	epoch INTEGER NOT NULL CHECK (epoch BETWEEN 1 AND 4294967295)
);
INSERT INTO token_epoch (epoch) VALUES (1); -- that in which a keyring begins

PRAGMA user_version = 6;

-- +goose Down
DROP TABLE token_epoch;
PRAGMA user_version = 5;
