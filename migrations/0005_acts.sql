-- +goose Up
-- What people did, and why. A row for each request that an act changed, and one for each act on the gate.
CREATE TABLE outbox_acts (
    id         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    who        text        NOT NULL,
    why        text        NOT NULL,
    act        text        NOT NULL,
    request_id text        COLLATE "C",
    attempt    integer,
    was        text        NOT NULL,

    CONSTRAINT act_is_known CHECK (act IN ('retry', 'cancel', 'resolve created', 'resolve absent', 'republish', 'lookup', 'recheck',
        'hold', 'release', 'rate')),
    CONSTRAINT who_and_why_are_said CHECK (who <> '' AND why <> '')
);
CREATE INDEX outbox_acts_request ON outbox_acts (request_id);

COMMENT ON TABLE  outbox_acts            IS 'What operators did, with who and why.';
COMMENT ON COLUMN outbox_acts.id         IS 'Order of writing.';
COMMENT ON COLUMN outbox_acts.at         IS 'When it was done.';
COMMENT ON COLUMN outbox_acts.who        IS 'Who did it, as the command was told; a worker, where the rate follows FLEX_RATE by itself.';
COMMENT ON COLUMN outbox_acts.why        IS 'Why, in their words.';
COMMENT ON COLUMN outbox_acts.act        IS 'retry, cancel, resolve created, resolve absent, republish, lookup, recheck; of the gate: hold, release, rate.';
COMMENT ON COLUMN outbox_acts.request_id IS 'The request it changed; null for the gate.';
COMMENT ON COLUMN outbox_acts.attempt    IS 'The attempt that the person had seen: the act speaks of that one alone. Null: of none.';
COMMENT ON COLUMN outbox_acts.was        IS 'What stood there before: the request''s state, or the gate''s.';

-- +goose Down
DROP TABLE outbox_acts;
