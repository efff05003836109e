-- +goose Up
-- One row a request, from the moment its event is acked until retention removes it.
-- The table is an interface: people and dashboards read it. A later migration may add to it
-- and may never rename or drop what the version before still uses.
CREATE TABLE outbox (
    id                bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    request_id        text        NOT NULL,
    source            text        NOT NULL,
    state             text        NOT NULL,
    priority          smallint    NOT NULL DEFAULT 0,
    request           json,
    raw               bytea,
    due_at            timestamptz,
    expires_at        timestamptz,
    attempt           integer     NOT NULL DEFAULT 0,
    spared            integer     NOT NULL DEFAULT 0,
    leased_by         text,
    leased_until      timestamptz,
    lookup_key        text,
    lookup_attribute  text,
    lookups           integer     NOT NULL DEFAULT 0,
    uncertain_since   timestamptz,
    answered          boolean     NOT NULL DEFAULT false,
    interaction_sid   text,
    task_sid          text,
    assignment_status text,
    response          json,
    resolved_by       text,
    error_kind        text,
    error_message     text,
    http_status       integer,
    twilio_code       integer,
    twilio_request_id text,
    faults            json,
    traceparent       text,
    stream_sequence   bigint      NOT NULL,
    stream_time       timestamptz NOT NULL,
    settlement        integer     NOT NULL DEFAULT 1,
    received_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    settled_at        timestamptz,
    announced_at      timestamptz,
    published_at      timestamptz,

    CONSTRAINT request_id_is_unique UNIQUE (request_id),
    CONSTRAINT request_id_has_1_to_256_bytes CHECK (octet_length(request_id) BETWEEN 1 AND 256),
    CONSTRAINT state_is_known CHECK (state IN ('pending', 'sending', 'uncertain',
        'created', 'rejected', 'abandoned', 'expired', 'cancelled')),
    CONSTRAINT priority_is_0_to_9 CHECK (priority BETWEEN 0 AND 9),
    CONSTRAINT request_or_raw_is_kept CHECK (request IS NOT NULL OR (raw IS NOT NULL AND state = 'rejected')),
    CONSTRAINT due_while_pending CHECK (state <> 'pending' OR due_at IS NOT NULL),
    CONSTRAINT due_only_while_pending_or_uncertain CHECK (due_at IS NULL OR state IN ('pending', 'uncertain')),
    CONSTRAINT lease_while_sending CHECK ((state = 'sending') = (leased_until IS NOT NULL)
        AND (leased_until IS NULL) = (leased_by IS NULL)),
    CONSTRAINT attempted_before_sending CHECK (attempt > 0 OR state NOT IN ('sending', 'uncertain', 'abandoned')),
    CONSTRAINT spared_is_part_of_attempt CHECK (spared >= 0 AND spared <= attempt),
    CONSTRAINT lookup_key_has_32_hex_digits CHECK (lookup_key ~ '^[0-9a-f]{32}$'),
    CONSTRAINT uncertain_has_a_beginning CHECK ((state = 'uncertain') <= (uncertain_since IS NOT NULL)),
    CONSTRAINT sid_when_created CHECK ((state = 'created') = (interaction_sid IS NOT NULL)),
    CONSTRAINT sid_has_its_form CHECK (interaction_sid ~ '^KD[0-9a-fA-F]{32}$'),
    CONSTRAINT resolved_by_is_known CHECK (resolved_by IN ('response', 'lookup', 'operator')),
    CONSTRAINT resolver_when_created CHECK (state <> 'created' OR resolved_by IS NOT NULL),
    CONSTRAINT reason_when_not_created CHECK (error_kind IS NOT NULL OR state NOT IN ('uncertain', 'rejected', 'abandoned', 'expired', 'cancelled')),
    CONSTRAINT settled_when_final CHECK ((state IN ('created', 'rejected', 'abandoned', 'expired', 'cancelled')) = (settled_at IS NOT NULL)),
    CONSTRAINT settlement_is_counted_from_1 CHECK (settlement >= 1),
    CONSTRAINT published_after_settled CHECK (published_at IS NULL OR settled_at IS NOT NULL)
) WITH (
    -- A row is written about four times within seconds and then never again. Room on its page
    -- keeps the versions together; dead versions are collected by number, not as a share of a
    -- table that keeps a month of settled rows.
    fillfactor = 80,
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 20000,
    autovacuum_analyze_scale_factor = 0.02, autovacuum_analyze_threshold = 5000,
    autovacuum_vacuum_cost_delay = 0
);

-- One partial index for each loop, so that none grows with settled rows and no loop reads them.
-- Two for the claim, so that old requests that are tried again never stand before all new ones.
CREATE INDEX outbox_fresh   ON outbox (priority, due_at, id) WHERE state = 'pending' AND attempt = 0;
CREATE INDEX outbox_again   ON outbox (priority, due_at, id) WHERE state = 'pending' AND attempt > 0;
CREATE INDEX outbox_expire  ON outbox (expires_at)           WHERE state = 'pending' AND expires_at IS NOT NULL;
-- Not on leased_until: the few rows in it are read whole, and a lease costs no index entry.
CREATE INDEX outbox_sending ON outbox (id)                   WHERE state = 'sending';
CREATE INDEX outbox_lookup  ON outbox (due_at, id)           WHERE state = 'uncertain'; -- also those that wait for a person: due_at null
-- For retention alone; a row enters it when its result is acknowledged, far from the claim.
CREATE INDEX outbox_prune   ON outbox (settled_at, id)       WHERE published_at IS NOT NULL;
CREATE INDEX outbox_publish ON outbox (settled_at, id)       WHERE settled_at IS NOT NULL AND published_at IS NULL;

