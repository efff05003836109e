package consumer

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"flexworker/internal/outbox"
)

// A meanwhile acts before each statement that contains its text.
type meanwhile struct {
	text string
	act  func()
}

func (m meanwhile) TraceQueryStart(ctx context.Context, _ *pgx.Conn, q pgx.TraceQueryStartData) context.Context {
	if strings.Contains(q.SQL, m.text) {
		m.act()
	}
	return ctx
}

func (meanwhile) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// TestRemovedMeanwhile: what retention does to one request is no outage. The
// message is decided anew, by its age too, and the others go on.
func TestRemovedMeanwhile(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		retention       time.Duration
		rows, malformed int
	}{
		"young: it is a new request":     {time.Hour, 8, 0},
		"old: it may have been answered": {time.Nanosecond, 0, 8},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.sendMany("a", 1)
			stop := w.run(w.consumer(8))
			w.acked()
			stop()
			config := w.pool.Config()
			config.ConnConfig.Tracer = meanwhile{"SELECT id, request_id, request, raw", sync.OnceFunc(func() {
				if _, err := w.pool.Exec(t.Context(), `DELETE FROM outbox WHERE request_id = 'a-0'`); err != nil {
					t.Error(err)
				}
			})}
			pool, err := pgxpool.NewWithConfig(t.Context(), config)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(pool.Close)
			c := w.consumer(8)
			c.Store, c.Retention = outbox.NewStore(pool, "test", time.Second), tt.retention
			w.sendMany("a", 4)
			w.sendMany("b", 3)
			w.run(c)
			w.acked()
			w.sendMany("c", 1) // taken by this attachment, or by the next
			eventually(t, func() error { return is("answered", w.count(`SELECT count(*) FROM outbox`)+w.malformed(), 8) })
			w.rows(tt.rows)
			if n := w.malformed(); n != tt.malformed {
				t.Errorf("%d malformed, want %d", n, tt.malformed)
			}
			if n, back := c.Counters.Attached.Load(), c.Counters.GivenBack.Load(); n != 1 || back != 0 {
				t.Errorf("attached %d times, %d given back", n, back)
			}
		})
	}
}
