-- +goose Up
-- The same sentences once more. btrim walks its set for each character, 2 us a value; a regular expression is slow
-- only where it counts ({32}), and the length is counted by octet_length. Each of a request's writes checks both.
-- The rows that are there are checked by the next step: here it would happen under the lock that stops the worker.
ALTER TABLE outbox
    DROP CONSTRAINT lookup_key_has_32_hex_digits,
    DROP CONSTRAINT sid_has_its_form,
    ADD CONSTRAINT lookup_key_has_32_hex_digits CHECK (octet_length(lookup_key) = 32 AND lookup_key ~ '^[0-9a-f]*$') NOT VALID,
    ADD CONSTRAINT sid_has_its_form CHECK (octet_length(interaction_sid) = 34 AND interaction_sid ~ '^KD[0-9a-fA-F]*$') NOT VALID;

-- +goose Down
ALTER TABLE outbox
    DROP CONSTRAINT lookup_key_has_32_hex_digits,
    DROP CONSTRAINT sid_has_its_form,
    ADD CONSTRAINT lookup_key_has_32_hex_digits CHECK (octet_length(lookup_key) = 32 AND btrim(lookup_key, '0123456789abcdef') = ''),
    ADD CONSTRAINT sid_has_its_form CHECK (octet_length(interaction_sid) = 34 AND starts_with(interaction_sid, 'KD')
        AND btrim(substr(interaction_sid, 3), '0123456789abcdefABCDEF') = '');
