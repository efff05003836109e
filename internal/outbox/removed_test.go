package outbox

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// A meanwhile acts before or after the statement that contains its text.
type meanwhile struct {
	text   string
	before bool
	act    func()
}

type afterwards struct{}

func (m meanwhile) TraceQueryStart(ctx context.Context, _ *pgx.Conn, q pgx.TraceQueryStartData) context.Context {
	switch {
	case !strings.Contains(q.SQL, m.text):
	case m.before:
		m.act()
	default:
		return context.WithValue(ctx, afterwards{}, true)
	}
	return ctx
}

func (m meanwhile) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryEndData) {
	if ctx.Value(afterwards{}) != nil {
		m.act()
	}
}

// TestAddRemovedMeanwhile: retention removes a request that an event asks for
// again, between the statements that answer it. The others of the batch have
// their answers, and the event is new when it is added again.
func TestAddRemovedMeanwhile(t *testing.T) {
	t.Parallel()
	const old = `UPDATE outbox SET settled_at = now() - interval '1 hour', published_at = now() WHERE state = 'rejected'`
	for name, before := range map[string]bool{"before it is read": true, "before the repeat is kept": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			mustAdd(t, s, "old", 2, faulty("x"))
			mustAdd(t, s, "known", 1)
			exec(t, s.pool, old)
			pruned := 0
			config := s.pool.Config()
			config.ConnConfig.Tracer = meanwhile{"SELECT id, request_id, request, raw", before, func() {
				n, err := s.prune(t.Context(), 0)
				if err != nil {
					t.Error(err)
				}
				pruned += n
			}}
			pool, err := pgxpool.NewWithConfig(t.Context(), config)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(pool.Close)
			store := NewStore(pool, "w2", testLimit)
			batch := []Event{
				event("old-1", 11, faulty("x")), event("known-1", 12), event("new", 13), event("old-2", 14, faulty("x")),
				event("known-1", 15, func(e *Event) { e.Request = []byte(`{"channel":{}}`) }),
			}
			got, err := store.addBatch(t.Context(), batch)
			if want := []Added{removed, Repeated, Accepted, removed, Conflicting}; err != nil || !slices.Equal(got, want) || pruned != 2 {
				t.Fatalf("%v, %v, want %v; %d pruned, want 2", got, err, want, pruned)
			}
			for i, want := range []Added{Refused, Repeated, Redelivered, Refused, Conflicting} {
				if got, err := store.Add(t.Context(), batch[i]); err != nil || got != want {
					t.Errorf("%s again: %v, %v, want %v", batch[i].RequestID, got, err, want)
				}
			}
			exec(t, s.pool, old)
			if _, err := store.Add(t.Context(), event("old-1", 21, faulty("x"))); !errors.Is(err, ErrRemoved) {
				t.Errorf("alone: %v, want ErrRemoved", err)
			}
			checkOutbox(t, s.pool)
		})
	}
}

// TestAddKnownOnly: an event that is too old to be new is answered where its request
// is known, and makes none where it is not: neither when retention removes the
// request before it is looked for, nor when it does while the event waits.
func TestAddKnownOnly(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	mustAdd(t, s, "old", 2, faulty("x"))
	mustAdd(t, s, "known", 1)
	exec(t, s.pool, `UPDATE outbox SET settled_at = now() - interval '1 hour', published_at = now() WHERE state = 'rejected'`)
	config := s.pool.Config()
	config.ConnConfig.Tracer = meanwhile{"outbox", true, sync.OnceFunc(func() {
		if n, err := s.prune(t.Context(), 0); n != 2 || err != nil {
			t.Errorf("%d pruned, %v", n, err)
		}
	})}
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	known := func(e *Event) { e.KnownOnly = true }
	batch := []Event{event("old-1", 11, faulty("x"), known), event("known-1", 12, known), event("never", 13, known), event("new", 14),
		event("known-1", 1, known), event("new", 15, known)}
	got, err := NewStore(pool, "w2", testLimit).addBatch(t.Context(), batch)
	if want := []Added{removed, Repeated, removed, Accepted, Redelivered, Repeated}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v, want %v", got, err, want)
	}
	if n := one[int](t, s.pool, `SELECT count(*) FROM outbox`); n != 2 {
		t.Errorf("%d rows, want known-1 and new", n)
	}
	checkOutbox(t, s.pool)
}
