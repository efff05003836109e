package outbox

import (
	"context"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"flexworker/internal/database"
	"flexworker/internal/loop"
	"flexworker/internal/trouble"
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

	removing trouble.Trouble
}

// Run prunes until ctx ends.
func (p *Pruner) Run(ctx context.Context) {
	for p.Retention > 0 && ctx.Err() == nil {
		if gone := p.turn(ctx); gone > 0 {
			p.Log.Info("pruned", "requests", gone)
		}
		loop.Rest(ctx, loop.Jittered(pruneEvery), nil)
	}
}

// turn removes what is old, and says how many requests went.
func (p *Pruner) turn(ctx context.Context) (gone int) {
	var from pruneCursor
	gone = p.batches(ctx, func(ctx context.Context) (int, bool, error) {
		n, more, err := p.Store.pruneFrom(ctx, p.Retention, &from)
		p.Counters.Pruned.Add(int64(n))
		return n, more, err
	})
	p.batches(ctx, func(ctx context.Context) (int, bool, error) {
		n, err := p.Store.pruneMalformed(ctx, p.Retention)
		return n, n == pruneBatch, err
	})
	return gone
}

// batches removes until there is no more, and says how many rows went.
func (p *Pruner) batches(ctx context.Context, remove func(context.Context) (n int, more bool, err error)) (gone int) {
	for more := true; more && ctx.Err() == nil; {
		begun := time.Now()
		var n int
		var err error
		n, more, err = remove(ctx)
		p.removing.Tell(p.Log, "what is old cannot be removed; trying again", err)
		if err != nil {
			return gone
		}
		gone += n
		if more {
			loop.Rest(ctx, time.Since(begun), nil)
		}
	}
	return gone
}

// A pruneCursor is how far a turn has looked, in the order in which requests settled.
// What has to stay is looked at once a turn: at the front it would be read again for
// each batch, and past a number no batch would come to its end.
type pruneCursor struct {
	settledAt time.Time
	id        int64
}

// oldSQL reads what settled long ago, behind a cursor.
const oldSQL = `
	SELECT id, settled_at FROM outbox
	 WHERE published_at IS NOT NULL AND settled_at < now() - $1::interval AND (settled_at, id) > ($2, $3)
	 ORDER BY settled_at, id LIMIT $4`

// removable is the condition on a row of outbox by which it may go. The request stays while
// a message of its own may be replayed: what was decided about a message outlives the
// request, until the message itself is older than the retention, and then Add takes it
// for no new request. Of conflicts and malformed messages that is kept in their own table.
const removable = `published_at IS NOT NULL AND settled_at < now() - $1::interval AND stream_time < now() - $1::interval
	AND NOT EXISTS (SELECT FROM outbox_repeats r WHERE r.outbox_id = outbox.id AND (r.published_at IS NULL OR r.stream_time >= now() - $1::interval))`

// pruneFrom looks at the next batch of requests that were settled and published longer
// ago than retention, the oldest first, and removes those that may go, with their
// history and repeats. more: there are others behind them.
//
// The rows are locked first and looked at again then: a repeat that was stored
// meanwhile keeps its request. The clock is now(), which an index can be searched by:
// with clock_timestamp() each look read all that is kept.
func (s *Store) pruneFrom(ctx context.Context, retention time.Duration, from *pruneCursor) (gone int, more bool, err error) {
	gone, err = s.pruning(ctx, func(ctx context.Context, tx pgx.Tx) (pgconn.CommandTag, error) {
		rows, err := tx.Query(ctx, oldSQL, retention, from.settledAt, from.id, pruneBatch)
		if err != nil {
			return pgconn.CommandTag{}, err
		}
		next, seen := *from, make([]int64, 0, pruneBatch)
		_, err = pgx.ForEachRow(rows, []any{&next.id, &next.settledAt}, func() error {
			seen = append(seen, next.id)
			return nil
		})
		if err != nil {
			return pgconn.CommandTag{}, err
		}
		rows, err = tx.Query(ctx, `SELECT id FROM outbox WHERE id = ANY ($2) AND `+removable+` ORDER BY id FOR UPDATE SKIP LOCKED`, retention, seen)
		if err != nil {
			return pgconn.CommandTag{}, err
		}
		locked, err := pgx.CollectRows(rows, pgx.RowTo[int64])
		if err != nil {
			return pgconn.CommandTag{}, err
		}
		*from, more = next, len(seen) == pruneBatch
		return tx.Exec(ctx, `/* prune */
			WITH old AS MATERIALIZED (SELECT id FROM outbox WHERE id = ANY ($2) AND `+removable+`),
			history AS (DELETE FROM outbox_attempts USING old WHERE outbox_id = old.id),
			repeats AS (DELETE FROM outbox_repeats USING old WHERE outbox_id = old.id)
			DELETE FROM outbox USING old WHERE outbox.id = old.id`, retention, locked)
	})
	if database.RowsLocked(ctx, s.pool, err) {
		return 0, more, nil // a history's row: the next turn has another look, this one goes on behind the batch
	}
	return gone, more, err
}

// pruneMalformed removes a batch of the malformed messages and conflicts that were
// answered, and came, longer ago than retention, the oldest first.
func (s *Store) pruneMalformed(ctx context.Context, retention time.Duration) (int, error) {
	return s.pruning(ctx, func(ctx context.Context, tx pgx.Tx) (pgconn.CommandTag, error) {
		return tx.Exec(ctx, `/* prune malformed */
			DELETE FROM outbox_malformed WHERE id = ANY (ARRAY(
				SELECT id FROM outbox_malformed WHERE published_at < now() - $1::interval AND stream_time < now() - $1::interval
				 ORDER BY published_at LIMIT $2 FOR UPDATE SKIP LOCKED))`, retention, pruneBatch)
	})
}

// pruning removes a batch, or nothing while another replica does.
func (s *Store) pruning(ctx context.Context, remove func(context.Context, pgx.Tx) (pgconn.CommandTag, error)) (n int, err error) {
	ctx, cancel := database.Bounded(ctx)
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
		return 0, database.Wrap("prune", err) // also when it is the commit that failed
	}
	return n, nil
}
