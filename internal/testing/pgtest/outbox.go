package pgtest

import (
	"context"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Holding is a transaction that holds what sql locks until done.
func Holding(t testing.TB, pool *pgxpool.Pool, sql string, args ...any) (pid uint32, done func()) {
	t.Helper()
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	end := sync.OnceFunc(func() {
		if err := tx.Commit(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(end)
	if _, err := tx.Exec(t.Context(), sql, args...); err != nil {
		t.Fatal(err)
	}
	return tx.Conn().PgConn().PID(), end
}

// Unhurried sets up connections on which no wait for a lock ends by itself: what the worker says of its patience is not heard. It is for
// tests in which somebody waits until the test lets go, however long a busy machine takes for that.
func Unhurried(t testing.TB, pool *pgxpool.Pool) *pgxpool.Pool {
	t.Helper()
	Exec(t, pool, `CREATE FUNCTION public.set_config(name text, value text, is_local boolean) RETURNS text LANGUAGE sql AS
		$$ SELECT pg_catalog.set_config(name, CASE name WHEN 'lock_timeout' THEN '0' ELSE value END, is_local) $$`)
	config := pool.Config()
	config.ConnConfig.RuntimeParams["search_path"] = "public, pg_catalog"
	unhurried, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(unhurried.Close)
	return unhurried
}

// Histories are the outcomes of a request's attempts in order, with a ! for
// those that were not applied.
func Histories(t testing.TB, pool *pgxpool.Pool, requestID string) string {
	t.Helper()
	return One[string](t, pool, `
		SELECT coalesce(string_agg(a.number || ' ' || a.outcome || CASE WHEN applied THEN '' ELSE '!' END, ', ' ORDER BY a.id), '')
		  FROM outbox_attempts a JOIN outbox o ON o.id = a.outbox_id WHERE request_id = $1`, requestID)
}

// CheckOutbox checks what must be true at any time when no call is under way.
func CheckOutbox(t testing.TB, pool *pgxpool.Pool) {
	t.Helper()
	for why, sql := range map[string]string{
		"an attempt that is over has no history": `
			SELECT request_id FROM outbox o WHERE attempt - (state = 'sending')::int <>
			       (SELECT count(DISTINCT number) FROM outbox_attempts a WHERE a.outbox_id = o.id AND kind = 'attempt' AND applied)`,
		"uncounted is not what the history says": `
			SELECT request_id FROM outbox o WHERE uncounted <>
			       (SELECT count(*) FROM outbox_attempts a WHERE a.outbox_id = o.id AND applied AND outcome IN ('refused', 'blocked', 'released'))`,
		"created without an attempt that says so": `
			SELECT request_id FROM outbox o WHERE state = 'created' AND resolved_by = 'response' AND NOT EXISTS
			       (SELECT FROM outbox_attempts a WHERE a.outbox_id = o.id AND applied AND outcome = 'created')`,
		"history of nothing": `
			SELECT outbox_id::text FROM outbox_attempts WHERE outbox_id NOT IN (SELECT id FROM outbox)`,
	} {
		rows, err := pool.Query(t.Context(), sql)
		if err != nil {
			t.Fatal(err)
		}
		ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		if len(ids) > 0 {
			t.Errorf("%s: %s", why, strings.Join(ids, " "))
		}
	}
}
