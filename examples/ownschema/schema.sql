-- The tables of a library system that has never heard of carrel. Times are UTC microseconds.

CREATE TABLE leser (                      -- patrons
	nr           TEXT PRIMARY KEY,
	gruppe       TEXT NOT NULL DEFAULT '',
	gueltig_bis  INTEGER,
	verlauf      TEXT NOT NULL DEFAULT '', -- their wish for their history: '', 'behalten', 'vergessen'
	verlauf_seit INTEGER
);

CREATE TABLE ausleihe (                   -- loans
	id                INTEGER PRIMARY KEY,
	leser_nr          TEXT,               -- NULL: nobody any more
	vertreter_nr      TEXT,               -- proxy
	buerge_nr         TEXT,               -- sponsor
	bediener_nr       TEXT,               -- staff, when they are the borrower
	lesergruppe       TEXT NOT NULL DEFAULT '',
	zweigstelle       TEXT NOT NULL DEFAULT '',
	standort          TEXT NOT NULL DEFAULT '',
	medientyp         TEXT NOT NULL DEFAULT '',
	exemplar          TEXT NOT NULL DEFAULT '',
	ausgeliehen       INTEGER,
	frist             INTEGER,
	rueckgabe         INTEGER,            -- NULL: still out
	verlust           INTEGER NOT NULL DEFAULT 0,
	angeblich_zurueck INTEGER NOT NULL DEFAULT 0,
	bemerkung         TEXT,               -- by the patron
	notiz             TEXT,               -- by staff
	geaendert         INTEGER NOT NULL DEFAULT 1, -- counts changes, as every table with concurrent writers does

	-- What carrel needs and few systems have: how many loans of the same borrower, or item, started later.
	-- It can not be counted any more when those have lost their borrower, so it is kept (see the triggers).
	neuere_leser      INTEGER NOT NULL DEFAULT 0,
	neuere_exemplar   INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX ausleihe_leser ON ausleihe (leser_nr, ausgeliehen);
CREATE INDEX ausleihe_exemplar ON ausleihe (exemplar, ausgeliehen);

CREATE TABLE gebuehr (                    -- fees
	id          INTEGER PRIMARY KEY,
	ausleihe_id INTEGER REFERENCES ausleihe (id),
	leser_nr    TEXT,
	zahler_nr   TEXT,                     -- sponsor
	bediener_nr TEXT,
	lesergruppe TEXT NOT NULL DEFAULT '',
	zweigstelle TEXT NOT NULL DEFAULT '',
	art         TEXT NOT NULL DEFAULT '',
	betrag      INTEGER NOT NULL DEFAULT 0,
	entstanden  INTEGER,
	beglichen   INTEGER,
	stand       TEXT NOT NULL CHECK (stand IN ('offen', 'strittig', 'erledigt')),
	zahlart     TEXT NOT NULL DEFAULT '',
	bemerkung   TEXT,
	notiz       TEXT,
	geaendert   INTEGER NOT NULL DEFAULT 1
);
CREATE INDEX gebuehr_ausleihe ON gebuehr (ausleihe_id);

-- What a loan remembers of a fee that was unlinked before it: not which fee, nor whose.
CREATE TABLE gebuehr_spur (
	ausleihe_id INTEGER NOT NULL REFERENCES ausleihe (id),
	beglichen   INTEGER,
	zahlart     TEXT NOT NULL
);
CREATE INDEX gebuehr_spur_ausleihe ON gebuehr_spur (ausleihe_id);

CREATE TABLE beleg (nr INTEGER PRIMARY KEY, text TEXT NOT NULL); -- carrel's receipts

-- A fee opened or changed makes the loan as it was read before a stale one.
CREATE TRIGGER gebuehr_neu AFTER INSERT ON gebuehr BEGIN
	UPDATE ausleihe SET geaendert = geaendert + 1 WHERE id = NEW.ausleihe_id;
END;
CREATE TRIGGER gebuehr_anders AFTER UPDATE OF stand, beglichen, zahlart, ausleihe_id ON gebuehr WHEN NEW.leser_nr IS NOT NULL BEGIN
	UPDATE ausleihe SET geaendert = geaendert + 1 WHERE id IN (OLD.ausleihe_id, NEW.ausleihe_id);
END;

-- A new loan makes the earlier ones of the borrower and of the item older by one. It may arrive late; then it
-- begins with the number of the next later one. Without keep-last rules none of this is needed.
CREATE TRIGGER ausleihe_neu AFTER INSERT ON ausleihe WHEN NEW.leser_nr IS NOT NULL BEGIN
	UPDATE ausleihe SET neuere_leser = neuere_leser + 1 WHERE leser_nr = NEW.leser_nr AND ausgeliehen < NEW.ausgeliehen;
	UPDATE ausleihe SET neuere_exemplar = neuere_exemplar + 1
		WHERE exemplar = NEW.exemplar AND leser_nr IS NOT NULL AND ausgeliehen < NEW.ausgeliehen;
	UPDATE ausleihe SET
		neuere_leser = coalesce((SELECT max(neuere_leser) + count(*) FROM ausleihe WHERE leser_nr = NEW.leser_nr
			AND ausgeliehen = (SELECT min(ausgeliehen) FROM ausleihe WHERE leser_nr = NEW.leser_nr AND ausgeliehen > NEW.ausgeliehen)), 0),
		neuere_exemplar = coalesce((SELECT max(neuere_exemplar) + count(*) FROM ausleihe WHERE exemplar = NEW.exemplar AND leser_nr IS NOT NULL
			AND ausgeliehen = (SELECT min(ausgeliehen) FROM ausleihe WHERE exemplar = NEW.exemplar AND leser_nr IS NOT NULL AND ausgeliehen > NEW.ausgeliehen)), 0)
		WHERE id = NEW.id;
END;
-- Rare: a loan booked on the wrong card, copy or day. Unlinking is none of these: the others count it as before.
CREATE TRIGGER ausleihe_anders AFTER UPDATE OF leser_nr, exemplar, ausgeliehen ON ausleihe
	WHEN NEW.leser_nr IS NOT NULL AND (OLD.leser_nr, OLD.exemplar, OLD.ausgeliehen) IS NOT (NEW.leser_nr, NEW.exemplar, NEW.ausgeliehen) BEGIN
	UPDATE ausleihe SET neuere_leser = neuere_leser - 1 WHERE leser_nr = OLD.leser_nr AND ausgeliehen < OLD.ausgeliehen AND id <> OLD.id;
	UPDATE ausleihe SET neuere_exemplar = neuere_exemplar - 1
		WHERE exemplar = OLD.exemplar AND leser_nr IS NOT NULL AND ausgeliehen < OLD.ausgeliehen AND id <> OLD.id;
	UPDATE ausleihe SET neuere_leser = neuere_leser + 1 WHERE leser_nr = NEW.leser_nr AND ausgeliehen < NEW.ausgeliehen AND id <> NEW.id;
	UPDATE ausleihe SET neuere_exemplar = neuere_exemplar + 1
		WHERE exemplar = NEW.exemplar AND leser_nr IS NOT NULL AND ausgeliehen < NEW.ausgeliehen AND id <> NEW.id;
	UPDATE ausleihe SET
		neuere_leser = coalesce((SELECT max(neuere_leser) + count(*) FROM ausleihe WHERE leser_nr = NEW.leser_nr
			AND ausgeliehen = (SELECT min(ausgeliehen) FROM ausleihe WHERE leser_nr = NEW.leser_nr AND ausgeliehen > NEW.ausgeliehen)), 0),
		neuere_exemplar = coalesce((SELECT max(neuere_exemplar) + count(*) FROM ausleihe WHERE exemplar = NEW.exemplar AND leser_nr IS NOT NULL
			AND ausgeliehen = (SELECT min(ausgeliehen) FROM ausleihe WHERE exemplar = NEW.exemplar AND leser_nr IS NOT NULL AND ausgeliehen > NEW.ausgeliehen)), 0)
		WHERE id = NEW.id;
END;
