package outbox

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"

	"flexworker/internal/batch"
	"flexworker/internal/flex"
	"flexworker/internal/loop"
	"flexworker/internal/outbox/request"
	"flexworker/internal/outbox/results"
	"flexworker/internal/rawjson"
)

// open opens the store's shortcut with so many slots and no backlog; what is
// leased through it is sent to the channel.
func open(t *testing.T, s *Store, ceiling int) (*slots, <-chan Lease) {
	t.Helper()
	slots, leased := newSlots(ceiling), make(chan Lease, 100)
	slots.setBacklog(false)
	s.shortcut.open(slots, func(l Lease) { leased <- l })
	return slots, leased
}

// TestShortcut: what is added while slots are free is leased by its insert, the
// higher priority first, and the lease says what the row says.
func TestShortcut(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	slots, leased := open(t, s, 2)
	before := time.Now()
	answers, err := s.addBatch(t.Context(), []request.Event{
		event("low", 1), event("faulty", 2, faulty("is missing")), event("high", 3, func(e *request.Event) { e.Priority = 9 }),
		event("mid", 4, func(e *request.Event) {
			e.Priority, e.LookupKey, e.Traceparent = 5, strings.Repeat("ab", 16), "00-1-2-3"
		}),
		event("later", 5, func(e *request.Event) { e.Priority, e.NotBefore = 9, time.Now().Add(time.Hour) }),
		event("limited", 6, func(e *request.Event) { e.Priority, e.ExpiresAt = 9, time.Now().Add(time.Hour) }),
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []Added{Accepted, Refused, Accepted, Accepted, Accepted, Accepted} {
		if answers[i] != want {
			t.Errorf("event %d was %v, want %v", i, answers[i], want)
		}
	}
	got := map[string]Lease{}
	for range 2 {
		l := <-leased
		got[l.RequestID] = l
	}
	for id, want := range map[string]request.State{"low": request.Pending, "faulty": request.Rejected, "high": request.Sending, "mid": request.Sending, "later": request.Pending, "limited": request.Pending} {
		r := s.row(t, id)
		l, has := got[id]
		if r.State != want || has != (want == request.Sending) {
			t.Errorf("%s is %s, leased %t", id, r.State, has)
		}
		if has && (l.ID != r.ID || l.Attempt != 1 || r.Attempt != 1 || !strings.HasPrefix(deref(r.LeasedBy), "w1/") || r.DueIn != nil || l.Source != "crm" ||
			l.until.Before(before) || l.until.After(before.Add(s.leaseFor+time.Second)) || r.LeasedUntil.Before(l.until.Add(-time.Millisecond))) {
			t.Errorf("%s: %+v, %+v", id, l, r)
		}
	}
	if l := got["mid"]; l.LookupKey == "" || l.Traceparent == "" || string(l.Request) == "" {
		t.Errorf("%+v", l)
	}
	if attribute := one[string](t, s.pool, `SELECT lookup_attribute FROM outbox WHERE request_id = 'mid'`); attribute != s.Lookups.Attribute {
		t.Errorf("its call carries %q", attribute)
	}
	if slots.free() != 0 || slots.reserve(1) != 0 {
		t.Error("slots are left, or what waits does not come first")
	}
}

// TestShortcutGate: the gate lets no more pass by the shortcut than by a claim.
func TestShortcutGate(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, gate string
		want       int
	}{
		{"no rate", `rate = 0`, 5},
		{"a rate", `rate = 0.001, tokens = 3.5, refilled_at = clock_timestamp()`, 3}, // the burst bounds it to 1
		{"a large rate", `rate = 25, tokens = 3.5, refilled_at = clock_timestamp() + interval '1 hour'`, 3},
		{"none left", `rate = 0.001, tokens = 0.5, refilled_at = clock_timestamp()`, 0},
		{"held", `held_since = clock_timestamp(), reason = 'x'`, 0},
		{"paused", `paused_until = clock_timestamp() + interval '1 hour', reason = 'x'`, 0},
		{"paused once", `paused_until = clock_timestamp() - interval '1 ms', reason = 'x'`, 5},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			slots, leased := open(t, s, 8)
			exec(t, s.pool, `UPDATE outbox_gate SET `+tt.gate)
			mustAdd(t, s, "g", 5)
			want := tt.want
			if tt.name == "a rate" {
				want = 1
			}
			if len(leased) != want || slots.free() != 8-want {
				t.Errorf("%d leased, %d slots free, want %d leased", len(leased), slots.free(), want)
			}
			if n := one[int](t, s.pool, `SELECT count(*) FROM outbox WHERE state = 'sending'`); n != want {
				t.Errorf("%d are sending, want %d", n, want)
			}
			if tt.name == "a large rate" && one[float64](t, s.pool, `SELECT tokens FROM outbox_gate`) != 0.5 {
				t.Error("the passes were not spent")
			}
		})
	}
}

