-- +goose Up
CREATE TABLE carrel_schema (                  -- one row
	version integer NOT NULL
);
INSERT INTO carrel_schema VALUES (1);

-- +goose Down
DROP TABLE carrel_schema;
