package outbox

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Anybody may hold a row of ours locked for as long as they like: a person in psql who went to
// lunch, a report with FOR UPDATE. That is this row's own trouble. A statement that writes many rows
// waits for such a row for patience and no longer, and is then carried out anew without it (the
// functions apart below); whose row it is hears ErrLocked, and tries again, apart from the others.
// For as long as warySpan the others' statements do not wait for locked rows at all.
//
// A table that is locked as a whole, as by a migration, is no row's trouble: it is as if Postgres
// were away.

// ErrLocked is returned for one request, message or outcome whose row another transaction holds
// locked. Nothing of it was stored. Try it again later; the others go on.
var ErrLocked = errors.New("outbox: another transaction holds the row locked")

const (
	// patience is how long a write of many waits for one row. Where our own statements meet, as
	// when a message comes to two replicas, they wait for one commit.
	patience = "500ms"
	// noPatience is the same of one that is carried out again: who is waited for by then is slow.
	noPatience = "50ms"
	// warySpan is for how long a kind of write looks for locked rows first, after it met one.
	warySpan = 10 * time.Second
)

// patiently is an expression that makes what follows in its transaction wait for patience.
const patiently = `set_config('lock_timeout', '` + patience + `', true)`

// isLockTrouble says whether a statement has waited too long, by its lock_timeout or by its statement_timeout.
func isLockTrouble(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && (pg.Code == "55P03" || pg.Code == "57014")
}

// waitedTooLong says whether a statement has waited for a lock for as long as its lock_timeout lets it.
func waitedTooLong(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == "55P03"
}

// rowsLocked says whether err, of a statement that wrote rows of ours, means that another
// transaction holds some of them, and not a table or an index of ours.
func (s *Store) rowsLocked(ctx context.Context, err error) bool {
	if !isLockTrouble(err) {
		return false
	}
	var whole bool
	err = s.pool.QueryRow(ctx, `
		SELECT EXISTS (
			SELECT FROM pg_locks l
			  LEFT JOIN pg_index i ON i.indexrelid = l.relation
			  JOIN pg_class c ON c.oid = coalesce(i.indrelid, l.relation)
			 WHERE l.locktype = 'relation' AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
			   AND l.mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
			   AND c.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = to_regclass('outbox')) AND starts_with(c.relname, 'outbox'))`).Scan(&whole)
	return err == nil && !whole
}

// wary remembers that one kind of write has met a locked row. The zero value has met none.
type wary struct{ until atomic.Int64 } // in unix nanoseconds

func (w *wary) met() { w.until.Store(time.Now().Add(warySpan).UnixNano()) }

func (w *wary) now() bool { return time.Now().UnixNano() < w.until.Load() }

// lockedIDs are the request ids whose rows were found locked, until their messages are stored
// or for lockedSpan: another process may store one that was given back.
type lockedIDs struct{ ids sync.Map } // time.Time by id

// lockedSpan is for how long an id is remembered after it was last found locked.
const lockedSpan = time.Minute

// note remembers an id, and forgets those that nobody came back for: what is noted is rare.
func (l *lockedIDs) note(id string, now time.Time) {
	l.ids.Range(func(other, at any) bool {
		if now.Sub(at.(time.Time)) > lockedSpan {
			l.ids.Delete(other)
		}
		return true
	})
	l.ids.Store(id, now)
}

func (l *lockedIDs) forget(id string)   { l.ids.Delete(id) }
func (l *lockedIDs) has(id string) bool { _, ok := l.ids.Load(id); return ok }

// free locks those of the rows of a table that nobody else holds, in the order of ids, and says
// which others hold. A row that is not there counts as neither.
func free(ctx context.Context, tx pgx.Tx, table string, ids []int64) (held map[int64]bool, err error) {
	there, err := idsOf(ctx, tx, `SELECT id FROM `+table+` WHERE id = ANY ($1) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED`, ids)
	if err != nil || len(there) == len(ids) {
		return nil, err
	}
	rest := slices.DeleteFunc(slices.Clone(ids), func(id int64) bool { _, ok := slices.BinarySearch(there, id); return ok })
	if rest, err = idsOf(ctx, tx, `SELECT id FROM `+table+` WHERE id = ANY ($1)`, rest); err != nil {
		return nil, err
	}
	held = make(map[int64]bool, len(rest))
	for _, id := range rest {
		held[id] = true
	}
	return held, nil
}

func idsOf(ctx context.Context, tx pgx.Tx, sql string, ids []int64) ([]int64, error) {
	rows, err := tx.Query(ctx, sql, ids)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[int64])
}
