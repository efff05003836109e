-- +goose Up
-- One row an attempt and one a lookup, written in the transaction that moves the request.
-- No foreign key: the row of the request is locked by that very transaction, so a check would
-- only be paid for; prune removes both together, and worker audit counts the orphans.
CREATE TABLE outbox_attempts (
    id                bigint      GENERATED ALWAYS AS IDENTITY,
    outbox_id         bigint      NOT NULL,
    kind              text        NOT NULL,
    number            integer     NOT NULL,
    worker            text        NOT NULL,
    started_at        timestamptz NOT NULL,
    took              interval,
    http_status       integer,
    twilio_code       integer,
    twilio_request_id text,
    outcome           text        NOT NULL,
    error             text,
    applied           boolean     NOT NULL,

    PRIMARY KEY (outbox_id, id),
    CONSTRAINT kind_is_known CHECK (kind IN ('attempt', 'lookup')),
    CONSTRAINT number_is_counted_from_1 CHECK (number >= 1)
) WITH (autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 50000);

COMMENT ON TABLE  outbox_attempts                   IS 'The history: one row an attempt and one a lookup.';
COMMENT ON COLUMN outbox_attempts.id                IS 'Order of writing.';
COMMENT ON COLUMN outbox_attempts.outbox_id         IS 'The request: outbox.id.';
COMMENT ON COLUMN outbox_attempts.kind              IS 'attempt: a create call. lookup: a read that asks whether the interaction exists.';
COMMENT ON COLUMN outbox_attempts.number            IS 'The attempt''s number (outbox.attempt at the claim); of a lookup, its number since that attempt.';
COMMENT ON COLUMN outbox_attempts.worker            IS 'Who made it; of a lapse, what leased_by was; of a lost one, unknown.';
COMMENT ON COLUMN outbox_attempts.started_at        IS 'When it began, by the clock of Postgres.';
COMMENT ON COLUMN outbox_attempts.took              IS 'How long the call took. Null when the worker did not live to tell, or made no call.';
COMMENT ON COLUMN outbox_attempts.http_status       IS 'HTTP status, if one was read.';
COMMENT ON COLUMN outbox_attempts.twilio_code       IS 'Twilio''s error code, if there was one.';
COMMENT ON COLUMN outbox_attempts.twilio_request_id IS 'Twilio-Request-Id, if there was one.';
COMMENT ON COLUMN outbox_attempts.outcome           IS 'attempt: created, refused, rejected, blocked, uncertain, lapsed (nobody recorded it in time), released (no call was made), lost (it may have been made in a time of which the tables have lost what was written). lookup: found, absent, unclear.';
COMMENT ON COLUMN outbox_attempts.error             IS 'What went wrong, without secrets.';
COMMENT ON COLUMN outbox_attempts.applied           IS 'False when the lease had been lost: told, but no longer obeyed.';

-- +goose Down
DROP TABLE outbox_attempts;
