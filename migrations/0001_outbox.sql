-- +goose Up
-- One row a request, from the moment its event is acked until retention removes it.
-- The table is an interface: people and dashboards read it.
CREATE DOMAIN outbox_sid AS text
    CONSTRAINT sid_has_its_form CHECK (octet_length(VALUE) = 34 AND VALUE ~ '^KD[0-9a-fA-F]*$');
CREATE DOMAIN outbox_lookup_key AS text
    CONSTRAINT lookup_key_has_32_hex_digits CHECK (octet_length(VALUE) = 32 AND VALUE ~ '^[0-9a-f]*$');
CREATE DOMAIN outbox_resolver AS text
    CONSTRAINT resolved_by_is_known CHECK (VALUE IN ('response', 'lookup', 'operator'));
CREATE DOMAIN outbox_end AS text
    CONSTRAINT end_is_final CHECK (VALUE IN ('rejected', 'abandoned', 'expired'));
COMMENT ON DOMAIN outbox_sid        IS 'KD sid of an interaction: KD and 32 hexadecimal digits.';
COMMENT ON DOMAIN outbox_lookup_key IS '32 hexadecimal digits, in small letters.';
COMMENT ON DOMAIN outbox_end        IS 'A final state that waits for a proof: rejected, abandoned or expired.';
COMMENT ON DOMAIN outbox_resolver   IS 'How it became known what happened to a request: response, lookup or operator.';

