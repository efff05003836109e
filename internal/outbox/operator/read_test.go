package operator_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"flexworker/internal/database"
	"flexworker/internal/outbox/operator"
	"flexworker/internal/testing/pgtest"
)

// TestReadingFrom: questions go through their own pool, and acts through the other.
func TestReadingFrom(t *testing.T) {
	t.Parallel()
	s := newRig(t)
	mustAdd(t, s, "a", 1)
	reads, err := pgxpool.New(t.Context(), s.pool.Config().ConnString())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(reads.Close)
	desk := s.desk.ReadingFrom(reads)
	if page, err := desk.For(operator.Caller{Right: operator.MayLook}).Requests(t.Context(), operator.Query{}); err != nil || ids(page.Rows) != "a-1" {
		t.Errorf("%v, %v", page, err)
	}
	reads.Close()
	if _, err := desk.Requests(t.Context(), operator.Query{}); err == nil || errors.Is(err, operator.ErrTooSlow) {
		t.Errorf("without its pool a question gets %v", err)
	}
	if done, err := desk.Do(t.Context(), operator.ToCancel(), aTest, operator.Filter{}); err != nil || done.N != 1 {
		t.Errorf("an act needs the other pool alone: %v, %v", done, err)
	}
}

// TestTooSlow: a question that takes longer than its statement or its caller may wait says so, and one that waits for a
// lock, or finds no server, says something else.
func TestTooSlow(t *testing.T) {
	t.Parallel()
	s := newRig(t)
	limited := func(statement, lock string) *operator.Desk {
		config, err := pgxpool.ParseConfig(s.pool.Config().ConnString())
		if err != nil {
			t.Fatal(err)
		}
		config.MaxConns = 1
		config.ConnConfig.RuntimeParams["statement_timeout"], config.ConnConfig.RuntimeParams["lock_timeout"] = statement, lock
		pool, err := pgxpool.NewWithConfig(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(pool.Close)
		return s.desk.ReadingFrom(pool)
	}
	tx, err := s.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) })
	pgtest.Exec(t, tx, `LOCK TABLE outbox IN ACCESS EXCLUSIVE MODE`)
	ask := func(ctx context.Context, desk *operator.Desk) error {
		_, err := desk.Requests(ctx, operator.Query{})
		return err
	}
	if err := ask(t.Context(), limited("50ms", "0")); !errors.Is(err, operator.ErrTooSlow) {
		t.Errorf("cut by its statement_timeout: %v", err)
	}
	if err := ask(t.Context(), limited("0", "50ms")); errors.Is(err, operator.ErrTooSlow) || !database.WaitedForLock(err) {
		t.Errorf("cut by its lock_timeout: %v", err)
	}
	soon, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := ask(soon, limited("0", "0")); !errors.Is(err, operator.ErrTooSlow) {
		t.Errorf("cut by its caller: %v", err)
	}
	// The gate is read in time, whatever else this machine does; what needs the locked table is not.
	if now, err := limited("2s", "0").Now(t.Context()); !errors.Is(err, operator.ErrTooSlow) || now.Unread == nil || now.Gate.State == "" {
		t.Errorf("what could be read is there: %+v, %v", now, err)
	}
	pgtest.Exec(t, tx, `LOCK TABLE outbox_gate, outbox_replicas IN ACCESS EXCLUSIVE MODE`)
	for question, ask := range map[string]func(*operator.Desk) error{
		"backlog": func(desk *operator.Desk) error { _, err := desk.Backlog(t.Context()); return err },
		"gate":    func(desk *operator.Desk) error { _, err := desk.Gate(t.Context()); return err },
		"fleet":   func(desk *operator.Desk) error { _, err := desk.Fleet(t.Context()); return err },
		"now":     func(desk *operator.Desk) error { _, err := desk.Now(t.Context()); return err },
	} {
		if err := ask(limited("50ms", "0")); !errors.Is(err, operator.ErrTooSlow) {
			t.Errorf("%s, cut by its statement_timeout: %v", question, err)
		}
	}
	away, err := pgxpool.New(t.Context(), "postgres://nobody@127.0.0.1:1/none?connect_timeout=1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(away.Close)
	if err := ask(t.Context(), s.desk.ReadingFrom(away)); err == nil || errors.Is(err, operator.ErrTooSlow) {
		t.Errorf("without a server: %v", err)
	}
}

// TestUnstorable: an id that no request can have is that of none.
func TestUnstorable(t *testing.T) {
	t.Parallel()
	s := newRig(t)
	for _, id := range []string{"a\x00", "\xff"} {
		if _, err := s.desk.Show(t.Context(), id); !errors.Is(err, operator.ErrUnknown) {
			t.Errorf("%q: %v", id, err)
		}
	}
}
