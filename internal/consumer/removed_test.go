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
	"flexworker/internal/outbox/request"
	"flexworker/internal/outbox/upkeep"
	"flexworker/internal/testing/expect"
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
			store := outbox.NewStore(pool, "test", time.Second, "interaction_request")
			store.Retention = tt.retention
			c.Store, c.Retention = store, tt.retention
			w.sendMany("a", 4)
			w.sendMany("b", 3)
			w.run(c)
			w.acked()
			w.sendMany("c", 1) // taken by this attachment, or by the next
			expect.Eventually(t, func() error { return expect.Is("answered", w.count(`SELECT count(*) FROM outbox`)+w.malformed(), 8) })
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

// earlier is the outbox with the messages of these sequences as old as that.
type earlier struct {
	*outbox.Store
	ages map[uint64]time.Duration
}

func (s earlier) Add(ctx context.Context, e request.Event) (outbox.Added, error) {
	e.Time = e.Time.Add(-s.ages[e.Sequence])
	return s.Store.Add(ctx, e)
}

func (s earlier) AddMalformed(ctx context.Context, m request.Malformed) error {
	m.Time = m.Time.Add(-s.ages[m.Sequence])
	return s.Store.AddMalformed(ctx, m)
}

// TestConsumerMadeAnewAfterRetention: requests were settled 31 days ago, and one was asked
// again, and one met a conflict, three days ago. Retention has removed what it may; then
// the consumer is made anew, as a drift of its settings advises, and the stream comes again
// from its first message. Nothing is a new request.
func TestConsumerMadeAnewAfterRetention(t *testing.T) {
	t.Parallel()
	const day, retention = 24 * time.Hour, 720 * time.Hour
	w := newWorld(t)
	ages := map[uint64]time.Duration{}
	send := func(age time.Duration, body string) { ages[w.send(body, nil)] = age }
	send(40*day, withID(`"asked"`))
	send(40*day, withID(`"taken"`))
	send(40*day, withID(`"gone"`))
	send(3*day, withID(`"asked"`))
	send(3*day, `{"request_id":"taken","channel":{"type":"web","initiated_by":"api"},`+routingOK+`}`)
	send(3*day, `{"request_id":7}`)
	replica := func() *Consumer {
		c := w.consumer(1) // so that they come in order
		store := c.Store.(*outbox.Store)
		store.Retention, c.Retention = retention, retention
		c.Store = earlier{store, ages}
		return c
	}
	before := replica()
	before.Store.(earlier).Retention = 0 // as the first came they were young
	stop := w.run(before)
	w.acked()
	stop()
	w.exec(`UPDATE outbox SET state = 'expired', error_kind = 'expired', due_at = NULL, settled_at = now() - interval '31 days', published_at = now() - interval '31 days'`)
	w.exec(`UPDATE outbox_repeats SET published_at = now() - interval '3 days'`)
	w.exec(`UPDATE outbox_malformed SET published_at = now() - interval '3 days'`)
	pruner := upkeep.New(w.pool, time.Minute)
	pruner.Retention, pruner.Log = retention, before.Log
	pruner.PruneAll(t.Context())
	if n := w.count(`SELECT count(*) FROM outbox`); n != 1 {
		t.Fatalf("%d requests are left, want 1", n)
	}
	if err := w.js.DeleteConsumer(t.Context(), w.names.Stream, w.names.Consumer); err != nil {
		t.Fatal(err)
	}
	again := replica()
	w.run(again)
	w.acked()
	expect.Eventually(t, func() error {
		// taken and gone are older than requests are remembered: whether they were answered nobody knows.
		return expect.Is("malformed", again.Counters.Malformed.Load(), 2+1)
	})
	if n := w.count(`SELECT count(*) FROM outbox`); n != 1 {
		t.Errorf("%d requests, want the one that was asked again", n)
	}
	for word, want := range map[outbox.Added]int64{outbox.Accepted: 0, outbox.Rejected: 0, outbox.Conflicting: 0, outbox.Repeated: 1, outbox.Redelivered: 2} {
		if n := again.Counters.Added[word].Load(); n != want {
			t.Errorf("%d %v, want %d", n, word, want)
		}
	}
	if n := w.count(`SELECT (SELECT count(*) FROM outbox_repeats WHERE published_at IS NULL) + (SELECT count(*) FROM outbox_malformed WHERE published_at IS NULL)`); n != 2 {
		t.Errorf("%d new answers, want 2: that taken and gone are too old", n)
	}
}
