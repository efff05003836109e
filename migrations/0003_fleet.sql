-- +goose Up
-- What all replicas go through before they call. One row, locked for the length of a claim.
CREATE TABLE outbox_gate (
    only_row     boolean          PRIMARY KEY DEFAULT true,
    rate         double precision NOT NULL DEFAULT 0,
    rate_by      text,
    tokens       double precision NOT NULL DEFAULT 0,
    refilled_at  timestamptz      NOT NULL DEFAULT clock_timestamp(),
    paused_until timestamptz,
    held_since   timestamptz,
    lookup_at    timestamptz      NOT NULL DEFAULT '-infinity',
    reason       text,
    changed_by   text             NOT NULL DEFAULT 'migration',
    changed_at   timestamptz      NOT NULL DEFAULT clock_timestamp(),

    CONSTRAINT there_is_one_gate CHECK (only_row),
    CONSTRAINT rate_is_not_negative CHECK (rate >= 0 AND tokens >= 0),
    CONSTRAINT shut_for_a_reason CHECK (reason IS NOT NULL OR (paused_until IS NULL AND held_since IS NULL))
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200);
INSERT INTO outbox_gate DEFAULT VALUES;

COMMENT ON TABLE  outbox_gate              IS 'One row: what the whole fleet goes through before it calls Flex.';
COMMENT ON COLUMN outbox_gate.only_row     IS 'Always true; keeps the table at one row.';
COMMENT ON COLUMN outbox_gate.rate         IS 'Attempts a second, all replicas together; 0: no limit. FLEX_RATE of the living workers where they agree, or the lowest where no rate was ever set, unless rate_by is set.';
COMMENT ON COLUMN outbox_gate.rate_by      IS 'Not null: the person who set the rate with worker rate; it stays until worker rate --auto.';
COMMENT ON COLUMN outbox_gate.tokens       IS 'Tokens of the rate that were left at refilled_at.';
COMMENT ON COLUMN outbox_gate.refilled_at  IS 'When tokens was last brought up to date.';
COMMENT ON COLUMN outbox_gate.paused_until IS 'No call before this instant: Flex said 429 with Retry-After. Opens by itself.';
COMMENT ON COLUMN outbox_gate.held_since   IS 'Not null: no call until a person releases it with worker release.';
COMMENT ON COLUMN outbox_gate.lookup_at    IS 'No replica asks TaskRouter before this instant: together they stay under its 3 searches a second.';
COMMENT ON COLUMN outbox_gate.reason       IS 'Why it is shut, or was when a pause ended by itself; a release empties it. What people did and why: outbox_acts.';
COMMENT ON COLUMN outbox_gate.changed_by   IS 'The worker or person who shut or opened it last.';
COMMENT ON COLUMN outbox_gate.changed_at   IS 'When that was.';

-- Apart from the gate, so that no claim waits for a read of a setup, nor for its commit.
CREATE TABLE outbox_confirmation (
    only_row  boolean     PRIMARY KEY DEFAULT true,
    read_at   timestamptz NOT NULL DEFAULT '-infinity',
    refused   integer     NOT NULL DEFAULT 0,
    off_since timestamptz,
    reason    text,

    CONSTRAINT there_is_one_confirmation CHECK (only_row),
    CONSTRAINT refusals_are_counted_from_0 CHECK (refused >= 0),
    CONSTRAINT off_for_a_reason CHECK (reason IS NOT NULL OR off_since IS NULL)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200);
INSERT INTO outbox_confirmation DEFAULT VALUES;

COMMENT ON TABLE  outbox_confirmation           IS 'One row: what the whole fleet goes through before it reads whether channels were set up (CONFIRM).';
COMMENT ON COLUMN outbox_confirmation.only_row  IS 'Always true; keeps the table at one row.';
COMMENT ON COLUMN outbox_confirmation.read_at   IS 'No replica reads before this instant: together they keep to CONFIRM_RATE, and wait after a 429.';
COMMENT ON COLUMN outbox_confirmation.refused   IS 'Requests in a row whose channel Flex refused to show at the first look.';
COMMENT ON COLUMN outbox_confirmation.off_since IS 'Not null: Flex refuses these reads, so no more are made but one an hour. It ends by itself when one of those is answered.';
COMMENT ON COLUMN outbox_confirmation.reason    IS 'How Flex refused them, in words, without secrets.';

