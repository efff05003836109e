-- +goose Up
-- What settled, minute by minute: written by one replica at a time, so that nobody who looks reads the requests themselves.
CREATE TABLE outbox_minutes (
    minute  timestamptz NOT NULL,
    source  text        COLLATE "C" NOT NULL,
    outcome text        COLLATE "C" NOT NULL,
    n       integer     NOT NULL,

    CONSTRAINT minute_is_counted_once PRIMARY KEY (minute, source, outcome),
    CONSTRAINT minute_is_whole CHECK (minute = date_trunc('minute', minute, 'UTC')),
    CONSTRAINT source_fits_an_index CHECK (octet_length(source) <= 1000),
    CONSTRAINT outcome_is_final CHECK (outcome IN ('created', 'rejected', 'abandoned', 'expired', 'cancelled')),
    CONSTRAINT something_settled CHECK (n > 0)
);

COMMENT ON TABLE  outbox_minutes         IS 'How many requests settled in each minute of the last week, by source and final state. A request that was retried has settled more than once.';
COMMENT ON COLUMN outbox_minutes.minute  IS 'The beginning of the minute.';
COMMENT ON COLUMN outbox_minutes.source  IS 'The sending service, cut to 200 characters; empty: the sum of all but the 50 with the most requests of that minute.';
COMMENT ON COLUMN outbox_minutes.outcome IS 'The final state that they reached.';
COMMENT ON COLUMN outbox_minutes.n       IS 'How many.';

-- One row: how far that has come.
CREATE TABLE outbox_counted (
    only_row boolean     PRIMARY KEY DEFAULT true,
    until    timestamptz NOT NULL DEFAULT date_trunc('minute', clock_timestamp()),

    CONSTRAINT there_is_one_end CHECK (only_row)
) WITH (fillfactor = 50);
INSERT INTO outbox_counted DEFAULT VALUES;

COMMENT ON TABLE  outbox_counted          IS 'One row: up to when outbox_minutes is complete.';
COMMENT ON COLUMN outbox_counted.only_row IS 'Always true; keeps the table at one row.';
COMMENT ON COLUMN outbox_counted.until    IS 'The end of the last minute that was counted. What settled before is in outbox_minutes.';

-- +goose Down
DROP TABLE outbox_counted;
DROP TABLE outbox_minutes;
