package lookup

import (
	"context"

	"github.com/jackc/pgx/v5"

	"flexworker/internal/database"
)

// A json column takes text that no operator can read, such as one with \u0000 in it. The check keeps
// such out of outbox.request; what somebody writes by hand it does not see. A statement that reads
// many requests fails for all of them then.

// skipUnreadable gives up on reading the uncertain requests of which Postgres cannot: they are looked
// up as requests that name no workspace, and UNCERTAIN_POLICY decides. It returns their ids.
func (s *Requests) skipUnreadable(ctx context.Context) ([]string, error) {
	ctx, cancel := database.Bounded(ctx)
	defer cancel()
	rows, err := s.Pool.Query(ctx, `SELECT id FROM outbox WHERE state = 'uncertain' AND due_at <= now() AND lookup_attribute IS NOT NULL`)
	if err != nil {
		return nil, database.Wrap("read uncertain", err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return nil, database.Wrap("read uncertain", err)
	}
	bad, err := s.unreadable(ctx, ids)
	if err != nil || len(bad) == 0 {
		return nil, database.Wrap("read uncertain", err)
	}
	rows, err = s.Pool.Query(ctx, `
		UPDATE outbox SET lookup_attribute = NULL WHERE id = ANY ($1) AND state = 'uncertain' RETURNING request_id`, bad)
	if err != nil {
		return nil, database.Wrap("skip unreadable", err)
	}
	skipped, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return skipped, database.Wrap("skip unreadable", err)
}

// unreadable halves the requests until those stand alone that cannot be read.
func (s *Requests) unreadable(ctx context.Context, ids []int64) ([]int64, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	_, err := s.Pool.Exec(ctx, `SELECT count(`+WorkspaceOf+`) FROM outbox WHERE id = ANY ($1)`, ids)
	switch {
	case err == nil:
		return nil, nil
	case !database.IsDataError(err):
		return nil, err
	case len(ids) == 1:
		return ids, nil
	}
	some, err := s.unreadable(ctx, ids[:len(ids)/2])
	if err != nil {
		return nil, err
	}
	others, err := s.unreadable(ctx, ids[len(ids)/2:])
	return append(some, others...), err
}
