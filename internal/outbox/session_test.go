package outbox

import (
	"context"
	"testing"
)

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
