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
    unverified boolean     NOT NULL DEFAULT false,

    CONSTRAINT act_is_known CHECK (act IN ('retry', 'cancel', 'resolve created', 'resolve absent', 'republish', 'lookup', 'recheck', 'erase', 'close',
        'hold', 'release', 'rate')),
    CONSTRAINT who_and_why_are_said CHECK (who <> '' AND why <> '')
);
CREATE INDEX outbox_acts_request ON outbox_acts (request_id);
-- When the fleet was held.
CREATE INDEX outbox_acts_gate ON outbox_acts (id) WHERE act IN ('hold', 'release');

COMMENT ON TABLE  outbox_acts            IS 'What operators did, with who and why.';
COMMENT ON COLUMN outbox_acts.id         IS 'Order of writing.';
COMMENT ON COLUMN outbox_acts.at         IS 'When it was done.';
COMMENT ON COLUMN outbox_acts.who        IS 'Who did it, as the command was told; a worker, where the rate follows FLEX_RATE by itself.';
COMMENT ON COLUMN outbox_acts.why        IS 'Why, in their words; erased, where the request it changed was erased later.';
COMMENT ON COLUMN outbox_acts.act        IS 'retry, cancel, resolve created, resolve absent, republish, lookup, recheck, erase, close; of the gate: hold, release, rate.';
COMMENT ON COLUMN outbox_acts.request_id IS 'The request it changed; null for the gate.';
COMMENT ON COLUMN outbox_acts.attempt    IS 'The attempt that the person had seen: the act speaks of that one alone. Null: of none.';
COMMENT ON COLUMN outbox_acts.was        IS 'What stood there before: the request''s state, or the gate''s.';
COMMENT ON COLUMN outbox_acts.unverified IS 'Whether the person was believed unasked, or against what Flex and TaskRouter said: of resolve and retry.';

-- The idempotency keys of the API: an act is done once for each key, whatever is asked again, of any worker.
CREATE TABLE outbox_idempotency_keys (
    key        text        COLLATE "C" PRIMARY KEY,
    asked      bytea       NOT NULL,
    who        text        NOT NULL,
    request_id text        COLLATE "C",
    begun_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    kept_until timestamptz NOT NULL DEFAULT clock_timestamp() + interval '24 hours',
    answer     bytea,

    CONSTRAINT key_has_1_to_255_bytes CHECK (octet_length(key) BETWEEN 1 AND 255),
    CONSTRAINT asked_is_a_sha256 CHECK (octet_length(asked) = 32)
);
CREATE INDEX outbox_idempotency_keys_prune ON outbox_idempotency_keys (kept_until);
CREATE INDEX outbox_idempotency_keys_request ON outbox_idempotency_keys (request_id) WHERE request_id IS NOT NULL;

COMMENT ON TABLE  outbox_idempotency_keys            IS 'Idempotency keys of acts over the API, for 24 hours. The key is written before the act, its answer after it.';
COMMENT ON COLUMN outbox_idempotency_keys.key        IS 'The header Idempotency-Key, 1 to 255 bytes.';
COMMENT ON COLUMN outbox_idempotency_keys.asked      IS 'SHA-256 of what was asked under the key: something else is refused.';
COMMENT ON COLUMN outbox_idempotency_keys.who        IS 'Who asked first.';
COMMENT ON COLUMN outbox_idempotency_keys.request_id IS 'The request that the act is on; null for the gate, and for an act on many.';
COMMENT ON COLUMN outbox_idempotency_keys.begun_at   IS 'When the act began.';
COMMENT ON COLUMN outbox_idempotency_keys.kept_until IS 'Until when the key counts. Any replica removes it then.';
COMMENT ON COLUMN outbox_idempotency_keys.answer     IS 'The answer to the act, which each repeat gets. Null: the act is under way, or who did it died before the answer, or its request was erased since: outbox_acts tells whether it was done.';

-- +goose Down
DROP TABLE outbox_idempotency_keys;
DROP TABLE outbox_acts;
