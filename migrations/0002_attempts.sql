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

-- One row a created request while CONFIRM is on: whether Flex has set up its channel. It is written in the transaction that
-- marks the result created as published, so each such request has one, and the statement that records an outcome does no more.
CREATE TABLE outbox_setups (
    id             bigint      PRIMARY KEY,
    created_at     timestamptz NOT NULL,
    due_at         timestamptz,
    checks         integer     NOT NULL DEFAULT 0,
    channel_sid    text,
    channel_status text,
    error_code     integer,
    error_message  text,
    task_status    text,
    task_reason    text,
    word           text,
    error_kind     text,
    why            text,
    decided_at     timestamptz,
    published_at   timestamptz,

    CONSTRAINT setup_times_are_finite CHECK (isfinite(created_at) AND isfinite(due_at)),
    CONSTRAINT checks_have_room CHECK (checks BETWEEN 0 AND 1000000),
    CONSTRAINT setup_word_is_known CHECK (word IN ('confirmed', 'setup_failed', 'unconfirmed')),
    CONSTRAINT setup_is_due_until_decided CHECK ((word IS NULL) = (due_at IS NOT NULL) AND (word IS NULL) = (decided_at IS NULL)),
    CONSTRAINT setup_failed_has_a_kind CHECK ((word IS NOT DISTINCT FROM 'setup_failed') = (error_kind IS NOT NULL)),
    CONSTRAINT setup_has_a_reason_unless_confirmed CHECK (why IS NOT NULL OR word IS NULL OR word = 'confirmed'),
    CONSTRAINT setup_published_after_decided CHECK (published_at IS NULL OR word IS NOT NULL)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 50000);
CREATE INDEX outbox_setups_due     ON outbox_setups (due_at, id) WHERE word IS NULL;
CREATE INDEX outbox_setups_publish ON outbox_setups (id) WHERE word IS NOT NULL AND published_at IS NULL;
-- For people: what failed, the newest first.
CREATE INDEX outbox_setups_failed  ON outbox_setups (id) WHERE word = 'setup_failed';

COMMENT ON TABLE  outbox_setups                IS 'One row a request that was created while CONFIRM was on: whether Flex set up its channel, as far as reads showed.';
COMMENT ON COLUMN outbox_setups.id             IS 'The request: outbox.id.';
COMMENT ON COLUMN outbox_setups.created_at     IS 'When the request became created: outbox.settled_at. Looks are made 2, 5, 15 and 60 seconds later.';
COMMENT ON COLUMN outbox_setups.due_at         IS 'The next look is not made before. Null once there is a word.';
COMMENT ON COLUMN outbox_setups.checks         IS 'Looks that were made and count: one that Flex put off with 429 does not.';
COMMENT ON COLUMN outbox_setups.channel_sid    IS 'UO sid of the channel, as the latest look that showed one had it.';
COMMENT ON COLUMN outbox_setups.channel_status IS 'Its status then: setup, active, failed, closed, inactive, pause, transfer. Null: no look has shown it.';
COMMENT ON COLUMN outbox_setups.error_code     IS 'Twilio''s error code of the channel.';
COMMENT ON COLUMN outbox_setups.error_message  IS 'Twilio''s error message of the channel, without secrets.';
COMMENT ON COLUMN outbox_setups.task_status    IS 'Assignment status of the task then. Null: it has none, or no look has shown it.';
COMMENT ON COLUMN outbox_setups.task_reason    IS 'Why the task ended, as TaskRouter says it.';
COMMENT ON COLUMN outbox_setups.word           IS 'What was found: confirmed, setup_failed or unconfirmed. Null: more looks follow. Never changed once it is there.';
COMMENT ON COLUMN outbox_setups.error_kind     IS 'setup_failed: channel_failed, task_canceled or no_customer. Null otherwise.';
COMMENT ON COLUMN outbox_setups.why            IS 'What the latest look did not find, or could not read, in words, without secrets.';
COMMENT ON COLUMN outbox_setups.decided_at     IS 'When the word was found.';
COMMENT ON COLUMN outbox_setups.published_at   IS 'When the result stream acknowledged the word.';

-- +goose Down
DROP TABLE outbox_setups;
DROP TABLE outbox_attempts;
