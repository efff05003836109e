package upkeep

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"flexworker/internal/database"
	"flexworker/internal/loop"
)

const (
	// pruneEvery is the time between two looks for what is old.
	pruneEvery = time.Minute
	// PruneBatch is how many rows one transaction removes: some 20 ms of work, so
	// that nobody waits long for the locks and the disk.
	PruneBatch = 1000
	// PruneLock is a statement that tries the advisory lock of the replica that prunes, for its transaction. Each fleet
	// of a database has its own: the tables are in a schema each.
	PruneLock = `SELECT pg_try_advisory_xact_lock('outbox'::regclass::oid::bigint)`
)

// Prune removes what is old until ctx ends, one replica of the fleet at a time. After each full batch Prune rests for as
// long as the batch took, so that claims get their half. Prune begins with a rest; why, the package comment says.
func (u *Upkeep) Prune(ctx context.Context) {
	for {
		loop.Rest(ctx, loop.Jittered(pruneEvery), nil)
		if ctx.Err() != nil {
			return
		}
		if gone := u.PruneAll(ctx); gone > 0 {
			u.Log.Info("pruned", "requests", gone)
		}
	}
}

// PruneAll removes all that is old now, and says how many requests went. Idempotency keys say themselves when they are old;
// all else stays where Retention is 0.
func (u *Upkeep) PruneAll(ctx context.Context) (gone int) {
	u.batches(ctx, func(ctx context.Context) (int, bool, error) {
		n, err := u.pruneKeys(ctx)
		return n, n == PruneBatch, err
	})
	if u.Retention == 0 {
		return 0
	}
	var from Cursor
	gone = u.batches(ctx, func(ctx context.Context) (int, bool, error) {
		n, more, err := u.PruneFrom(ctx, &from)
		u.Counters.Pruned.Add(int64(n))
		return n, more, err
	})
	u.batches(ctx, func(ctx context.Context) (int, bool, error) {
		n, err := u.PruneMalformed(ctx)
		return n, n == PruneBatch, err
	})
	return gone
}

// batches removes until there is no more, and says how many rows went.
func (u *Upkeep) batches(ctx context.Context, remove func(context.Context) (n int, more bool, err error)) (gone int) {
	for more := true; more && ctx.Err() == nil; {
		begun := time.Now()
		var n int
		var err error
		n, more, err = remove(ctx)
		u.removing.Tell(u.Log, "what is old cannot be removed; trying again", err)
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

// A Cursor is how far one PruneAll has looked, in the order in which requests settled.
// What has to stay is looked at once a turn: at the front it would be read again for
// each batch, and past a number no batch would come to its end.
type Cursor struct {
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
// for no new request. What was decided about conflicts and malformed messages is kept in outbox_malformed. A request also stays
// while the word about its set-up is unpublished. A request that has no such word by then gets none: CONFIRM was turned off long ago.
const removable = `published_at IS NOT NULL AND settled_at < now() - $1::interval AND stream_time < now() - $1::interval
	AND NOT EXISTS (SELECT FROM outbox_repeats r WHERE r.outbox_id = outbox.id AND (r.published_at IS NULL OR r.stream_time >= now() - $1::interval))
	AND NOT EXISTS (SELECT FROM outbox_setups s WHERE s.id = outbox.id AND s.word IS NOT NULL AND s.published_at IS NULL)`

// PruneFrom looks at the next batch of requests that were settled and published longer
// ago than Retention, the oldest first, and removes those that may go, with their
// history, repeats and set-up. more: there are others behind them.
//
// The rows are locked first and looked at again then: a repeat that was stored
// meanwhile keeps its request. The clock is now(), which an index can be searched by:
// with clock_timestamp() each look read all that is kept.
func (u *Upkeep) PruneFrom(ctx context.Context, from *Cursor) (gone int, more bool, err error) {
	gone, err = u.pruning(ctx, func(ctx context.Context, tx pgx.Tx) (pgconn.CommandTag, error) {
		rows, err := tx.Query(ctx, oldSQL, u.Retention, from.settledAt, from.id, PruneBatch)
		if err != nil {
			return pgconn.CommandTag{}, err
		}
		next, seen := *from, make([]int64, 0, PruneBatch)
		_, err = pgx.ForEachRow(rows, []any{&next.id, &next.settledAt}, func() error {
			seen = append(seen, next.id)
			return nil
		})
		if err != nil {
			return pgconn.CommandTag{}, err
		}
		rows, err = tx.Query(ctx, `SELECT id FROM outbox WHERE id = ANY ($2) AND `+removable+` ORDER BY id FOR UPDATE SKIP LOCKED`, u.Retention, seen)
		if err != nil {
			return pgconn.CommandTag{}, err
		}
		locked, err := pgx.CollectRows(rows, pgx.RowTo[int64])
		if err != nil {
			return pgconn.CommandTag{}, err
		}
		*from, more = next, len(seen) == PruneBatch
		return tx.Exec(ctx, `/* prune */
			WITH old AS MATERIALIZED (SELECT id FROM outbox WHERE id = ANY ($2) AND `+removable+`),
			history AS (DELETE FROM outbox_attempts USING old WHERE outbox_id = old.id),
			repeats AS (DELETE FROM outbox_repeats USING old WHERE outbox_id = old.id),
			setups AS (DELETE FROM outbox_setups s USING old WHERE s.id = old.id)
			DELETE FROM outbox USING old WHERE outbox.id = old.id`, u.Retention, locked)
	})
	if database.RowsLocked(ctx, u.pool, err, "outbox", "outbox_attempts", "outbox_repeats", "outbox_setups") {
		return 0, more, nil // a history's row: the next turn has another look, this one goes on behind the batch
	}
	return gone, more, err
}

// PruneMalformed removes a batch of the malformed messages and conflicts that were
// answered, and came, longer ago than Retention, the oldest first.
func (u *Upkeep) PruneMalformed(ctx context.Context) (int, error) {
	return u.pruning(ctx, func(ctx context.Context, tx pgx.Tx) (pgconn.CommandTag, error) {
		return tx.Exec(ctx, `/* prune malformed */
			DELETE FROM outbox_malformed WHERE id = ANY (ARRAY(
				SELECT id FROM outbox_malformed WHERE published_at < now() - $1::interval AND stream_time < now() - $1::interval
				 ORDER BY published_at LIMIT $2 FOR UPDATE SKIP LOCKED))`, u.Retention, PruneBatch)
	})
}

// pruneKeys removes a batch of the idempotency keys that count no longer.
func (u *Upkeep) pruneKeys(ctx context.Context) (int, error) {
	return u.pruning(ctx, func(ctx context.Context, tx pgx.Tx) (pgconn.CommandTag, error) {
		return tx.Exec(ctx, `/* prune keys */
			DELETE FROM outbox_idempotency_keys WHERE key = ANY (ARRAY(
				SELECT key FROM outbox_idempotency_keys WHERE kept_until < now() ORDER BY kept_until LIMIT $1 FOR UPDATE SKIP LOCKED))`, PruneBatch)
	})
}

// pruning removes a batch, or nothing while another replica does.
func (u *Upkeep) pruning(ctx context.Context, remove func(context.Context, pgx.Tx) (pgconn.CommandTag, error)) (n int, err error) {
	ctx, cancel := database.Bounded(ctx)
	defer cancel()
	err = pgx.BeginFunc(ctx, u.pool, func(tx pgx.Tx) error {
		var mine bool
		if err := tx.QueryRow(ctx, PruneLock).Scan(&mine); err != nil || !mine {
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
