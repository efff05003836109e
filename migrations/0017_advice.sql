-- +goose Up
-- As before, but that each command can be typed as it stands: --why is required.
CREATE OR REPLACE VIEW outbox_attention AS
    SELECT 'request' AS what, request_id AS id, source, uncertain_since AS since,
           'may exist, and no lookup can tell: ' || coalesce(error_message, error_kind) AS why,
           format('worker resolve %1$s --created KD... --why "..." when it exists; worker resolve %1$s --absent --why "..." when it does not: it is sent again', quote_literal(request_id)) AS command
      FROM outbox WHERE state = 'uncertain' AND due_at IS NULL
    UNION ALL
    SELECT 'gate', 'outbox_gate', '', held_since, reason,
           CASE WHEN probe_at IS NULL THEN 'worker release --why "..."'
                ELSE 'put the credentials or the account right: it opens by itself then; worker release --why "..." opens it at once' END
      FROM outbox_gate WHERE held_since IS NOT NULL
    UNION ALL
    SELECT 'result', request_id, source, settled_at,
           'settled for over 5 minutes, but the result stream has not taken the result',
           'look at the result stream: is it there, full, bound to the subject?'
      FROM outbox WHERE settled_at IS NOT NULL AND published_at IS NULL AND settled_at < clock_timestamp() - interval '5 minutes';

-- As before, but that a request which was not to be sent before some time is as old as that time is past: the age of the
-- oldest is what is alerted on, and a request for next year is not late.
CREATE OR REPLACE VIEW outbox_backlog AS
    SELECT state, source, sum(n)::bigint AS requests, greatest(clock_timestamp() - min(since), '0') AS oldest
      FROM (SELECT state, source, count(*) AS n, min(greatest(received_at, due_at)) AS since
              FROM outbox WHERE state = 'pending' AND attempt = 0 GROUP BY state, source
            UNION ALL
            SELECT state, source, count(*), min(received_at)
              FROM outbox WHERE state = 'pending' AND attempt > 0 GROUP BY state, source
            UNION ALL
            SELECT state, source, count(*), min(received_at)
              FROM outbox WHERE state = 'sending' GROUP BY state, source
            UNION ALL
            SELECT state, source, count(*), min(received_at)
              FROM outbox WHERE state = 'uncertain' GROUP BY state, source
            UNION ALL
            SELECT 'unpublished', source, count(*), min(settled_at)
              FROM outbox WHERE settled_at IS NOT NULL AND published_at IS NULL GROUP BY source) AS part
     GROUP BY state, source;

COMMENT ON COLUMN outbox_gate.held_since IS 'Not null: no call until released. By the fleet (probe_at not null): credentials, account or address are at fault, and it opens by itself once they are right. Else by a person.';

-- +goose Down
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

CREATE OR REPLACE VIEW outbox_backlog AS
    SELECT state, source, sum(n)::bigint AS requests, clock_timestamp() - min(since) AS oldest
      FROM (SELECT state, source, count(*) AS n, min(received_at) AS since
              FROM outbox WHERE state = 'pending' AND attempt = 0 GROUP BY state, source
            UNION ALL
            SELECT state, source, count(*), min(received_at)
              FROM outbox WHERE state = 'pending' AND attempt > 0 GROUP BY state, source
            UNION ALL
            SELECT state, source, count(*), min(received_at)
              FROM outbox WHERE state = 'sending' GROUP BY state, source
            UNION ALL
            SELECT state, source, count(*), min(received_at)
              FROM outbox WHERE state = 'uncertain' GROUP BY state, source
            UNION ALL
            SELECT 'unpublished', source, count(*), min(settled_at)
              FROM outbox WHERE settled_at IS NOT NULL AND published_at IS NULL GROUP BY source) AS part
     GROUP BY state, source;

COMMENT ON COLUMN outbox_gate.held_since IS 'Not null: no call until released. Credentials, account or address are at fault.';