// TestShortcutRepeats: a message that comes again, and another under a known id,
// get no lease, cost no pass, and give their slot back.
func TestShortcutRepeats(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	slots, leased := open(t, s, 8)
	exec(t, s.pool, `UPDATE outbox_gate SET rate = 50, tokens = 5, refilled_at = clock_timestamp() + interval '1 hour'`)
	mustAdd(t, s, "r", 1)
	for _, e := range []request.Event{event("r-1", 1), event("r-1", 2), event("r-1", 3, func(e *request.Event) { e.Request = []byte(`{"channel":{}}`) })} {
		if _, err := s.addBatch(t.Context(), []request.Event{e}); err != nil {
			t.Fatal(err)
		}
	}
	if len(leased) != 1 || slots.free() != 7 || one[float64](t, s.pool, `SELECT tokens FROM outbox_gate`) != 4 {
		t.Errorf("%d leased, %d slots free", len(leased), slots.free())
	}
}

// TestShortcutFails: an insert that fails gives its slots back; the shortcut can
// be closed.
func TestShortcutFails(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	slots, leased := open(t, s, 3)
	exec(t, s.pool, `ALTER TABLE outbox RENAME TO gone`)
	if _, err := s.addBatch(t.Context(), []request.Event{event("f", 1)}); err == nil {
		t.Error("added to no table")
	}
	if slots.free() != 3 || len(leased) != 0 {
		t.Errorf("%d slots free, %d leased", slots.free(), len(leased))
	}
	s.shortcut.close()
}

// TestShortcutCloses: while many add, the shortcut closes; then all that was
// leased has begun, and nothing that is added later is.
func TestShortcutCloses(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	_, leased := open(t, s, 1000)
	var adding sync.WaitGroup
	for n := range 8 {
		adding.Go(func() {
			for i := range 10 {
				e := event(strings.Repeat("x", n+1)+strings.Repeat("y", i+1), uint64(n*100+i+1))
				if _, err := s.Add(context.WithoutCancel(t.Context()), e); err != nil {
					t.Error(err)
				}
			}
		})
	}
	<-leased
	s.shortcut.close()
	begun := 1 + len(leased)
	if n := one[int](t, s.pool, `SELECT count(*) FROM outbox WHERE state = 'sending'`); n != begun {
		t.Errorf("%d are sending, %d have begun", n, begun)
	}
	adding.Wait()
	if n := one[int](t, s.pool, `SELECT count(*) FROM outbox WHERE state = 'sending'`); n != begun || len(leased) != begun-1 {
		t.Errorf("%d are sending after the end, %d before", n, begun)
	}
}

// TestRoom: how many of those who wait are added in one write.
func TestRoom(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name                   string
		ceiling, busy, waiting int
		backlog                bool
		want                   int
	}{
		{"one alone", 4, 0, 1, false, 1},
		{"one, the last slot", 4, 3, 1, false, 1},
		{"more than slots", 4, 0, 9, false, 4},
		{"half are free", 4, 2, 9, false, 2},
		{"one is free for long", 4, 3, 9, false, 1},
		{"none is free for long", 4, 4, 9, false, 9},
		{"others wait", 4, 0, 9, true, 9},
	} {
		s := newSlots(tt.ceiling)
		s.take(tt.busy)
		s.setBacklog(tt.backlog)
		if n := s.room(waiting(tt.waiting)); n != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, n, tt.want)
		}
	}
	s := newSlots(2)
	s.take(2)
	s.setBacklog(false)
	got := make(chan int)
	go func() { got <- s.room(waiting(3)) }()
	s.give()
	if n := <-got; n != 1 && n != 3 { // 3: the machine slept for longer than roomWait
		t.Errorf("%d after a slot was freed", n)
	}
}

