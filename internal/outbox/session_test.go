package outbox

import (
	"context"
	"testing"

	"flexworker/internal/outbox/outboxtest"
)

// A connection that nobody has used yet knows the statements that every request
// needs, and nothing was written for it, whether a rate is set or not.
func TestWarm(t *testing.T) {
	s := newStore(t)
	ctx := t.Context()
	if err := s.SetRate(ctx, 5); err != nil {
		t.Fatal(err)
	}
	const state = `SELECT (SELECT count(*) FROM outbox), (SELECT count(*) FROM outbox_attempts), (SELECT xmin::text FROM outbox_gate)`
	var before, after struct {
		requests, attempts int
		gate               string
	}
	if err := s.pool.QueryRow(ctx, state).Scan(&before.requests, &before.attempts, &before.gate); err != nil {
		t.Fatal(err)
	}
	s.pool.Reset() // its connections are closed, and opened anew
	for _, name := range []string{"add", "record", "mark"} {
		var known bool
		if err := s.pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_prepared_statements WHERE starts_with(statement, '/* ' || $1 || ' */'))`, name).Scan(&known); err != nil {
			t.Fatal(err)
		}
		if !known {
			t.Errorf("a new connection does not know the statement %q", name)
		}
	}
	if err := s.pool.QueryRow(ctx, state).Scan(&after.requests, &after.attempts, &after.gate); err != nil {
		t.Fatal(err)
	}
	if before != after {
		t.Errorf("a new connection has changed %+v to %+v", before, after)
	}
}

// Without tables, as before the first migration, a connection is good all the same.
func TestWarmWithoutTables(t *testing.T) {
	pool := outboxtest.NewPool(t, func(context.Context, string) error { return nil }, Configure)
	if err := pool.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}

// Who holds the requests locked, as a migration does for a moment, holds up no
// statement that does not need them.
func TestWarmBehindLock(t *testing.T) {
	s := newStore(t)
	ctx := t.Context()
	tx, err := s.pool.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	if _, err := tx.Exec(ctx, "LOCK TABLE outbox"); err != nil {
		t.Fatal(err)
	}
	s.pool.Reset()
	if err := s.Ready(ctx); err != nil {
		t.Error(err)
	}
}
