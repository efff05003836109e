package database

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Patiently is an expression that makes what follows in its transaction wait for patience.
const Patiently = `set_config('lock_timeout', '` + Patience + `', true)`

// LockSIDs and TryLockSIDs are statements that lock the sids $1 of interactions for their transaction, each against all
// others of the same outbox who lock the same sid. A read committed transaction that asks about a sid in its next
// statement sees what those who had it locked before have committed. LockSIDs waits, and locks in one order, so that two
// who lock several do not wait for each other. TryLockSIDs does not wait, and gives the sids that others hold.
const (
	LockSIDs = `SELECT pg_advisory_xact_lock('outbox'::regclass::oid::integer, key)
		  FROM (SELECT DISTINCT hashtext(sid COLLATE "C") AS key FROM unnest($1::text[]) AS sid ORDER BY key) AS sids`
	TryLockSIDs = `SELECT sid FROM unnest($1::text[]) AS sid WHERE NOT pg_try_advisory_xact_lock('outbox'::regclass::oid::integer, hashtext(sid COLLATE "C"))`
)

// ErrLocked is for one request, message or outcome whose row another transaction holds locked. Nothing of it was stored.
var ErrLocked = errors.New("outbox: another transaction holds the row locked")

// IsLockTrouble says whether a statement has waited too long, by its lock_timeout or by its statement_timeout.
func IsLockTrouble(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && (pg.Code == "55P03" || pg.Code == "57014")
}

// WaitedForLock says whether a statement has waited for a lock for as long as its lock_timeout lets it.
func WaitedForLock(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == "55P03"
}

// RowsLocked says whether err, of a statement that wrote rows of these tables, means that another
// transaction holds some of the rows, and not a table or an index as a whole.
func RowsLocked(ctx context.Context, pool *pgxpool.Pool, err error, tables ...string) bool {
	if !IsLockTrouble(err) {
		return false
	}
	held, err := TablesLocked(ctx, pool)
	return err == nil && !slices.ContainsFunc(held, func(table string) bool { return slices.Contains(tables, table) })
}

// TablesLocked are those of our tables that another transaction holds as a whole, or with an index, or waits
// for: nobody else can write them. It waits for no lock itself, and for Postgres no longer than a statement may last.
func TablesLocked(ctx context.Context, pool *pgxpool.Pool) ([]string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, WriteLimit, errWriteLimit)
	defer cancel()
	rows, err := pool.Query(ctx, `
		SELECT DISTINCT c.relname::text
		  FROM pg_locks l
		  LEFT JOIN pg_index i ON i.indexrelid = l.relation
		  JOIN pg_class c ON c.oid = coalesce(i.indrelid, l.relation)
		 WHERE l.locktype = 'relation' AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
		   AND l.mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
		   AND c.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = to_regclass('outbox')) AND starts_with(c.relname, 'outbox')`)
	if err != nil {
		return nil, Wrap("locked tables", err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return tables, Wrap("locked tables", err)
}

// LittleLeft says whether less than half of WriteLimit is left until ctx ends. Who looks for locked rows one by one stops
// then: each takes NoPatience, and a write that runs into its limit would tell nothing of any row.
func LittleLeft(ctx context.Context) bool {
	until, ok := ctx.Deadline()
	return ok && time.Until(until) < WriteLimit/2
}

// Wary remembers that one kind of write has met a locked row. The zero value has met none.
type Wary struct{ until atomic.Int64 } // in unix nanoseconds

// Met notes a locked row.
func (w *Wary) Met() { w.until.Store(time.Now().Add(warySpan).UnixNano()) }

// Now says whether a locked row was met lately.
func (w *Wary) Now() bool { return time.Now().UnixNano() < w.until.Load() }

// LockFree locks those of the rows of a table that nobody else holds, in the order of ids, and says
// which others hold. A row that is not there counts as neither.
func LockFree(ctx context.Context, tx pgx.Tx, table string, ids []int64) (held map[int64]bool, err error) {
	there, err := IDs(ctx, tx, `SELECT id FROM `+table+` WHERE id = ANY ($1) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED`, ids)
	if err != nil || len(there) == len(ids) {
		return nil, err
	}
	rest := slices.DeleteFunc(slices.Clone(ids), func(id int64) bool { _, ok := slices.BinarySearch(there, id); return ok })
	if rest, err = IDs(ctx, tx, `SELECT id FROM `+table+` WHERE id = ANY ($1)`, rest); err != nil {
		return nil, err
	}
	held = make(map[int64]bool, len(rest))
	for _, id := range rest {
		held[id] = true
	}
	return held, nil
}

// IDs are the ids that a statement gives for the parameter ids.
func IDs(ctx context.Context, tx pgx.Tx, sql string, ids []int64) ([]int64, error) {
	rows, err := tx.Query(ctx, sql, ids)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[int64])
}

const (
	// Patience is how long a write of many waits for one row. Where our own statements meet, as
	// when a message comes to two replicas, they wait for one commit.
	Patience = "500ms"
	// NoPatience is the same of one that is carried out again: who is waited for by then is slow.
	NoPatience = "50ms"
	// warySpan is for how long a kind of write looks for locked rows first, after it met one.
	warySpan = 10 * time.Second
)
