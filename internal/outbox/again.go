package outbox

import (
	"cmp"
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"flexworker/internal/database"
	"flexworker/internal/outbox/results"
)

// recordAgain is record after a try that failed: that one may be committed all the
// same, and stands once then. (One that the server begins only after this stands
// beside it, as an attempt that came too late: it moves nothing that was settled.) What it settled is a stray.
func (s *Store) recordAgain(ctx context.Context, r record) (*results.Settled, error) {
	applied, err := s.recordMade(ctx, r)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return s.record(ctx, r)
	case err == nil && !applied:
		return nil, ErrLeaseLost
	default:
		return nil, database.Wrap("record again", err)
	}
}

// hasInteraction says whether a request has settled as created with this sid.
func (s *Store) hasInteraction(ctx context.Context, id int64, sid string) (has bool, err error) {
	ctx, cancel := database.Bounded(ctx)
	defer cancel()
	err = s.pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM outbox WHERE id = $1 AND interaction_sid = $2)`, id, sid).Scan(&has)
	return has, database.Wrap("read interaction", err)
}

// recordMade asks the history whether this process has recorded this outcome of
// this lease, which it does once, and whether it was applied; ErrNoRows when it has
// not. The request's row is locked before the history is read, in a statement of
// its own: so a commit that is still on its way, on a connection that was cut, is
// waited for and seen.
func (s *Store) recordMade(ctx context.Context, r record) (applied bool, err error) {
	ctx, cancel := database.Bounded(ctx)
	defer cancel()
	var b pgx.Batch
	b.Queue(`SELECT ` + database.Patiently)
	b.Queue(`SELECT FROM outbox WHERE id = $1 FOR NO KEY UPDATE`, r.lease.ID)
	b.Queue(`/* record again */
		SELECT applied FROM outbox_attempts
		 WHERE outbox_id = $1 AND kind = 'attempt' AND number = $2 AND worker = $3 AND outcome = $4 LIMIT 1`,
		r.lease.ID, r.lease.Attempt, s.worker, r.outcome)
	sent := s.pool.SendBatch(ctx, &b)
	if _, err = sent.Exec(); err == nil {
		_, err = sent.Exec()
	}
	if err == nil {
		err = sent.QueryRow().Scan(&applied)
	}
	return applied, cmp.Or(err, sent.Close())
}
