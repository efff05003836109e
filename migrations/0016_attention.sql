-- +goose Up
-- As before, but for the gate: after a person's `worker hold` it said to put the credentials right, which opens nothing then.
-- A hold of the fleet's own is probed (probe_at) and opens by itself; a person's is not and waits for `worker release`.
CREATE OR REPLACE VIEW outbox_attention AS
    SELECT 'request' AS what, request_id AS id, source, uncertain_since AS since,
           'may exist, and no lookup can tell: ' || coalesce(error_message, error_kind) AS why,
           format('worker resolve %s --created KD... (it exists) or --absent (it does not: it will be sent again)', quote_literal(request_id)) AS command
      FROM outbox WHERE state = 'uncertain' AND due_at IS NULL
    UNION ALL
    SELECT 'gate', 'outbox_gate', '', held_since, reason,
           CASE WHEN probe_at IS NULL THEN 'worker release --why ...'
                ELSE 'put the credentials or the account right: it opens by itself then; worker release --why ... opens it at once' END
      FROM outbox_gate WHERE held_since IS NOT NULL
    UNION ALL
    SELECT 'result', request_id, source, settled_at,
           'settled for over 5 minutes, but the result stream has not taken the result',
           'look at the result stream: is it there, full, bound to the subject?'
      FROM outbox WHERE settled_at IS NOT NULL AND published_at IS NULL AND settled_at < clock_timestamp() - interval '5 minutes';

-- +goose Down
CREATE OR REPLACE VIEW outbox_attention AS
    SELECT 'request' AS what, request_id AS id, source, uncertain_since AS since,
           'may exist, and no lookup can tell: ' || coalesce(error_message, error_kind) AS why,
           format('worker resolve %s --created KD... (it exists) or --absent (it does not: it will be sent again)', quote_literal(request_id)) AS command
      FROM outbox WHERE state = 'uncertain' AND due_at IS NULL
    UNION ALL
    SELECT 'gate', 'outbox_gate', '', held_since, reason,
           'put the credentials or the account right; worker release opens the gate at once'
      FROM outbox_gate WHERE held_since IS NOT NULL
    UNION ALL
    SELECT 'result', request_id, source, settled_at,
           'settled for over 5 minutes, but the result stream has not taken the result',
           'look at the result stream: is it there, full, bound to the subject?'
      FROM outbox WHERE settled_at IS NOT NULL AND published_at IS NULL AND settled_at < clock_timestamp() - interval '5 minutes';