-- One row for each worker, which it renews by its own poll, every 1.5 s. A worker lives while it renewed its row within
-- 15 s; the row is removed when nobody renewed it for an hour.
CREATE TABLE outbox_replicas (
    name             text             COLLATE "C" PRIMARY KEY,
    version          text             NOT NULL,
    started_at       timestamptz      NOT NULL DEFAULT clock_timestamp(),
    seen_at          timestamptz      NOT NULL DEFAULT clock_timestamp(),
    state            text             NOT NULL,
    reason           text,
    state_since      timestamptz      NOT NULL DEFAULT clock_timestamp(),
    last_created_at  timestamptz,
    account          text             NOT NULL DEFAULT '',
    lookup_attribute text             NOT NULL DEFAULT '',
    lookup_settle    interval         NOT NULL,
    flex_timeout     interval         NOT NULL,
    flex_rate        double precision NOT NULL,
    flex_concurrency integer          NOT NULL DEFAULT 0,
    uncertain_policy text             NOT NULL,
    retention        interval         NOT NULL,
    confirm_rate     double precision NOT NULL DEFAULT 0,

    CONSTRAINT word_is_known CHECK (state IN ('ok', 'failing', 'limited', 'paused', 'held', 'database', 'nats', 'draining', 'unauthorized', 'unreachable'))
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200);

COMMENT ON TABLE  outbox_replicas                  IS 'One row for each worker of the last hour. It lives when it was seen within 15 seconds.';
COMMENT ON COLUMN outbox_replicas.name             IS 'The name by which it signs leases and history. No two processes have the same.';
COMMENT ON COLUMN outbox_replicas.version          IS 'The version of its program.';
COMMENT ON COLUMN outbox_replicas.started_at       IS 'When it started.';
COMMENT ON COLUMN outbox_replicas.seen_at          IS 'When it last renewed this row. It renews it every few seconds.';
COMMENT ON COLUMN outbox_replicas.state            IS 'The word of its /readyz: ok, failing, limited, paused, held, database, nats, draining, unauthorized, unreachable.';
COMMENT ON COLUMN outbox_replicas.reason           IS 'Why it is in that state, in words, without secrets.';
COMMENT ON COLUMN outbox_replicas.state_since      IS 'Since when it is in that state.';
COMMENT ON COLUMN outbox_replicas.last_created_at  IS 'When it last created an interaction.';
COMMENT ON COLUMN outbox_replicas.account          IS 'The account sid or API key with which it calls Flex.';
COMMENT ON COLUMN outbox_replicas.lookup_attribute IS 'Its LOOKUP_ATTRIBUTE.';
COMMENT ON COLUMN outbox_replicas.lookup_settle    IS 'Its LOOKUP_SETTLE. The longest of all workers seen within the last hour counts.';
COMMENT ON COLUMN outbox_replicas.flex_timeout     IS 'Its FLEX_TIMEOUT.';
COMMENT ON COLUMN outbox_replicas.flex_rate        IS 'Its FLEX_RATE. In force where all living workers agree.';
COMMENT ON COLUMN outbox_replicas.flex_concurrency IS 'Its FLEX_CONCURRENCY: how many calls it makes at a time; 0: not known.';
COMMENT ON COLUMN outbox_replicas.uncertain_policy IS 'Its UNCERTAIN_POLICY.';
COMMENT ON COLUMN outbox_replicas.retention        IS 'Its RETENTION.';
COMMENT ON COLUMN outbox_replicas.confirm_rate     IS 'Its CONFIRM_RATE; 0: its CONFIRM is off.';

-- +goose Down
DROP TABLE outbox_replicas;
DROP TABLE outbox_confirmation;
DROP TABLE outbox_gate;