-- Every statement that writes this table parses its constraints anew, and checks all of them for every new version of
-- a row. A domain's constraints are parsed once a session, and checked when that column is written. So a sentence about
-- one column that few statements write stands at a domain. (Together that saved a fifth of Postgres's time a request.)
--
-- COLLATE "C": the order of every other collation belongs to the C library or to ICU. After an upgrade of those a unique
-- index in the old order no longer finds what it has, and a request that was created would be taken for a new one.
CREATE TABLE outbox (
    id                bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    request_id        text        COLLATE "C" NOT NULL,
    source            text        NOT NULL,
    state             text        NOT NULL,
    priority          smallint    NOT NULL DEFAULT 0,
    request           json,
    raw               bytea,
    warnings          json,
    due_at            timestamptz,
    expires_at        timestamptz,
    attempt           integer     NOT NULL DEFAULT 0,
    attempt_began_at  timestamptz,
    uncounted         integer     NOT NULL DEFAULT 0,
    leased_by         text,
    leased_until      timestamptz,
    lookup_key        outbox_lookup_key,
    lookup_attribute  text,
    lookups           integer     NOT NULL DEFAULT 0,
    uncertain_since   timestamptz,
    answered          boolean     NOT NULL DEFAULT false,
    undecided         boolean     NOT NULL DEFAULT false,
    for_person_since  timestamptz,
    cancel_requested_at timestamptz,
    ends_as           outbox_end,
    interaction_sid   outbox_sid  COLLATE "C",
    task_sid          text,
    assignment_status text,
    response          json,
    resolved_by       outbox_resolver,
    error_kind        text,
    error_message     text,
    http_status       integer,
    twilio_code       integer,
    twilio_request_id text,
    faults            json,
    traceparent       text,
    tracestate        text,
    stream            text        NOT NULL DEFAULT '',
    stream_sequence   bigint      NOT NULL,
    stream_time       timestamptz NOT NULL,
    revision          integer     NOT NULL DEFAULT 1,
    received_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    settled_at        timestamptz,
    announced_at      timestamptz,
    published_at      timestamptz,
    erased_at         timestamptz,

    CONSTRAINT request_id_is_unique UNIQUE (request_id),
    -- What is calculated with in a statement that reads many rows must not make that fail: one row would stop a loop.
    CONSTRAINT times_are_finite CHECK (isfinite(due_at) AND isfinite(expires_at) AND isfinite(leased_until) AND isfinite(uncertain_since)
        AND isfinite(received_at) AND isfinite(settled_at) AND isfinite(stream_time)),
    CONSTRAINT counters_have_room CHECK (greatest(attempt, lookups, revision) < 1000000000),
    CONSTRAINT request_id_has_1_to_256_bytes CHECK (octet_length(request_id) BETWEEN 1 AND 256),
    CONSTRAINT state_is_known_and_settled_when_final CHECK (CASE WHEN settled_at IS NULL
        THEN state IN ('pending', 'sending', 'uncertain')
        ELSE state IN ('created', 'rejected', 'abandoned', 'expired', 'cancelled') END),
    CONSTRAINT priority_is_0_to_9 CHECK (priority BETWEEN 0 AND 9),
    CONSTRAINT request_or_raw_is_kept CHECK (request IS NOT NULL OR (raw IS NOT NULL AND state = 'rejected')),
    CONSTRAINT due_while_pending CHECK (state <> 'pending' OR due_at IS NOT NULL),
    CONSTRAINT due_only_while_pending_or_uncertain CHECK (due_at IS NULL OR state IN ('pending', 'uncertain')),
    CONSTRAINT lease_while_sending CHECK ((state = 'sending') = (leased_until IS NOT NULL)
        AND (leased_until IS NULL) = (leased_by IS NULL)),
    CONSTRAINT attempted_before_sending CHECK (attempt > 0 OR state NOT IN ('sending', 'uncertain', 'abandoned')),
    CONSTRAINT uncounted_is_part_of_attempt CHECK (uncounted >= 0 AND uncounted <= attempt),
    CONSTRAINT uncertain_has_a_beginning CHECK (state <> 'uncertain' OR (attempt_began_at IS NOT NULL AND uncertain_since IS NOT NULL)),
    CONSTRAINT person_and_end_only_while_uncertain CHECK (state = 'uncertain' OR (for_person_since IS NULL AND ends_as IS NULL)),
    CONSTRAINT cancelled_is_never_sent CHECK (cancel_requested_at IS NULL OR state NOT IN ('pending', 'sending')),
    CONSTRAINT sid_and_resolver_when_created CHECK (CASE WHEN state = 'created'
        THEN interaction_sid IS NOT NULL AND resolved_by IS NOT NULL
        ELSE interaction_sid IS NULL END),
    CONSTRAINT reason_when_not_created CHECK (error_kind IS NOT NULL OR state IN ('pending', 'sending', 'created')),
    CONSTRAINT revision_is_counted_from_1 CHECK (revision >= 1),
    CONSTRAINT published_and_erased_after_settled CHECK (settled_at IS NOT NULL OR (published_at IS NULL AND erased_at IS NULL))
) WITH (
    -- A row is written about four times within seconds and then never again. Each of these writes changes a column that
    -- some index has, so no update is HOT whatever room a page has: there is no fillfactor. Dead versions are collected
    -- by number, not as a share of a table that keeps a month of settled rows.
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 20000,
    autovacuum_analyze_scale_factor = 0.02, autovacuum_analyze_threshold = 5000,
    autovacuum_vacuum_cost_delay = 0
);

-- lz4 compresses a request and Flex's answer in a fraction of the time of pglz, where the server was built with it.
-- +goose StatementBegin
DO $$ BEGIN
    ALTER TABLE outbox ALTER COLUMN request SET COMPRESSION lz4, ALTER COLUMN response SET COMPRESSION lz4;
EXCEPTION WHEN feature_not_supported THEN NULL;
END $$;
-- +goose StatementEnd

-- One partial index for each loop, so that none grows with settled rows and no loop reads them.
-- Two for the claim, so that old requests that are tried again never stand before all new ones.
CREATE INDEX outbox_fresh   ON outbox (priority, due_at, id) WHERE state = 'pending' AND attempt = 0;
CREATE INDEX outbox_again   ON outbox (priority, due_at, id) WHERE state = 'pending' AND attempt > 0;
CREATE INDEX outbox_expire  ON outbox (expires_at)           WHERE state = 'pending' AND expires_at IS NOT NULL;
-- Not on leased_until: the few rows in it are read whole, and a lease costs no index entry.
CREATE INDEX outbox_sending ON outbox (id)                   WHERE state = 'sending';
-- Those of which no person was asked yet come first: however many wait for a person, they keep nobody waiting.
CREATE INDEX outbox_lookup  ON outbox (coalesce(for_person_since, '-infinity'), due_at, id) WHERE state = 'uncertain';
-- For retention alone; a row enters it when its result is acknowledged, far from the claim.
CREATE INDEX outbox_prune   ON outbox (settled_at, id)       WHERE published_at IS NOT NULL;
-- For the question whose interaction it is. By hash, which is smaller than a B-tree and cheaper to write: sids are only
-- compared. It is not unique: who is told an interaction that nothing proves locks its sid and asks. An answer with the
-- request's own key, and a lookup, prove whose it is, and stand whatever another request was told before.
CREATE INDEX outbox_sid     ON outbox USING hash (interaction_sid) WHERE interaction_sid IS NOT NULL;
CREATE INDEX outbox_publish ON outbox (settled_at, id)       WHERE settled_at IS NOT NULL AND published_at IS NULL;
-- For people: what waits to be sent, the newest first. The claim's indexes have another order. A request that is leased by its
-- insert never pays for it. No id is below 1: that is said so that only those who say it, too, are led to this index. Else
-- the planner would take it for the claim, since it is smaller, while the table is young and for as long as the plan is kept.
CREATE INDEX outbox_pending ON outbox (id)                   WHERE state = 'pending' AND id > 0;
-- For people: what failed, how, and of late. Only what settles without an interaction pays for it. The columns behind
-- INCLUDE answer by which kind, status and code without a look at the rows; their values are short words and numbers of ours.
CREATE INDEX outbox_failed  ON outbox (settled_at, id) INCLUDE (state, error_kind, http_status, twilio_code)
    WHERE state IN ('rejected', 'abandoned', 'expired', 'cancelled');

COMMENT ON TABLE  outbox                   IS 'One row a request: what was asked, where it stands, what came of it. States: docs/operating.md, and the package comment of internal/outbox.';
COMMENT ON COLUMN outbox.id                IS 'Our own number; rows are locked in its order.';
COMMENT ON COLUMN outbox.request_id        IS 'The sender''s id of the request, 1 to 256 bytes. One row each, whatever is delivered how often.';
COMMENT ON COLUMN outbox.source            IS 'The sending service: the tokens of the subject behind interactions.requests.';
COMMENT ON COLUMN outbox.state             IS 'pending: waits for due_at. sending: leased, a call may be under way. uncertain: the interaction may exist. Final: created, rejected, abandoned, expired, cancelled.';
COMMENT ON COLUMN outbox.priority          IS '0 to 9, higher goes first.';
COMMENT ON COLUMN outbox.request           IS 'The request as it came, text and number for number. Null only when it cannot be read as JSON by every reader; then raw has the bytes.';
COMMENT ON COLUMN outbox.raw               IS 'The message''s bytes, kept when the event was rejected before sending; null otherwise.';
COMMENT ON COLUMN outbox.warnings          IS 'What Flex would probably ignore in the request, such as a misspelt name: an array of {path, problem}. Null: nothing.';
COMMENT ON COLUMN outbox.due_at            IS 'pending: not sent before. uncertain: next lookup; null: it has no task to look for, a person must decide. Null in every other state.';
COMMENT ON COLUMN outbox.expires_at        IS 'Not sent after this instant; null: no deadline.';
COMMENT ON COLUMN outbox.attempt           IS 'Number of the latest attempt, counted from 1 at the claim and never lowered. (id, attempt) names a lease.';
COMMENT ON COLUMN outbox.attempt_began_at  IS 'When the attempt began that may have created the interaction, by the clock of Postgres. Of several undecided attempts, the earliest.';
COMMENT ON COLUMN outbox.uncounted         IS 'How many of the attempts cost nothing: refused before Flex worked on them, blocked, released. attempt - uncounted is held against RETRY_MAX_ATTEMPTS.';
COMMENT ON COLUMN outbox.leased_by         IS 'Who holds the lease while sending: the worker, and the number of its statement that leased.';
COMMENT ON COLUMN outbox.leased_until      IS 'When the lease lapses; then the request is uncertain.';
COMMENT ON COLUMN outbox.lookup_key        IS '32 hex digits derived from request_id alone, written into the task''s attributes. Null when there is no task to look for.';
COMMENT ON COLUMN outbox.lookup_attribute  IS 'The task attribute in which the latest attempt carries the lookup key; null when it carries none.';
COMMENT ON COLUMN outbox.lookups           IS 'Lookups made since the attempt became uncertain.';
COMMENT ON COLUMN outbox.uncertain_since   IS 'The latest moment at which the latest uncertain attempt could still have been on its way. Kept after it is resolved.';
COMMENT ON COLUMN outbox.answered          IS 'Finding nothing proves nothing: Flex answered an undecided attempt with a 2xx whose sid could not be read, or those carried their keys under different attributes.';
COMMENT ON COLUMN outbox.undecided         IS 'An earlier attempt was never decided, and the request was sent again all the same (UNCERTAIN_POLICY=retry, or a person). Of what has settled: a retry looks for it first.';
COMMENT ON COLUMN outbox.for_person_since  IS 'uncertain: a person has to decide, since then. Lookups go on, more seldom. Null: no person is asked.';
COMMENT ON COLUMN outbox.cancel_requested_at IS 'uncertain: an operator or its sender cancelled it then. A lookup may still adopt its interaction; it is never sent again.';
COMMENT ON COLUMN outbox.ends_as           IS 'uncertain: the final state that it gets, in place of being sent again, once its undecided attempts are proved absent. Null: it is sent again.';
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
COMMENT ON COLUMN outbox.tracestate        IS 'W3C tracestate that came with the request; goes back with its result.';
COMMENT ON COLUMN outbox.stream            IS 'Name of the request stream.';
COMMENT ON COLUMN outbox.stream_sequence   IS 'Sequence of the message in the request stream.';
COMMENT ON COLUMN outbox.stream_time       IS 'When the stream stored that message. Sequence and time name it, also after a stream was made anew.';
COMMENT ON COLUMN outbox.revision          IS 'Which final answer this is: 1, and one more for each retry by an operator. Part of the result''s message id.';
COMMENT ON COLUMN outbox.received_at       IS 'When the row was written.';
COMMENT ON COLUMN outbox.settled_at        IS 'When a final state was reached.';
COMMENT ON COLUMN outbox.announced_at      IS 'When the result stream acknowledged that a person has to look (outcome uncertain).';
COMMENT ON COLUMN outbox.published_at      IS 'When the result stream acknowledged the final result.';
COMMENT ON COLUMN outbox.erased_at         IS 'When a person last had its content erased: of request and response sids and times are left. It is never sent again. Null: never.';

-- +goose Down
DROP TABLE outbox;
DROP DOMAIN outbox_sid, outbox_lookup_key, outbox_resolver, outbox_end;
