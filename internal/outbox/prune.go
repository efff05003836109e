package outbox

import (
	"context"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const (
	// pruneEvery is the time between two looks for what is old.
	pruneEvery = time.Minute
	// pruneBatch is how many rows one transaction removes: some 20 ms of work, so
	// that nobody waits long for the locks and the disk.
	pruneBatch = 1000
	// pruneLock is the advisory lock of the replica that prunes.
	pruneLock = 0x666c6578
)

// Pruner removes what is old, one replica of the fleet at a time. After each full
// batch it rests for as long as the batch took, so that claims get their half.
type Pruner struct {
	Store     *Store
	Retention time.Duration // settled and published rows older than this are removed; 0: never
	Log       *slog.Logger
	Counters  *Counters
}

// Run prunes until ctx ends.
func (p *Pruner) Run(ctx context.Context) {
	for p.Retention > 0 && ctx.Err() == nil {
		if gone := p.turn(ctx); gone > 0 {
			p.Log.Info("pruned", "requests", gone)
		}
		wait(ctx, pruneEvery, nil)
	}
}

// turn removes what is old, and says how many requests went.
func (p *Pruner) turn(ctx context.Context) (gone int) {
	gone = p.batches(ctx, func(ctx context.Context) (int, error) {
		n, err := p.Store.prune(ctx, p.Retention)
		p.Counters.Pruned.Add(int64(n))
		return n, err
	})
	p.batches(ctx, func(ctx context.Context) (int, error) { return p.Store.pruneMalformed(ctx, p.Retention) })
	return gone
}

// batches removes until a batch is not full, and says how many rows went.
func (p *Pruner) batches(ctx context.Context, remove func(context.Context) (int, error)) (gone int) {
	for n := pruneBatch; n == pruneBatch && ctx.Err() == nil; {
		begun := time.Now()
		var err error
		if n, err = remove(ctx); err != nil {
			p.Log.Warn("what is old cannot be removed; trying again", "error", err)
			return gone
		}
		gone += n
		if n == pruneBatch {
			wait(ctx, time.Since(begun), nil)
		}
	}
	return gone
}

// oldSQL locks a batch of what may go.
const oldSQL = `
	SELECT id FROM outbox
	 WHERE published_at IS NOT NULL AND settled_at < now() - $1::interval
	   AND NOT EXISTS (SELECT FROM outbox_repeats r WHERE r.outbox_id = outbox.id AND r.published_at IS NULL)
	 ORDER BY settled_at, id LIMIT $2 FOR UPDATE SKIP LOCKED`

// prune removes a batch of requests that were settled and published longer ago
// than retention, the oldest first, with their history and repeats.
//
// The rows are locked first and looked at again then: a repeat that was stored
// meanwhile keeps its request until it is answered. The clock is now(), which an
// index can be searched by: with clock_timestamp() each look read all that is kept.
func (s *Store) prune(ctx context.Context, retention time.Duration) (int, error) {
	return s.pruning(ctx, func(ctx context.Context, tx pgx.Tx) (pgconn.CommandTag, error) {
		rows, err := tx.Query(ctx, oldSQL, retention, pruneBatch)
		if err != nil {
			return pgconn.CommandTag{}, err
		}
		ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
		if err != nil {
			return pgconn.CommandTag{}, err
		}
		return tx.Exec(ctx, `/* prune */
			WITH old AS MATERIALIZED (
				SELECT locked.id FROM unnest($1::bigint[]) AS locked (id)
				 WHERE NOT EXISTS (SELECT FROM outbox_repeats r WHERE r.outbox_id = locked.id AND r.published_at IS NULL)),
			history AS (DELETE FROM outbox_attempts USING old WHERE outbox_id = old.id),
			repeats AS (DELETE FROM outbox_repeats USING old WHERE outbox_id = old.id)
			DELETE FROM outbox USING old WHERE outbox.id = old.id`, ids)
	})
}

// pruneMalformed removes a batch of the malformed messages that were answered
// longer ago than retention, the oldest first.
func (s *Store) pruneMalformed(ctx context.Context, retention time.Duration) (int, error) {
	return s.pruning(ctx, func(ctx context.Context, tx pgx.Tx) (pgconn.CommandTag, error) {
		return tx.Exec(ctx, `/* prune malformed */
			DELETE FROM outbox_malformed WHERE id = ANY (ARRAY(
				SELECT id FROM outbox_malformed WHERE published_at < now() - $1::interval ORDER BY published_at LIMIT $2))`, retention, pruneBatch)
	})
}

// pruning removes a batch, or nothing while another replica does.
func (s *Store) pruning(ctx context.Context, remove func(context.Context, pgx.Tx) (pgconn.CommandTag, error)) (n int, err error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		var mine bool
		if err := tx.QueryRow(ctx, `SELECT pg_try_advisory_xact_lock($1)`, pruneLock).Scan(&mine); err != nil || !mine {
			return err
		}
		gone, err := remove(ctx, tx)
		n = int(gone.RowsAffected())
		return err
	})
	if err != nil {
		return 0, wrap("prune", err) // also when it is the commit that failed
	}
	return n, nil
}
