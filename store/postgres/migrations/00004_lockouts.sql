-- +goose Up

-- How many guesses were made at passwords: see package lockout. Whose a key is can be told only with the guard's key.
-- No column that changes is in an index, and each page has room: so a row is changed in place, and needs no new entry in the index.
CREATE TABLE lockouts (
	key     bytea  NOT NULL PRIMARY KEY,      -- 16 bytes: 10 of the name, 5 of the lane, what is counted
	start   bigint NOT NULL,                  -- of the period
	failed  bigint NOT NULL,                  -- guesses in it
	earlier bigint NOT NULL,                  -- and in the one before
	lease   bigint NOT NULL,                  -- end of the minute in which the newest of those were reserved that are not concluded
	open    bigint NOT NULL,                  -- how many they are, of both periods
	older   bigint NOT NULL,                  -- and those of the minute before
	until   bigint NOT NULL,                  -- locked until then; 0: not
	expires bigint NOT NULL                   -- the row says nothing from then on
) WITH (fillfactor = 50);

CREATE TABLE lockout_clock (                  -- one row
	apart   bigint NOT NULL,                  -- the time by which guesses are counted is that of the server and this
	edition bigint NOT NULL                   -- how often that was changed
);
INSERT INTO lockout_clock VALUES (0, 0);

-- lockout.State.At: a row as it is at the time t. A span is lockout.MaxCheck.
-- +goose StatementBegin
CREATE FUNCTION lockout_at(s lockouts, t bigint, period bigint, span bigint) RETURNS lockouts LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	IF s.lease + span <= t THEN
		s.open := 0; s.older := 0;
	ELSIF s.lease <= t THEN
		s.older := s.open; s.open := 0; s.lease := s.lease + span;
	END IF;
	IF s.until > t THEN
		RETURN s; -- nothing else moves while it is locked
	ELSIF s.until <> 0 OR s.start + 2 * period <= t THEN
		s.start := 0; s.failed := 0; s.earlier := 0; s.lease := 0; s.open := 0; s.older := 0; s.until := 0;
	ELSIF s.start + period <= t THEN
		s.start := s.start + period; s.earlier := s.failed; s.failed := 0;
	END IF;
	RETURN s;
END $$;
-- +goose StatementEnd

-- lockout.Admit: one guess more under each key that has a limit, if none is locked. Numbers of slots begin with 0.
--
-- If a row is locked, as it stands, it reads and writes nothing: so whoever is refused waits for nobody and for no disk. Otherwise it makes the rows that are missing, keeps all of them from
-- others, and reads them then: at READ COMMITTED each statement sees what was committed before it began. All that keeps several rows takes them in the order of the keys, so nobody waits for
-- somebody who waits for him.
--
-- The session keeps the plans. Without sequential scans they are good ones even if they were made while the table was empty.
-- +goose StatementBegin
CREATE FUNCTION lockout_reserve(t bigint, span bigint, keys bytea[], limits bigint[], periods bigint[],
	OUT answer integer, OUT slot integer, OUT wait bigint, OUT remaining bigint, OUT crossed integer)
LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
	mine   boolean := NOT EXISTS (SELECT FROM lockouts WHERE key = ANY (keys) AND until > t);
	states lockouts[];
	s      lockouts;
	before bigint;
