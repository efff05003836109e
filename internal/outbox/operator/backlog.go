package operator

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"flexworker/internal/database"
)

// Backlog is how many requests stand in one state that is not finished.
type Backlog struct {
	State    string // a State, or "unpublished"
	Requests int64
	Oldest   time.Duration // age of the oldest, of one not sent yet since it was due; 0: none
}

// Backlog counts what is not finished, a row for each such state, also where
// there is none. It reads the loops' partial indexes, and rows only where they were
// written since the last vacuum, in time proportional to the backlog (half a million:
// 0.1 s): count now and then, not at each question.
func (desk *Desk) Backlog(ctx context.Context) ([]Backlog, error) {
	ctx, cancel := database.Bounded(ctx)
	defer cancel()
	rows, err := desk.pool.Query(ctx, backlogSQL)
	if err != nil {
		return nil, database.Wrap("backlog", err)
	}
	backlog, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Backlog])
	return backlog, database.Wrap("backlog", err)
}

// backlogSQL does not ask outbox_backlog, which has the sources: those stand in the
// rows, and half a million of them took 3.5 s to read. So the oldest is the one with
// the lowest id, which came a statement's length after it at most; of what was never
// sent, the longest due: a request for next year is not late. Each min stands
// beside a count: alone it would be looked for in the key, past all that is settled.
const backlogSQL = `
	WITH part AS MATERIALIZED (
		SELECT 'pending' AS state, count(*) AS n, NULL::bigint AS first, min(due_at) AS since FROM outbox WHERE state = 'pending' AND attempt = 0
		UNION ALL
		SELECT 'pending', count(*), min(id), NULL FROM outbox WHERE state = 'pending' AND attempt > 0
		UNION ALL
		SELECT 'sending', count(*), min(id), NULL FROM outbox WHERE state = 'sending'
		UNION ALL
		SELECT 'uncertain', count(*), min(id), NULL FROM outbox WHERE state = 'uncertain'
		UNION ALL
		SELECT 'unpublished', count(*), NULL, min(settled_at) FROM outbox WHERE settled_at IS NOT NULL AND published_at IS NULL)
	SELECT part.state, sum(n)::bigint, greatest(clock_timestamp() - min(coalesce(since, o.received_at)), '0')
	  FROM part LEFT JOIN outbox o ON o.id = part.first GROUP BY part.state`
