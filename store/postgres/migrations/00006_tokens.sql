-- +goose Up

-- Of which epoch the tokens are that stand for borrowers (persons.borrower) and texts (personal.value), if they are a keyring's.
CREATE TABLE token_epoch (                          -- one row
	epoch bigint  NOT NULL CHECK (epoch BETWEEN 1 AND 4294967295),
	one   boolean PRIMARY KEY DEFAULT true CHECK (one)
);
INSERT INTO token_epoch (epoch) VALUES (1);           -- that in which a keyring begins

UPDATE carrel_schema SET version = 6;

-- +goose Down
DROP TABLE token_epoch;
UPDATE carrel_schema SET version = 5;
