package outbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"flexworker/internal/outbox/request"
	"flexworker/internal/outbox/upkeep"
	"flexworker/internal/testing/natstest"
	"flexworker/internal/testing/pgtest"
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
			pgtest.Exec(t, s.pool, old)
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
			store := NewStore(pool, "w2", testLimit, "interaction_request")
			batch := []request.Event{
				event("old-1", 11, faulty("x")), event("known-1", 12), event("new", 13), event("old-2", 14, faulty("x")),
				event("known-1", 15, func(e *request.Event) { e.Request = []byte(`{"channel":{}}`) }),
			}
			got, err := store.addBatch(t.Context(), batch)
			if want := []Added{removed, Repeated, Accepted, removed, Conflicting}; err != nil || !slices.Equal(got, want) || pruned != 2 {
				t.Fatalf("%v, %v, want %v; %d pruned, want 2", got, err, want, pruned)
			}
			for i, want := range []Added{Rejected, Repeated, Redelivered, Rejected, Conflicting} {
				if got, err := store.Add(t.Context(), batch[i]); err != nil || got != want {
					t.Errorf("%s again: %v, %v, want %v", batch[i].RequestID, got, err, want)
				}
			}
			pgtest.Exec(t, s.pool, old)
			if _, err := store.Add(t.Context(), event("old-1", 21, faulty("x"))); !errors.Is(err, ErrRemoved) {
				t.Errorf("alone: %v, want ErrRemoved", err)
			}
			pgtest.CheckOutbox(t, s.pool)
		})
	}
}

// aged makes an event's message this old by the clock of Postgres.
func aged(t *testing.T, s *Store, age time.Duration) func(*request.Event) {
	t.Helper()
	now := pgtest.One[time.Time](t, s.pool, `SELECT clock_timestamp()`)
	return func(e *request.Event) { e.Time = now.Add(-age) }
}

// TestAddOld: an event whose message is older than the retention is answered where its
// request is known, and makes none where it is not: neither when retention removes the
// request before it is looked for, nor when it does while the event waits.
func TestAddOld(t *testing.T) {
	t.Parallel()
	const retention = time.Hour
	s := newStore(t)
	over, under := aged(t, s, retention+time.Minute), aged(t, s, retention-2*oldMargin)
	mustAdd(t, s, "old", 2, faulty("x"), over)
	mustAdd(t, s, "known", 1, over)
	pgtest.Exec(t, s.pool, `UPDATE outbox SET settled_at = now() - interval '2 hours', published_at = now() WHERE state = 'rejected'`)
	config := s.pool.Config()
	config.ConnConfig.Tracer = meanwhile{"outbox", true, sync.OnceFunc(func() {
		if n, err := s.prune(t.Context(), retention); n != 2 || err != nil {
			t.Errorf("%d pruned, %v", n, err)
		}
	})}
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	batch := []request.Event{event("old-1", 11, faulty("x"), over), event("known-1", 12, over), event("never", 13, over), event("new", 14, under),
		event("known-1", 1, over), event("new", 15, over)}
	store := NewStore(pool, "w2", testLimit, "interaction_request")
	store.Retention = retention
	got, err := store.addBatch(t.Context(), batch)
	if want := []Added{old, Repeated, old, Accepted, Redelivered, Repeated}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v, want %v", got, err, want)
	}
	if n := pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox`); n != 2 {
		t.Errorf("%d rows, want known-1 and new", n)
	}
	if _, err := store.Add(t.Context(), batch[2]); !errors.Is(err, ErrOld) || Away(err) {
		t.Errorf("alone: %v, want ErrOld", err)
	}
	pgtest.CheckOutbox(t, s.pool)
}

// TestReplayAfterPrune: the stream is replayed from its first message, whatever
// retention has removed since, and whatever the stream's clock was. No message is a new
// request, and none is answered a second time.
func TestReplayAfterPrune(t *testing.T) {
	t.Parallel()
	const retention = 720 * time.Hour
	day := 24 * time.Hour
	other := func(e *request.Event) { e.Request = []byte(`{"channel":{"type":"web"}}`) }
	for _, tt := range []struct {
		name                    string
		asked, settled, again   time.Duration        // before now, by Postgres
		clock                   time.Duration        // that the stream's clock is ahead
		change                  func(*request.Event) // of the message that asks again
		requests, first, second string               // after retention; what the replay says
	}{
		{name: "asked again three days ago", asked: 40 * day, settled: 31 * day, again: 3 * day, requests: "kept", first: "redelivered", second: "repeated"},
		{name: "asked again, all long ago", asked: 40 * day, settled: 39 * day, again: 38 * day, requests: "removed", first: "old", second: "old"},
		{name: "a conflict three days ago", asked: 40 * day, settled: 31 * day, again: 3 * day, change: other, requests: "removed", first: "old", second: "redelivered"},
		{name: "a conflict, all long ago", asked: 40 * day, settled: 39 * day, again: 38 * day, change: other, requests: "removed", first: "old", second: "old"},
		{name: "the edge, the stream's clock an hour ahead", asked: retention + 30*time.Minute, settled: retention + 29*time.Minute, again: retention + 20*time.Minute,
			clock: time.Hour, requests: "kept", first: "redelivered", second: "repeated"},
		{name: "the edge, the stream's clock an hour behind", asked: retention - 10*time.Minute, settled: retention - 9*time.Minute, again: retention - 8*time.Minute,
			clock: -time.Hour, requests: "kept", first: "redelivered", second: "repeated"},
		{name: "the edge, a conflict, the stream's clock an hour ahead", asked: retention + 30*time.Minute, settled: retention + 29*time.Minute, again: retention + 20*time.Minute,
			clock: time.Hour, change: other, requests: "kept", first: "redelivered", second: "conflict"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, r := newStore(t), newResults(t, natstest.Options{})
			r.create(t)
			first := event("a", 1, aged(t, s, tt.asked-tt.clock))
			second := event("a", 2, aged(t, s, tt.again-tt.clock))
			if tt.change != nil {
				tt.change(&second)
			}
			settle(t, s, first, good)
			if _, err := s.Add(t.Context(), second); err != nil {
				t.Fatal(err)
			}
			age(t, s)
			p := r.publisher(t, s)
			if !publishStrays(t, p) || len(r.all(t)) != 2 {
				t.Fatalf("%d answers, want 2", len(r.all(t)))
			}
			ago := func(d time.Duration) string { return fmt.Sprintf(`now() - interval '%d s'`, int(d.Seconds())) }
			pgtest.Exec(t, s.pool, `UPDATE outbox SET settled_at = `+ago(tt.settled)+`, published_at = `+ago(tt.settled))
			pgtest.Exec(t, s.pool, `UPDATE outbox_repeats SET published_at = `+ago(tt.again))
			pgtest.Exec(t, s.pool, `UPDATE outbox_malformed SET published_at = `+ago(tt.again))
			s.pruner(retention).PruneAll(t.Context())
			if n, want := pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox`), map[string]int{"kept": 1}[tt.requests]; n != want {
				t.Errorf("%d requests are left, want %d", n, want)
			}
			s.Retention = retention
			answers, err := s.addBatch(t.Context(), []request.Event{first, second})
			if err != nil || answers[0].String() != tt.first || answers[1].String() != tt.second {
				t.Errorf("replayed: %v, %v, want %s and %s", answers, err, tt.first, tt.second)
			}
			if !publishStrays(t, p) || len(r.all(t)) != 2 {
				t.Errorf("%d answers after the replay, want the 2 of before", len(r.all(t)))
			}
		})
	}
}

