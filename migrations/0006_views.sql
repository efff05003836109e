-- +goose Up
-- For people. Each branch reads one of the loops' partial indexes, never the settled rows.
CREATE VIEW outbox_backlog AS
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
COMMENT ON VIEW outbox_backlog IS 'What is not finished: number of requests and age of the oldest, by state and source. unpublished: settled, its result not yet acknowledged.';

CREATE VIEW outbox_attention AS
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
COMMENT ON VIEW outbox_attention IS 'What a person must look at, why, and the command to use.';

-- +goose Down
DROP VIEW outbox_attention;
DROP VIEW outbox_backlog;
