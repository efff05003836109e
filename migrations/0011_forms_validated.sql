-- +goose NO TRANSACTION
-- +goose Up
-- Each by itself: rows are read, and nothing that writes has to wait.
ALTER TABLE outbox VALIDATE CONSTRAINT lookup_key_has_32_hex_digits;
ALTER TABLE outbox VALIDATE CONSTRAINT sid_has_its_form;

-- +goose Down
SELECT 'validated constraints may stay';
