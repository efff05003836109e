package operator

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"flexworker/internal/database"
	"flexworker/internal/outbox/results"
)

// Backlog is how many requests stand in one state that is not finished.
type Backlog struct {
	State    string // a State, or "unpublished"
	Requests int64
	Oldest   time.Duration // age of the oldest, of one not sent yet since it was due; 0: none
	// ForPerson is how many of them wait for a person. Only uncertain ones do.
	ForPerson int64
}

// Backlog counts unfinished requests: a row for each such state, also where no request stands in it. It reads the
// loops' partial indexes, and a row only where the row was written since the last vacuum or waits for a person. Its time is proportional
// to the backlog, 0.1 s for half a million: call it now and then, not at each scrape.
func (desk *Desk) Backlog(ctx context.Context) ([]Backlog, error) {
	if err := desk.MayLook(); err != nil {
		return nil, err
	}
	ctx, cancel := database.Bounded(ctx)
	defer cancel()
	rows, err := desk.reads.Query(ctx, backlogSQL)
	if err != nil {
		return nil, unread("backlog", err)
	}
	backlog, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Backlog])
	return backlog, unread("backlog", err)
}

// backlogSQL does not read the view outbox_backlog, which groups by source: a source stands in the row alone, and
// half a million rows took 3.5 s. The oldest request is therefore the one with the lowest id, which may be younger
// than another by the length of one statement. Of the requests that were never sent it is the one longest due, since
// a request for next year is not late. Each min stands beside a count: a min alone would be searched in the primary
// key, past every settled row.
const backlogSQL = `
	WITH part AS MATERIALIZED (
		SELECT 'pending' AS state, count(*) AS n, NULL::bigint AS first, min(due_at) AS since, 0 AS person FROM outbox WHERE state = 'pending' AND attempt = 0
		UNION ALL
		SELECT 'pending', count(*), min(id), NULL, 0 FROM outbox WHERE state = 'pending' AND attempt > 0
		UNION ALL
		SELECT 'sending', count(*), min(id), NULL, 0 FROM outbox WHERE state = 'sending'
		UNION ALL
		SELECT 'uncertain', count(*), min(id), NULL, (SELECT count(*) FROM outbox WHERE state = 'uncertain' AND ` + results.ForPerson + `)
		  FROM outbox WHERE state = 'uncertain'
		UNION ALL
		SELECT 'unpublished', count(*), NULL, min(settled_at), 0 FROM outbox WHERE settled_at IS NOT NULL AND published_at IS NULL)
	SELECT part.state, sum(n)::bigint, greatest(clock_timestamp() - min(coalesce(since, o.received_at)), '0'), sum(person)::bigint
	  FROM part LEFT JOIN outbox o ON o.id = part.first GROUP BY part.state`
