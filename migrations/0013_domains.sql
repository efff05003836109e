-- +goose Up
-- A table's constraints are parsed anew by every statement that writes it, and all of them are asked of every new
-- version of a row; a domain's are parsed once a session and asked when the column is written. Together they cost a
-- request's three writes a fifth of Postgres's time, so: what concerns one column that few statements write is said of
-- a domain, and what was said twice is said once. No sentence is weaker than before.
--
-- Nothing is rewritten or read here: a domain without constraints has the same values as its text, and each constraint
-- is NOT VALID until the next step. Those of the domains stay so: their rows have been under the same sentences until
-- this very step, and to validate them would stop all writers for as long as the table takes to read.
-- Where somebody reads the table for long, writers would have to wait behind this step: it is tried again later.
SET LOCAL lock_timeout = '3s';
CREATE DOMAIN outbox_sid        AS text;
CREATE DOMAIN outbox_lookup_key AS text;
CREATE DOMAIN outbox_resolver   AS text;
ALTER TABLE outbox
    DROP CONSTRAINT sid_has_its_form,
    DROP CONSTRAINT sid_when_created,
    DROP CONSTRAINT lookup_key_has_32_hex_digits,
    DROP CONSTRAINT resolved_by_is_known,
    DROP CONSTRAINT resolver_when_created,
    DROP CONSTRAINT state_is_known,
    DROP CONSTRAINT settled_when_final,
    DROP CONSTRAINT reason_when_not_created,
    ALTER COLUMN interaction_sid TYPE outbox_sid,
    ALTER COLUMN lookup_key TYPE outbox_lookup_key,
    ALTER COLUMN resolved_by TYPE outbox_resolver,
    ADD CONSTRAINT state_is_known_and_settled_when_final CHECK (CASE WHEN settled_at IS NULL
        THEN state IN ('pending', 'sending', 'uncertain')
        ELSE state IN ('created', 'rejected', 'abandoned', 'expired', 'cancelled') END) NOT VALID,
    ADD CONSTRAINT sid_and_resolver_when_created CHECK (CASE WHEN state = 'created'
        THEN interaction_sid IS NOT NULL AND resolved_by IS NOT NULL
        ELSE interaction_sid IS NULL END) NOT VALID,
    ADD CONSTRAINT reason_when_not_created CHECK (error_kind IS NOT NULL OR state IN ('pending', 'sending', 'created')) NOT VALID;
ALTER DOMAIN outbox_sid        ADD CONSTRAINT sid_has_its_form CHECK (octet_length(VALUE) = 34 AND VALUE ~ '^KD[0-9a-fA-F]*$') NOT VALID;
ALTER DOMAIN outbox_lookup_key ADD CONSTRAINT lookup_key_has_32_hex_digits CHECK (octet_length(VALUE) = 32 AND VALUE ~ '^[0-9a-f]*$') NOT VALID;
ALTER DOMAIN outbox_resolver   ADD CONSTRAINT resolved_by_is_known CHECK (VALUE IN ('response', 'lookup', 'operator')) NOT VALID;
COMMENT ON DOMAIN outbox_sid        IS 'KD sid of an interaction: KD and 32 hexadecimal digits.';
COMMENT ON DOMAIN outbox_lookup_key IS '32 hex digits, in small letters.';
COMMENT ON DOMAIN outbox_resolver   IS 'Who told what became of a request: response, lookup or operator.';

-- +goose Down
ALTER TABLE outbox
    DROP CONSTRAINT state_is_known_and_settled_when_final,
    DROP CONSTRAINT sid_and_resolver_when_created,
    DROP CONSTRAINT reason_when_not_created,
    ALTER COLUMN interaction_sid TYPE text,
    ALTER COLUMN lookup_key TYPE text,
    ALTER COLUMN resolved_by TYPE text,
    ADD CONSTRAINT sid_has_its_form CHECK (octet_length(interaction_sid) = 34 AND interaction_sid ~ '^KD[0-9a-fA-F]*$'),
    ADD CONSTRAINT sid_when_created CHECK ((state = 'created') = (interaction_sid IS NOT NULL)),
    ADD CONSTRAINT lookup_key_has_32_hex_digits CHECK (octet_length(lookup_key) = 32 AND lookup_key ~ '^[0-9a-f]*$'),
    ADD CONSTRAINT resolved_by_is_known CHECK (resolved_by IN ('response', 'lookup', 'operator')),
    ADD CONSTRAINT resolver_when_created CHECK (state <> 'created' OR resolved_by IS NOT NULL),
    ADD CONSTRAINT state_is_known CHECK (state IN ('pending', 'sending', 'uncertain',
        'created', 'rejected', 'abandoned', 'expired', 'cancelled')),
    ADD CONSTRAINT reason_when_not_created CHECK (error_kind IS NOT NULL OR state NOT IN ('uncertain', 'rejected', 'abandoned', 'expired', 'cancelled')),
    ADD CONSTRAINT settled_when_final CHECK ((state IN ('created', 'rejected', 'abandoned', 'expired', 'cancelled')) = (settled_at IS NOT NULL));
DROP DOMAIN outbox_sid, outbox_lookup_key, outbox_resolver;
