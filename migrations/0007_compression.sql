-- +goose Up
-- A row with its request and Flex's answer is just above the 2 kB from which Postgres compresses: at each record
-- and in each copy of the row. lz4 does that in a fraction of the time of pglz, where the server was built with it;
-- otherwise all stays as it is. It concerns values that are written from now on; no row is rewritten.
-- +goose StatementBegin
DO $$ BEGIN
    ALTER TABLE outbox ALTER COLUMN request SET COMPRESSION lz4, ALTER COLUMN response SET COMPRESSION lz4;
EXCEPTION WHEN feature_not_supported THEN NULL;
END $$;
-- +goose StatementEnd

-- +goose Down
ALTER TABLE outbox ALTER COLUMN request SET COMPRESSION DEFAULT, ALTER COLUMN response SET COMPRESSION DEFAULT;
