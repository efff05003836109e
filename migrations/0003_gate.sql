-- +goose Up
-- What all replicas go through before they call. One row, locked for the length of a claim.
CREATE TABLE outbox_gate (
    only_row     boolean          PRIMARY KEY DEFAULT true,
    rate         double precision NOT NULL DEFAULT 0,
    tokens       double precision NOT NULL DEFAULT 0,
    refilled_at  timestamptz      NOT NULL DEFAULT clock_timestamp(),
    paused_until timestamptz,
    held_since   timestamptz,
    probe_at     timestamptz,
    lookup_at    timestamptz      NOT NULL DEFAULT '-infinity',
    reason       text,
    changed_by   text             NOT NULL DEFAULT 'migration',
    changed_at   timestamptz      NOT NULL DEFAULT clock_timestamp(),

    CONSTRAINT there_is_one_gate CHECK (only_row),
    CONSTRAINT rate_is_not_negative CHECK (rate >= 0 AND tokens >= 0),
    CONSTRAINT shut_for_a_reason CHECK (reason IS NOT NULL OR (paused_until IS NULL AND held_since IS NULL AND probe_at IS NULL))
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200);
INSERT INTO outbox_gate DEFAULT VALUES;

COMMENT ON TABLE  outbox_gate              IS 'One row: what the whole fleet goes through before it calls Flex.';
COMMENT ON COLUMN outbox_gate.only_row     IS 'Always true; keeps the table at one row.';
COMMENT ON COLUMN outbox_gate.rate         IS 'Attempts a second, all replicas together; 0: no limit. The latest worker to start sets it from FLEX_RATE.';
COMMENT ON COLUMN outbox_gate.tokens       IS 'Passes that were left at refilled_at.';
COMMENT ON COLUMN outbox_gate.refilled_at  IS 'When tokens was last brought up to date.';
COMMENT ON COLUMN outbox_gate.paused_until IS 'No call before this instant: Flex said 429, or cannot be reached. Opens by itself.';
COMMENT ON COLUMN outbox_gate.held_since   IS 'Not null: no call until released. Credentials, account or address are at fault.';
COMMENT ON COLUMN outbox_gate.probe_at     IS 'Not null: shut until a read that creates nothing succeeds; one replica makes the next one at this instant.';
COMMENT ON COLUMN outbox_gate.lookup_at    IS 'No replica asks TaskRouter before this instant: together they stay under its 3 searches a second.';
COMMENT ON COLUMN outbox_gate.reason       IS 'Why it is, or was last, shut.';
COMMENT ON COLUMN outbox_gate.changed_by   IS 'The worker or person who shut or opened it last.';
COMMENT ON COLUMN outbox_gate.changed_at   IS 'When that was.';

-- +goose Down
DROP TABLE outbox_gate;