BEGIN
	LOOP
		IF mine THEN
			INSERT INTO lockouts SELECT w.k, 0, 0, 0, 0, 0, 0, 0, 0 FROM unnest(keys, limits) AS w (k, most) WHERE w.most > 0 ORDER BY w.k
			ON CONFLICT (key) DO UPDATE SET failed = 0 WHERE false; -- which takes what is there, and changes nothing
		END IF;
		answer := 0; slot := 0; wait := 0; remaining := 0; crossed := 0;
		states := ARRAY(SELECT coalesce(l, ROW(w.k, 0, 0, 0, 0, 0, 0, 0, 0)::lockouts)
			FROM unnest(keys) WITH ORDINALITY AS w (k, n) LEFT JOIN lockouts l ON l.key = w.k ORDER BY w.n);
		FOR i IN 1..cardinality(keys) LOOP
			s := states[i];
			before := s.open + s.older;
			s := lockout_at(s, t, periods[i], span);
			states[i] := s;
			IF s.until <= t THEN
				CONTINUE;
			ELSIF s.open + s.older > 0 THEN -- Busy
				IF answer = 0 THEN
					answer := 1; slot := i - 1;
				END IF;
				CONTINUE;
			ELSIF before > 0 THEN -- nobody has concluded the last of them
				crossed := crossed | (1 << i - 1);
			END IF;
			IF answer <> 2 OR s.until - t > wait THEN -- Locked
				answer := 2; slot := i - 1; wait := s.until - t;
			END IF;
		END LOOP;
		EXIT WHEN answer <> 0 OR mine;
		mine := true; -- another guess was given back in between
	END LOOP;

	IF answer <> 0 THEN
		FOR i IN 1..cardinality(keys) LOOP -- of several who saw a lock that nobody was told of, one tells it
			IF crossed & (1 << i - 1) <> 0 THEN
				UPDATE lockouts SET open = 0, older = 0 WHERE key = keys[i] AND open + older > 0 AND lease + span <= t AND until > t;
				IF NOT FOUND THEN
					crossed := crossed & ~(1 << i - 1);
				END IF;
			END IF;
		END LOOP;
		RETURN;
	END IF;

	remaining := -1;
	FOR i IN 1..cardinality(keys) LOOP
		CONTINUE WHEN limits[i] = 0;
		s := states[i];
		IF s.failed + s.earlier = 0 THEN
			s.start := t;
		END IF;
		IF s.open + s.older = 0 THEN
			s.lease := t + span;
		END IF;
		s.failed := s.failed + 1;
		s.open := s.open + 1;
		IF s.failed + s.earlier >= limits[i] THEN
			s.until := t + periods[i];
		END IF;
		IF remaining < 0 OR limits[i] - s.failed - s.earlier < remaining THEN
			remaining := greatest(limits[i] - s.failed - s.earlier, 0);
		END IF;
		UPDATE lockouts SET start = s.start, failed = s.failed, earlier = s.earlier, lease = s.lease, open = s.open, older = s.older, until = s.until,
			expires = t + 2 * periods[i] + span WHERE key = keys[i];
	END LOOP;
END $$;
-- +goose StatementEnd

-- lockout.Settle, if it is not too late. It returns which slots were crossed. A conclusion that may be lost (lazy) does not wait for the disk: if the server crashes within the next
-- moments, a guess stays counted that would have been taken back, and none is forgotten.
-- +goose StatementBegin
CREATE FUNCTION lockout_conclude(t bigint, span bigint, keys bytea[], limits bigint[], periods bigint[], clears boolean[], reserved bigint, result integer, lazy boolean)
RETURNS integer LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
	crossed integer := 0;
	r       record;
	s       lockouts;
BEGIN
	IF lazy THEN
		PERFORM set_config('synchronous_commit', 'off', true); -- of this transaction
	END IF;
	FOR r IN SELECT w.n, w.period, w.clears, l AS state
		FROM unnest(keys, limits, periods, clears) WITH ORDINALITY AS w (k, most, period, clears, n) JOIN lockouts l ON l.key = w.k
		WHERE w.most > 0 ORDER BY w.k FOR UPDATE OF l
	LOOP
		s := lockout_at(r.state, t, r.period, span);
		IF s.older > 0 AND (reserved < s.lease - span OR s.open = 0) THEN
			s.older := s.older - 1;
		ELSE
			s.open := greatest(s.open - 1, 0);
		END IF;
		IF result = 1 AND r.clears THEN -- Right
			s.start := t; s.failed := s.open + s.older; s.earlier := 0; s.until := 0;
		ELSIF result = 0 THEN -- Wrong
			IF s.until > t AND s.open + s.older = 0 THEN
				s.until := t + r.period;
				crossed := crossed | (1 << r.n::integer - 1);
			END IF;
		ELSE -- it takes back what it counted
			IF s.earlier > 0 AND (reserved < s.start OR s.failed = 0) THEN
				s.earlier := s.earlier - 1;
			ELSE
				s.failed := greatest(s.failed - 1, 0);
			END IF;
			s.until := 0;
		END IF;
		UPDATE lockouts SET start = s.start, failed = s.failed, earlier = s.earlier, lease = s.lease, open = s.open, older = s.older, until = s.until WHERE key = s.key;
	END LOOP;
	RETURN crossed;
END $$;
-- +goose StatementEnd

UPDATE carrel_schema SET version = 4;

-- +goose Down
DROP FUNCTION lockout_conclude(bigint, bigint, bytea[], bigint[], bigint[], boolean[], bigint, integer, boolean);
DROP FUNCTION lockout_reserve(bigint, bigint, bytea[], bigint[], bigint[]);
DROP FUNCTION lockout_at(lockouts, bigint, bigint, bigint);
DROP TABLE lockout_clock;
DROP TABLE lockouts;
UPDATE carrel_schema SET version = 3;