COMMENT ON TABLE  outbox                   IS 'One row a request: what was asked, where it stands, what came of it. States: README, and the package comment of internal/outbox.';
COMMENT ON COLUMN outbox.id                IS 'Our own number; rows are locked in its order.';
COMMENT ON COLUMN outbox.request_id        IS 'The sender''s id of the request, 1 to 256 bytes. One row each, whatever is delivered how often.';
COMMENT ON COLUMN outbox.source            IS 'The sending service: the tokens of the subject behind interactions.requests.';
COMMENT ON COLUMN outbox.state             IS 'pending: waits for due_at. sending: leased, a call may be under way. uncertain: the interaction may exist. Final: created, rejected, abandoned, expired, cancelled.';
COMMENT ON COLUMN outbox.priority          IS '0 to 9, higher goes first.';
COMMENT ON COLUMN outbox.request           IS 'The request as it came, text and number for number. Null only when it cannot be read as JSON by every reader; then raw has the bytes.';
COMMENT ON COLUMN outbox.raw               IS 'The message''s bytes, kept when the event was rejected before sending; null otherwise.';
COMMENT ON COLUMN outbox.due_at            IS 'pending: not sent before. uncertain: next lookup; null there means that a person must decide. Null in every other state.';
COMMENT ON COLUMN outbox.expires_at        IS 'Not sent after this instant; null: no deadline.';
COMMENT ON COLUMN outbox.attempt           IS 'Number of the latest attempt, counted from 1 at the claim and never lowered. (id, attempt) names a lease.';
COMMENT ON COLUMN outbox.spared            IS 'How many of the attempts cost nothing: refused before Flex worked on them, blocked, put back. attempt - spared is held against RETRY_MAX_ATTEMPTS.';
COMMENT ON COLUMN outbox.leased_by         IS 'The worker that holds the lease while sending.';
COMMENT ON COLUMN outbox.leased_until      IS 'When the lease lapses; then the request is uncertain.';
COMMENT ON COLUMN outbox.lookup_key        IS '32 hex digits derived from request_id alone, written into the task''s attributes. Null when there is no task to look for.';
COMMENT ON COLUMN outbox.lookup_attribute  IS 'The task attribute in which the latest attempt carries the lookup key; null when it carries none.';
COMMENT ON COLUMN outbox.lookups           IS 'Lookups made since the attempt became uncertain.';
COMMENT ON COLUMN outbox.uncertain_since   IS 'The latest moment at which the latest uncertain attempt could still have been on its way. Kept after it is resolved.';
COMMENT ON COLUMN outbox.answered          IS 'Flex answered the uncertain attempt with a 2xx whose sid could not be read: finding nothing proves nothing.';
COMMENT ON COLUMN outbox.interaction_sid   IS 'KD sid of the interaction, set exactly when state is created.';
COMMENT ON COLUMN outbox.task_sid          IS 'WT sid of its task, as far as known.';
COMMENT ON COLUMN outbox.assignment_status IS 'Status of the task when the interaction was created or found.';
COMMENT ON COLUMN outbox.response          IS 'The latest body that Flex answered with, when it was JSON.';
COMMENT ON COLUMN outbox.resolved_by       IS 'How the final state became known: response, lookup or operator. Null when nobody had to answer.';
COMMENT ON COLUMN outbox.error_kind        IS 'The latest reason in one word: invalid, timeout, dial, http_503, lapsed, expired, ... Null once created.';
COMMENT ON COLUMN outbox.error_message     IS 'The latest reason in words, without secrets.';
COMMENT ON COLUMN outbox.http_status       IS 'HTTP status of the latest attempt; null when none was read.';
COMMENT ON COLUMN outbox.twilio_code       IS 'Twilio''s error code of the latest attempt.';
COMMENT ON COLUMN outbox.twilio_request_id IS 'Twilio-Request-Id of the latest attempt: what Twilio''s support asks for.';
COMMENT ON COLUMN outbox.faults            IS 'What was wrong with the event: an array of {path, problem}.';
COMMENT ON COLUMN outbox.traceparent       IS 'W3C trace context that came with the request; goes back with its result.';
COMMENT ON COLUMN outbox.stream_sequence   IS 'Sequence of the message in the request stream.';
COMMENT ON COLUMN outbox.stream_time       IS 'When the stream stored that message. Sequence and time name it, also after a stream was made anew.';
COMMENT ON COLUMN outbox.settlement        IS 'Which final answer this is: 1, and one more for each retry by an operator. Part of the result''s message id.';
COMMENT ON COLUMN outbox.received_at       IS 'When the row was written.';
COMMENT ON COLUMN outbox.settled_at        IS 'When a final state was reached.';
COMMENT ON COLUMN outbox.announced_at      IS 'When the result stream acknowledged that a person has to look (outcome uncertain).';
COMMENT ON COLUMN outbox.published_at      IS 'When the result stream acknowledged the final result.';

-- +goose Down
DROP TABLE outbox;