// TestReplayMalformed: a message that was once answered as malformed is no request
// either when it is understood by now, as after an update of the worker.
func TestReplayMalformed(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	for i, was := range []request.Event{event("a", 1), event("b", 2), event("b", 3)} {
		if err := s.AddMalformed(t.Context(), request.Malformed{Message: was.Message, Err: "not understood"}); err != nil {
			t.Fatal(i, err)
		}
	}
	answers, err := s.addBatch(t.Context(), []request.Event{event("a", 1), event("b", 2), event("b", 3), event("b", 4)})
	if want := []Added{Redelivered, Redelivered, Redelivered, Accepted}; err != nil || !slices.Equal(answers, want) {
		t.Errorf("%v, %v, want %v", answers, err, want)
	}
	if got, err := s.Add(t.Context(), event("a", 1, func(e *request.Event) { e.Stream = "ANOTHER" })); err != nil || got != Accepted {
		t.Errorf("a message of another stream: %v, %v", got, err)
	}
}

// TestLeaseIsOfItsOwnMessage: of two messages in one batch that ask under one id, the first was answered as malformed before, so the
// second makes the request. The lease has its body.
func TestLeaseIsOfItsOwnMessage(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	with := func(body, trace string) func(*request.Event) {
		return func(e *request.Event) { e.Request, e.Traceparent = json.RawMessage(body), trace }
	}
	first := event("b", 2, with(`{"body":"first"}`, "00-11111111111111111111111111111111-1111111111111111-01"))
	second := event("b", 4, with(`{"body":"second"}`, "00-22222222222222222222222222222222-2222222222222222-01"))
	if err := s.AddMalformed(t.Context(), request.Malformed{Message: first.Message, Err: "not understood"}); err != nil {
		t.Fatal(err)
	}
	var leases []Lease
	answers, err := s.addLeasing(t.Context(), []request.Event{first, second}, 10, func(l []Lease, _ bool) { leases = l })
	if want := []Added{Redelivered, Accepted}; err != nil || !slices.Equal(answers, want) {
		t.Fatalf("%v, %v, want %v", answers, err, want)
	}
	if len(leases) != 1 || string(leases[0].Request) != string(second.Request) || leases[0].Traceparent != second.Traceparent || leases[0].Sequence != 4 {
		t.Errorf("leased: %+v; want the body of the second message", leases)
	}
}

// TestPruneFarBehind: what has to stay, however many rows that are, does not keep what
// may go behind it.
func TestPruneFarBehind(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	pgtest.Exec(t, s.pool, `
		INSERT INTO outbox (request_id, source, state, request, error_kind, settled_at, published_at, stream_sequence, stream_time)
		SELECT 'r-' || i, 's', 'expired', '{}', 'expired', now() - interval '3 hours' + i * interval '1 ms', now(), i,
		       now() - CASE WHEN i <= 2 * $1 THEN interval '1 minute' ELSE interval '3 hours' END
		  FROM generate_series(1, 3 * $1 + 7) AS i`, upkeep.PruneBatch)
	p := s.pruner(time.Hour)
	if gone := p.PruneAll(t.Context()); gone != upkeep.PruneBatch+7 {
		t.Errorf("%d went, want %d", gone, upkeep.PruneBatch+7)
	}
}
