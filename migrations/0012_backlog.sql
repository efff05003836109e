-- +goose Up
-- As before, but so that each branch has a partial index: there is none for pending by itself, so that the whole table
-- was read, by each replica every 15 seconds.
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

-- +goose Down
CREATE OR REPLACE VIEW outbox_backlog AS
    SELECT state, source, count(*) AS requests, clock_timestamp() - min(received_at) AS oldest
      FROM outbox WHERE state = 'pending' GROUP BY state, source
    UNION ALL
    SELECT state, source, count(*), clock_timestamp() - min(received_at)
      FROM outbox WHERE state = 'sending' GROUP BY state, source
    UNION ALL
    SELECT state, source, count(*), clock_timestamp() - min(received_at)
      FROM outbox WHERE state = 'uncertain' GROUP BY state, source
    UNION ALL
    SELECT 'unpublished', source, count(*), clock_timestamp() - min(settled_at)
      FROM outbox WHERE settled_at IS NOT NULL AND published_at IS NULL GROUP BY source;
