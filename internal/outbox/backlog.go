package outbox

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// Backlog is how many requests stand in one state that is not finished.
type Backlog struct {
	State    string // a State, or "unpublished"
	Requests int64
	Oldest   time.Duration // age of the oldest; 0: none
}

// Backlog counts what is not finished, a row for each such state, also where
// there is none. It reads the loops' partial indexes, in time proportional to
// the backlog: count now and then, not at each question.
func (s *Store) Backlog(ctx context.Context) ([]Backlog, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	rows, err := s.pool.Query(ctx, `
		SELECT s.state, coalesce(sum(b.requests), 0)::bigint, coalesce(max(b.oldest), '0')
		  FROM (VALUES ('pending'), ('sending'), ('uncertain'), ('unpublished')) AS s (state)
		  LEFT JOIN outbox_backlog b USING (state) GROUP BY s.state`)
	if err != nil {
		return nil, wrap("backlog", err)
	}
	backlog, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Backlog])
	return backlog, wrap("backlog", err)
}