// waiting is a number of those who wait that does not grow.
func waiting(n int) func() int { return func() int { return n } }

// TestRoomBehindABacklog: as many as a write can take are added in each
// backlogWait, though none waited when it began.
func TestRoomBehindABacklog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var sizes []int
		g := batch.New(batchSize, func(_ context.Context, items []int) ([]int, error) {
			sizes = append(sizes, len(items))
			return items, nil
		})
		g.Room = newSlots(16).room
		begun := time.Now()
		var all sync.WaitGroup
		for range batchSize { // in hand
			all.Go(func() {
				for time.Since(begun) < 10*backlogWait {
					if _, err := g.Do(t.Context(), 1); err != nil {
						t.Error(err)
					}
					loop.Rest(t.Context(), backlogWait/20, nil) // it is acked, and the next one comes
				}
			})
		}
		all.Wait()
		if len(sizes) != 10 || slices.Min(sizes) != batchSize {
			t.Errorf("written were %v", sizes)
		}
	})
}

// TestRecordedIsTheRow: the result that record composes from what it knows is
// the one that the strays would read from the table.
func TestRecordedIsTheRow(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	for i, o := range outcomesThatSettle() {
		id := mustAdd(t, s, string(rune('a'+i)), 1, func(e *request.Event) {
			e.Traceparent, e.Tracestate, e.Sequence, e.Warnings = "00-1-2-3", "v=1", uint64(i+1), []rawjson.Fault{{Path: "channel.x", Problem: "odd"}}
		})[0]
		l := mustClaim(t, s, 1)[0]
		done, err := s.record(t.Context(), record{lease: l, outcome: o.Kind.String(), told: o, move: request.Policy{}.After(1, o, 0)})
		if err != nil || done == nil {
			t.Fatalf("%s: %v, %v", id, done, err)
		}
		rows, err := s.pool.Query(t.Context(), `SELECT `+results.SettledColumns+` FROM outbox o WHERE request_id = $1`, id)
		if err != nil {
			t.Fatal(err)
		}
		read, err := pgx.CollectExactlyOneRow(rows, results.ScanSettled)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := asJSON(t, done.Answer()), asJSON(t, read.Answer()); got != want {
			t.Errorf("%s\n    composed %s\n    read     %s", id, got, want)
		}
	}
}

func outcomesThatSettle() []flex.Outcome {
	return []flex.Outcome{
		{Kind: flex.Created, HTTPStatus: 201, InteractionSID: "KD" + strings.Repeat("0", 32), TaskSID: "WT" + strings.Repeat("1", 32),
			AssignmentStatus: "pending", RequestID: "RQ1", Response: []byte(`{ "sid":"KD00000000000000000000000000000000", "channel":{"sid":"UO1"},"routing":{"properties":{"priority":1.50}}}`)},
		{Kind: flex.Created, HTTPStatus: 200, InteractionSID: "KD" + strings.Repeat("2", 32)},
		{Kind: flex.Rejected, HTTPStatus: 400, TwilioCode: 20001, ErrorKind: "http_400", Message: "no such parameter", RequestID: "RQ2",
			Response: []byte(`{"code":20001,"more_info":"https://www.twilio.com/docs/errors/20001"}`)},
		{Kind: flex.Rejected, ErrorKind: "request", Message: "a \x00 and bad UTF-8 \xff"},
	}
}

// asJSON is an answer as it would be published.
func asJSON(t *testing.T, a results.Answer) string {
	t.Helper()
	body, err := results.Encode(a.Body)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d %d %d %s %s %s %s %s %s", a.Kind, a.ID, a.Number, a.Outcome, a.Source, a.MessageID, deref(a.Traceparent), deref(a.Tracestate), body)
}
