-- +goose NO TRANSACTION
-- +goose Up
-- Each by itself: rows are read, and nothing that writes has to wait.
ALTER TABLE outbox VALIDATE CONSTRAINT state_is_known_and_settled_when_final;
ALTER TABLE outbox VALIDATE CONSTRAINT sid_and_resolver_when_created;
ALTER TABLE outbox VALIDATE CONSTRAINT reason_when_not_created;

-- +goose Down
SELECT 'validated constraints may stay';
