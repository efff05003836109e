package main

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

// TestBacklogNotCounted: gauges that stand still say why in the log.
func TestBacklogNotCounted(t *testing.T) {
	t.Parallel()
	pool, err := pgxpool.New(t.Context(), "postgres://nobody@127.0.0.1:1/none")
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var said string
	log := slog.New(slog.NewTextHandler(writer(func(line []byte) (int, error) {
		said = string(line)
		cancel()
		return len(line), nil
	}), nil))
	(&app{log: log, pool: pool, state: newState()}).watchBacklog(ctx)
	if !strings.Contains(said, "the backlog cannot be counted") || !strings.Contains(said, "127.0.0.1:1") {
		t.Errorf("it said %q", said)
	}
}
