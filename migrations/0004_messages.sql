-- +goose Up
-- Messages that could not become a request, each kept with its bytes and answered once.
CREATE TABLE outbox_malformed (
    id              bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind            text        NOT NULL,
    stream          text        COLLATE "C" NOT NULL,
    stream_sequence bigint      NOT NULL,
    stream_time     timestamptz NOT NULL,
    subject         text        NOT NULL,
    source          text        NOT NULL,
    request_id      text        COLLATE "C",
    headers         json        NOT NULL,
    raw             bytea       NOT NULL,
    error           text        NOT NULL,
    traceparent     text,
    tracestate      text,
    received_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    published_at    timestamptz,

    CONSTRAINT message_is_kept_once UNIQUE (stream, stream_sequence, stream_time),
    CONSTRAINT kind_is_known CHECK (kind IN ('malformed', 'conflict')),
    CONSTRAINT conflict_names_a_request CHECK (kind <> 'conflict' OR request_id IS NOT NULL)
);
CREATE INDEX outbox_malformed_publish ON outbox_malformed (id) WHERE published_at IS NULL;
CREATE INDEX outbox_malformed_prune ON outbox_malformed (published_at);
-- What conflicted with a request, for who erases that.
CREATE INDEX outbox_malformed_request ON outbox_malformed (request_id) WHERE request_id IS NOT NULL;

COMMENT ON TABLE  outbox_malformed                 IS 'Messages that could not become a request, with their bytes.';
COMMENT ON COLUMN outbox_malformed.id              IS 'Order of writing.';
COMMENT ON COLUMN outbox_malformed.kind            IS 'malformed: no usable id, or not readable. conflict: a known request_id with another request.';
COMMENT ON COLUMN outbox_malformed.stream          IS 'The stream it came from.';
COMMENT ON COLUMN outbox_malformed.stream_sequence IS 'Its sequence there.';
COMMENT ON COLUMN outbox_malformed.stream_time     IS 'When the stream stored it.';
COMMENT ON COLUMN outbox_malformed.subject         IS 'The subject it came on.';
COMMENT ON COLUMN outbox_malformed.source          IS 'The sending service, from the subject.';
COMMENT ON COLUMN outbox_malformed.request_id      IS 'The id it carried, if it was usable.';
COMMENT ON COLUMN outbox_malformed.headers         IS 'Its headers: name to array of values.';
COMMENT ON COLUMN outbox_malformed.raw             IS 'Its bytes.';
COMMENT ON COLUMN outbox_malformed.error           IS 'Why it was not accepted.';
COMMENT ON COLUMN outbox_malformed.traceparent     IS 'Trace context that came with it; goes back with its answer.';
COMMENT ON COLUMN outbox_malformed.tracestate      IS 'tracestate that came with it; goes back with its answer.';
COMMENT ON COLUMN outbox_malformed.received_at     IS 'When it was written here.';
COMMENT ON COLUMN outbox_malformed.published_at    IS 'When the result stream acknowledged the answer.';

-- A known request asked again by another message: who asked, and whether it was answered.
CREATE TABLE outbox_repeats (
    id              bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    outbox_id       bigint      NOT NULL,
    source          text        NOT NULL,
    stream          text        NOT NULL DEFAULT '',
    stream_sequence bigint      NOT NULL,
    stream_time     timestamptz NOT NULL,
    traceparent     text,
    tracestate      text,
    received_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    published_at    timestamptz,

    CONSTRAINT repeat_is_kept_once UNIQUE (stream_sequence, stream_time)
);
-- In the order in which they are read: what was published is never read again.
CREATE INDEX outbox_repeats_publish ON outbox_repeats (id) WHERE published_at IS NULL;
CREATE INDEX outbox_repeats_request ON outbox_repeats (outbox_id);

COMMENT ON TABLE  outbox_repeats                 IS 'A known request that was asked again: one row for each time, answered with the same result.';
COMMENT ON COLUMN outbox_repeats.id              IS 'Order of writing.';
COMMENT ON COLUMN outbox_repeats.outbox_id       IS 'The request: outbox.id.';
COMMENT ON COLUMN outbox_repeats.source          IS 'Who asked this time.';
COMMENT ON COLUMN outbox_repeats.stream          IS 'Name of the request stream.';
COMMENT ON COLUMN outbox_repeats.stream_sequence IS 'Sequence of the message in the request stream.';
COMMENT ON COLUMN outbox_repeats.stream_time     IS 'When the stream stored that message.';
COMMENT ON COLUMN outbox_repeats.traceparent     IS 'Trace context that came with it; goes back with its answer.';
COMMENT ON COLUMN outbox_repeats.tracestate      IS 'tracestate that came with it; goes back with its answer.';
COMMENT ON COLUMN outbox_repeats.received_at     IS 'When it was asked.';
COMMENT ON COLUMN outbox_repeats.published_at    IS 'When the result stream acknowledged the answer to it.';

-- +goose Down
DROP TABLE outbox_repeats;
DROP TABLE outbox_malformed;
