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

-- A command is one line that can be typed as it stands: an id, which its sender chose, is quoted for a POSIX shell and
-- stands behind --, since it may begin with a hyphen.
CREATE VIEW outbox_attention AS
    SELECT 'request' AS what, request_id AS id, source, for_person_since AS since,
           'may exist, and no lookup can tell: ' || coalesce(error_message, error_kind) AS why,
           'worker explain -- ''' || replace(request_id, '''', '''\''''') || '''' AS command
      FROM outbox WHERE state = 'uncertain' AND coalesce(for_person_since, '-infinity') > '-infinity'
    UNION ALL
    SELECT 'gate', 'outbox_gate', '', held_since, reason, 'worker release --why ''...'''
      FROM outbox_gate WHERE held_since IS NOT NULL
    UNION ALL
    SELECT 'confirmation', 'outbox_confirmation', '', off_since,
           'Flex refuses to show whether channels were set up, so created requests are unconfirmed: ' || reason, 'worker list --setup unconfirmed'
      FROM outbox_confirmation WHERE off_since IS NOT NULL
    UNION ALL
    SELECT 'replica', name, '', state_since, state || coalesce(': ' || reason, ''), 'worker fleet'
      FROM outbox_replicas WHERE state IN ('unauthorized', 'unreachable') 
       AND seen_at BETWEEN clock_timestamp() - interval '15 seconds' AND clock_timestamp() + interval '15 seconds' -- it lives, as internal/outbox/gate has it
    UNION ALL
    SELECT 'result', request_id, source, settled_at,
           'settled for over 5 minutes, but the result stream has not taken the result: is the stream there, full, bound to the subject?',
           'worker explain -- ''' || replace(request_id, '''', '''\''''') || ''''
      FROM outbox WHERE settled_at IS NOT NULL AND published_at IS NULL AND settled_at < clock_timestamp() - interval '5 minutes';
COMMENT ON VIEW outbox_attention IS 'What a person must look at, why, and the one command that leads on.';

-- Within the hour: of settled rows, none is read but those that failed since.
CREATE VIEW outbox_failures AS
    SELECT state, source, request #>> '{routing,properties,workspace_sid}' AS workspace_sid, error_kind, http_status, twilio_code,
           left(error_message, 200) AS error_message, count(*) AS requests, max(at) AS latest
      FROM (SELECT state, source, request, error_kind, http_status, twilio_code, error_message, settled_at AS at
              FROM outbox WHERE state IN ('rejected', 'abandoned', 'expired', 'cancelled') AND settled_at > now() - interval '1 hour'
            UNION ALL
            SELECT state, source, request, error_kind, http_status, twilio_code, error_message, coalesce(attempt_began_at, received_at)
              FROM outbox WHERE state = 'pending' AND attempt > 0 AND error_kind IS NOT NULL) AS part
     GROUP BY 1, 2, 3, 4, 5, 6, 7;
COMMENT ON VIEW outbox_failures IS 'What settled within the last hour without an interaction, and what is tried again after a failure: number of requests and the latest, by state, source, workspace and reason.';

-- The window is fixed, since no index is ordered by received_at: it would cost each write of a row an entry. What was received
-- within the window has not settled before it, so the indexes on settled_at answer, and of settled rows no older one is read.
CREATE VIEW outbox_funnel AS
    SELECT date_trunc('hour', received_at, 'UTC') AS hour, source, CASE WHEN state <> 'created' THEN coalesce(error_kind, state) END AS reason,
           count(*) AS received, count(*) FILTER (WHERE attempt > 0) AS sent, count(*) FILTER (WHERE state = 'created') AS accepted,
           count(*) FILTER (WHERE state = 'created' AND (SELECT word = 'confirmed' FROM outbox_setups s WHERE s.id = part.id)) AS confirmed
      FROM (SELECT id, received_at, source, state, error_kind, attempt FROM outbox
             WHERE published_at IS NOT NULL AND settled_at >= date_trunc('hour', now(), 'UTC') - interval '23 hours'
            UNION ALL
            SELECT id, received_at, source, state, error_kind, attempt FROM outbox
             WHERE settled_at IS NOT NULL AND published_at IS NULL AND settled_at >= date_trunc('hour', now(), 'UTC') - interval '23 hours'
            UNION ALL
            SELECT id, received_at, source, state, error_kind, attempt FROM outbox WHERE state = 'pending' AND attempt = 0
            UNION ALL
            SELECT id, received_at, source, state, error_kind, attempt FROM outbox WHERE state = 'pending' AND attempt > 0
            UNION ALL
            SELECT id, received_at, source, state, error_kind, attempt FROM outbox WHERE state = 'sending'
            UNION ALL
            SELECT id, received_at, source, state, error_kind, attempt FROM outbox WHERE state = 'uncertain') AS part
     WHERE received_at >= date_trunc('hour', now(), 'UTC') - interval '23 hours'
     GROUP BY 1, 2, 3;
COMMENT ON VIEW outbox_funnel IS 'Of the requests that were received in each of the last 24 hours, by source and reason: how many were received, how many of these were sent at least once, how many of these Flex has accepted, and of how many of these CONFIRM has seen that the channel was set up. reason: why they are not accepted, or not yet; null where they are.';

-- For an autoscaler, such as KEDA. A call holds one of the FLEX_CONCURRENCY permits of its replica while it lasts. So as many permits are wanted
-- as calls are under way, and as requests are due that the rate lets begin within a second; none while the gate is shut. Where calls
-- take long, all permits are in use while requests wait: one more replica is wanted at each look, until the calls that the
-- rate allows are all under way. Where they are short, a rate needs few permits, and a backlog behind it wants no more. What the limiter
-- holds back, since Flex is in trouble, wants none either. At most 10,000 due requests are counted, each from an index.
CREATE VIEW outbox_wanted_replicas AS
    SELECT greatest(ceil((calls + due) / permits), 1)::integer AS replicas, calls, due, permits
      FROM (SELECT (SELECT count(*) FROM outbox WHERE state = 'sending') AS calls,
                   (SELECT count(*) FROM (
                        SELECT 1
                          FROM (VALUES (9::smallint), (8), (7), (6), (5), (4), (3), (2), (1), (0)) AS p (priority)
                         CROSS JOIN LATERAL (
                            (SELECT 1 FROM outbox WHERE state = 'pending' AND attempt = 0 AND priority = p.priority AND due_at <= now() LIMIT g.allowed)
                            UNION ALL
                            (SELECT 1 FROM outbox WHERE state = 'pending' AND attempt > 0 AND priority = p.priority AND due_at <= now() LIMIT g.allowed)) AS o
                         LIMIT g.allowed) AS found) AS due,
                   coalesce((SELECT avg(nullif(flex_concurrency, 0)) FROM outbox_replicas
                              WHERE seen_at BETWEEN clock_timestamp() - interval '15 seconds' AND clock_timestamp() + interval '15 seconds'), 16) AS permits
              FROM (SELECT CASE WHEN held_since IS NOT NULL OR paused_until BETWEEN clock_timestamp() AND clock_timestamp() + interval '61 minutes' THEN 0
                                WHEN rate = 0 THEN 10000 ELSE least(ceil(rate), 10000) END::bigint AS allowed FROM outbox_gate) AS g) AS wanted;
COMMENT ON VIEW outbox_wanted_replicas IS 'One row: how many replicas the backlog wants, at least 1, as far as FLEX_RATE lets more of them send more. calls: under way. due: requests that are due, up to what the rate lets begin in a second. permits: FLEX_CONCURRENCY of a living worker, on average.';

-- +goose Down
DROP VIEW outbox_wanted_replicas;
DROP VIEW outbox_funnel;
DROP VIEW outbox_failures;
DROP VIEW outbox_attention;
DROP VIEW outbox_backlog;
