package database

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Holder is a session that holds locks on our tables for longer than ours do.
type Holder struct {
	PID         int32      `json:"pid"` // of its process in Postgres; 0: a prepared transaction, see pg_prepared_xacts
	Application string     `json:"application_name"`
	User        string     `json:"user"`
	Since       *time.Time `json:"since"`  // its transaction began; null: this role may not see when
	Tables      []string   `json:"tables"` // on which it has locks
	Waiting     int64      `json:"waiting"`
	Query       string     `json:"query"` // the first words of its latest statement
}

// String names the session and what it holds, for a log line or an error.
func (h Holder) String() string {
	if h.PID == 0 {
		return "a prepared transaction (TABLE pg_prepared_xacts) holds " + strings.Join(h.Tables, ", ")
	}
	who := strings.Join(slices.DeleteFunc([]string{h.Application, h.User}, func(name string) bool { return name == "" }), ", user ")
	since := ""
	if h.Since != nil {
		since = " since " + h.Since.UTC().Format("2006-01-02 15:04:05 UTC")
	}
	return fmt.Sprintf("pid %d (%s) holds %s%s", h.PID, who, strings.Join(h.Tables, ", "), since)
}

// holdersMost is how many holders are named.
const holdersMost = 5

// Holders are the sessions that may keep ours waiting. Their transactions have held locks on our tables
// for longer than longer, and wait for nobody themselves. The session that most others wait for comes first.
//
// A lock on a row leaves no trace that another session could read without waiting for the lock. But a session
// that locks a row holds the table in a mode that few sessions hold for long. A session that only reads is named
// where another session waits for it, as ALTER TABLE does, since all others queue behind that one.
//
// The query waits for no lock of ours. What a role may not see of other roles' sessions, without
// pg_read_all_stats, is left out.
func Holders(ctx context.Context, pool *pgxpool.Pool, longer time.Duration) ([]Holder, error) {
	ctx, cancel := Bounded(ctx)
	defer cancel()
	rows, err := pool.Query(ctx, `
		WITH locks AS MATERIALIZED (
			SELECT coalesce(l.pid, 0) AS pid, c.relname::text, l.mode, l.granted
			  FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
			 WHERE l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND c.relkind = 'r'
			   AND c.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = to_regclass('outbox')) AND starts_with(c.relname, 'outbox')),
		waits AS MATERIALIZED (
			SELECT DISTINCT pid, pg_blocking_pids(pid) AS behind FROM pg_locks WHERE NOT granted AND pid IN (SELECT pid FROM locks)),
		suspects AS (
			SELECT pid FROM locks WHERE granted AND mode NOT IN ('AccessShareLock', 'ShareUpdateExclusiveLock')
			UNION SELECT unnest(behind) FROM waits)
		SELECT s.pid, coalesce(a.application_name, ''), coalesce(a.usename, ''), a.xact_start,
		       (SELECT coalesce(array_agg(DISTINCT relname ORDER BY relname), '{}') FROM locks WHERE locks.pid = s.pid AND granted),
		       (SELECT count(*) FROM waits WHERE s.pid = ANY (behind)) AS waiting, coalesce(left(regexp_replace(a.query, '\s+', ' ', 'g'), 80), '')
		  FROM suspects s LEFT JOIN pg_stat_activity a ON a.pid = s.pid
		 WHERE s.pid <> pg_backend_pid() AND s.pid NOT IN (SELECT pid FROM waits)
		   AND (a.xact_start IS NULL OR a.xact_start < clock_timestamp() - $1::interval)
		 ORDER BY waiting DESC, a.xact_start LIMIT $2`, longer, holdersMost)
	if err != nil {
		return nil, Wrap("holders", err)
	}
	holders, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Holder])
	return holders, Wrap("holders", err)
}

// WhoHolds names the sessions behind err, the failure of something that has waited so long: a session
// that kept it waiting had begun before. It is "" where err is no lock's trouble, and where no session can be named.
func WhoHolds(ctx context.Context, pool *pgxpool.Pool, waited time.Duration, err error) string {
	if !IsLockTrouble(err) {
		return ""
	}
	holders, err := Holders(ctx, pool, waited/2)
	if err != nil {
		return ""
	}
	return Named(holders)
}

// heldUp is the failure of something that has waited for a lock, with the sessions that hold it.
type heldUp struct {
	error
	by string
}

func (h heldUp) Unwrap() error  { return h.error }
func (h heldUp) HeldBy() string { return h.by }

// WithHolders is err, the failure of something that began then. Where that has waited for a lock in vain, HeldBy names
// the sessions behind it from now on, and so does a line of package trouble.
func WithHolders(ctx context.Context, pool *pgxpool.Pool, began time.Time, err error) error {
	if by := WhoHolds(ctx, pool, time.Since(began), err); by != "" {
		return heldUp{err, by}
	}
	return err
}

// HeldBy names the sessions that WithHolders has found behind err; "": none.
func HeldBy(err error) string {
	var h heldUp
	errors.As(err, &h)
	return h.by
}

// Named are holders in one text; "" for none.
func Named(holders []Holder) string {
	all := make([]string, len(holders))
	for i, h := range holders {
		all[i] = h.String()
	}
	return strings.Join(all, "; ")
}
