package outbox

import (
	"context"
	"testing"

	"flexworker/internal/database"
	"flexworker/internal/testing/pgtest"
)

// TestConnectWithoutTables: without tables, as before the first migration, a connection is good all the same.
func TestConnectWithoutTables(t *testing.T) {
	pool := pgtest.NewPool(t, func(context.Context, string) (int, error) { return 0, nil }, database.ForLoops)
	if err := pool.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestConnectBehindLock: who holds the requests locked, as a migration does for a moment, holds up no
// statement that does not need them.
func TestConnectBehindLock(t *testing.T) {
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
