package outbox

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"flexworker/internal/database"
	"flexworker/internal/testing/pgtest"
)

// TestConnectWithoutTables: without tables, as before the first migration, a connection is good all the same.
func TestConnectWithoutTables(t *testing.T) {
	config, err := pgxpool.ParseConfig(pgtest.NewDSN(t))
	if err != nil {
		t.Fatal(err)
	}
	database.ForLoops(config)
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
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
