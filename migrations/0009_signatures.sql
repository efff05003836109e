-- +goose Up
-- Comments alone: a lease names the statement that took it.
COMMENT ON COLUMN outbox.leased_by       IS 'Who holds the lease while sending: the worker, and the number of its statement that leased.';
COMMENT ON COLUMN outbox_attempts.worker IS 'Who made it; of a lapse, what leased_by was.';

-- +goose Down
COMMENT ON COLUMN outbox.leased_by       IS 'The worker that holds the lease while sending.';
COMMENT ON COLUMN outbox_attempts.worker IS 'Who made it.';
