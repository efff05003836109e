package upkeep

import (
	"context"
	"time"

	"flexworker/internal/database"
	"flexworker/internal/loop"
)

const (
	// countEvery is the time between two looks at what settled, give or take a quarter.
	countEvery = time.Minute
	// CountMost is how much time one statement counts, so that an hour that nobody counted is no long statement.
	CountMost = 10 * time.Minute
	// minutesKept is how long the count of a minute is kept.
	minutesKept = 7 * 24 * time.Hour
	// writing is longer than a statement takes from the time that it gives a row to its first write, by which its
	// transaction has a number.
	writing = 5 * time.Second
	// sourcesMost is how many sources a minute has rows for; the smaller ones are counted as one. A sender may choose a new
	// source for each request.
	sourcesMost = 50
)

// A Fence is a moment, and a transaction that got its number then. Once all transactions with lower numbers have ended,
// whatever settled before the moment is in the table. The zero value is none.
type Fence struct {
	xid *string // an xid8
	at  *time.Time
}

// Count writes to outbox_minutes how many requests settled in each minute, until ctx ends. All replicas do it in turns. Count
// begins with a rest; why, the package comment says.
func (u *Upkeep) Count(ctx context.Context) {
	var fence Fence
	rest := loop.Jittered(countEvery)
	for {
		loop.Rest(ctx, rest, nil)
		if ctx.Err() != nil {
			return
		}
		began := time.Now()
		more, err := u.CountOnce(ctx, &fence)
		if err != nil {
			err = database.WithHolders(ctx, u.pool, began, err)
		}
		u.counting.Tell(u.Log, "what settled cannot be counted by minutes; trying again", err)
		rest = loop.Jittered(countEvery)
		if more && err == nil {
			rest = time.Since(began)
		}
	}
}

// CountOnce counts the minutes that were over at the fence, behind the last one that was counted, up to CountMost of
// them; more says that others are behind these. Where a transaction may still settle requests in them, nothing is counted
// and the fence stays; else it is set anew.
//
// A replica that meets another one here leaves it to that one. Each request is counted in the minute at which it settled,
// if it still stands so when that is counted: what is retried and settles again is counted again, in that minute. Where
// Postgres's clock, or its state, went back, the minutes since are counted anew.
func (u *Upkeep) CountOnce(ctx context.Context, fence *Fence) (more bool, err error) {
	ctx, cancel := database.Bounded(ctx)
	defer cancel()
	var next Fence
	var waits bool // for a transaction from before the fence
	err = u.pool.QueryRow(ctx, countSQL, fence.xid, fence.at, CountMost, minutesKept, writing, sourcesMost).Scan(&next.xid, &next.at, &waits, &more)
	if err == nil && !more && (!waits || fence.xid == nil) {
		*fence = next
	}
	return more, database.Wrap("count", err)
}

// countSQL: $1 and $2 are the fence, null where there is none.
//
// outbox_counted is locked, so its row is the latest, also where another replica has counted since this statement began.
// All else is seen as it was at that moment, and that is enough: passed is judged by the very snapshot in which is
// counted. A transaction from before the fence that still runs is waited for, unless it has written nothing into outbox:
// one that writes elsewhere, perhaps in another database, may run for hours.
const countSQL = `/* count */
	WITH seen AS MATERIALIZED (SELECT pg_current_snapshot() AS snapshot, clock_timestamp() AS at, pg_current_xact_id() AS xid),
	counted AS MATERIALIZED (SELECT until FROM outbox_counted FOR UPDATE SKIP LOCKED),
	locks AS MATERIALIZED (
		SELECT virtualtransaction AS tx, transactionid AS xid, relation IS NOT NULL AS writes FROM pg_locks
		 WHERE granted AND (locktype = 'transactionid' OR locktype = 'relation' AND mode = 'RowExclusiveLock' AND relation = 'outbox'::regclass
		       AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))),
	fence AS MATERIALIZED (
		SELECT at, until, coalesce(at < $2::timestamptz OR $1::text::xid8 > pg_snapshot_xmax(snapshot), false) OR until > at AS back,
		       $1::text IS NOT NULL AND NOT EXISTS (
		           SELECT FROM pg_snapshot_xip(snapshot) AS running (xid)
		            WHERE running.xid < $1::text::xid8 AND NOT EXISTS (
		                SELECT FROM locks WHERE locks.xid = running.xid::xid AND NOT EXISTS (SELECT FROM locks w WHERE w.tx = locks.tx AND w.writes))) AS passed
		  FROM seen, counted),
	span AS MATERIALIZED (
		SELECT at, back, passed, begins, CASE WHEN passed AND NOT back THEN greatest(begins, least(date_trunc('minute', $2::timestamptz - $5::interval), begins + $3::interval)) ELSE begins END AS ends
		  FROM (SELECT *, CASE WHEN back THEN least(until, date_trunc('minute', at) - interval '2 minutes') ELSE greatest(until, date_trunc('minute', at - $4::interval)) END AS begins
		          FROM fence) AS f),
	gone AS (
		DELETE FROM outbox_minutes USING span WHERE minute < at - $4::interval OR minute >= begins),
	settled AS MATERIALIZED (
		SELECT date_trunc('minute', settled_at) AS minute, left(source, 200) AS source, state, count(*) AS n,
		       sum(count(*)) OVER (PARTITION BY date_trunc('minute', settled_at), left(source, 200)) AS of_source
		  FROM (SELECT settled_at, source, state FROM outbox
		         WHERE published_at IS NOT NULL AND settled_at >= (SELECT begins FROM span) AND settled_at < (SELECT ends FROM span)
		        UNION ALL
		        SELECT settled_at, source, state FROM outbox
		         WHERE settled_at IS NOT NULL AND published_at IS NULL AND settled_at >= (SELECT begins FROM span) AND settled_at < (SELECT ends FROM span)) AS o
		 GROUP BY 1, 2, 3),
	ranked AS (
		SELECT minute, source, state, n, dense_rank() OVER (PARTITION BY minute ORDER BY of_source DESC, source) AS place FROM settled),
	written AS (
		INSERT INTO outbox_minutes (minute, source, outcome, n)
		SELECT minute, CASE WHEN place <= $6::integer THEN source ELSE '' END, state, sum(n) FROM ranked GROUP BY 1, 2, 3),
	moved AS (
		UPDATE outbox_counted c SET until = ends FROM span WHERE c.until <> ends)
	SELECT seen.xid::text, seen.at, coalesce(NOT passed AND NOT back, false), coalesce(passed AND ends = begins + $3::interval, false)
	  FROM seen LEFT JOIN span ON true`
