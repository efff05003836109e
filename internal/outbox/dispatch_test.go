package outbox

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"flexworker/internal/loop"
	"flexworker/internal/outbox/limiter"
	"flexworker/internal/outbox/request"
	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/flextest"
	"flexworker/internal/testing/pgtest"
)

// eager gives a Dispatcher with so many permits and no backlog, whose loop the test plays. What it
// leases is sent to the channel instead of Flex.
func eager(t *testing.T, s *Store, permits int) (*Dispatcher, <-chan Lease) {
	t.Helper()
	leased := make(chan Lease, 100)
	d := &Dispatcher{Store: s, Concurrency: permits, Log: logger(t), Counters: &Counters{}}
	d.prepare(t.Context())
	d.backlog = false
	d.workers = newWorkers(permits, func(l Lease) { leased <- l })
	t.Cleanup(d.workers.end)
	return d, leased
}

// add has d insert events together, with all permits that an insert may have now.
func (d *Dispatcher) add(t *testing.T, events ...request.Event) ([]Added, error) {
	t.Helper()
	d.Store.adds.Attend()
	defer d.Store.adds.Leave()
	answers, errs := make([]Added, len(events)), make([]error, len(events))
	var all sync.WaitGroup
	for i, e := range events {
		all.Go(func() { answers[i], errs[i] = d.Store.Add(t.Context(), e) })
	}
	expect.Eventually(t, func() error {
		if n := d.Store.adds.Waiting(); n != len(events) {
			return fmt.Errorf("%d wait", n)
		}
		return nil
	})
	_, permits := d.room(len(events), backlogWait)
	d.inserting = true
	d.insertEnds(d.insert(t.Context(), insertion{d.Store.adds.Take(len(events)), d.permits.Take(permits)}))
	all.Wait()
	return answers, errors.Join(errs...)
}

// some are n new requests named prefix-1 to prefix-n.
func some(prefix string, n int) (events []request.Event) {
	for i := range n {
		events = append(events, event(fmt.Sprintf("%s-%d", prefix, i+1), uint64(i+1)))
	}
	return events
}

func (d *Dispatcher) free() int {
	free, _ := d.permits.Free()
	return free
}

// leasesNext says whether one request more would be leased by its insert.
func (d *Dispatcher) leasesNext() bool {
	n, permits := d.room(1, 0)
	return n == 1 && permits == 1
}

// TestEagerStart: what is added while permits are free is leased by its insert, the
// higher priority first, and the lease says what the row says.
func TestEagerStart(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	d, leased := eager(t, s, 2)
	before := time.Now()
	answers, err := d.add(t,
		event("low", 1), event("faulty", 2, faulty("is missing")), event("high", 3, func(e *request.Event) { e.Priority = 9 }),
		event("mid", 4, func(e *request.Event) {
			e.Priority, e.LookupKey, e.Traceparent = 5, strings.Repeat("ab", 16), "00-1-2-3"
		}),
		event("later", 5, func(e *request.Event) { e.Priority, e.NotBefore = 9, time.Now().Add(time.Hour) }),
		event("limited", 6, func(e *request.Event) { e.Priority, e.ExpiresAt = 9, time.Now().Add(time.Hour) }),
	)
	after := time.Now()
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []Added{Accepted, Rejected, Accepted, Accepted, Accepted, Accepted} {
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
		if has && (l.ID != r.ID || l.Attempt != 1 || r.Attempt != 1 || !strings.HasPrefix(pgtest.Deref(r.LeasedBy), "w1/") || r.DueIn != nil || l.Source != "crm" ||
			l.Until.Before(before) || l.Until.After(after.Add(s.leaseFor)) || r.LeasedUntil.Before(l.Until.Add(-time.Millisecond))) {
			t.Errorf("%s: %+v, %+v", id, l, r)
		}
	}
	if l := got["mid"]; l.LookupKey == "" || l.Traceparent == "" || string(l.Request) == "" {
		t.Errorf("%+v", l)
	}
	if attribute := pgtest.One[string](t, s.pool, `SELECT lookup_attribute FROM outbox WHERE request_id = 'mid'`); attribute != s.Lookups.Attribute {
		t.Errorf("its call carries %q", attribute)
	}
	if d.free() != 0 || !d.backlog || d.leasesNext() {
		t.Error("permits are left, or what waits does not come first")
	}
}

// TestEagerGate: the gate lets no more pass by an insert than by a claim.
func TestEagerGate(t *testing.T) {
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
			d, leased := eager(t, s, 8)
			pgtest.Exec(t, s.pool, `UPDATE outbox_gate SET `+tt.gate)
			if _, err := d.add(t, some("g", 5)...); err != nil {
				t.Fatal(err)
			}
			want := tt.want
			if tt.name == "a rate" {
				want = 1
			}
			if d.free() != 8-want {
				t.Errorf("%d permits are free, want %d leased", d.free(), want)
			}
			for range want {
				<-leased
			}
			if len(leased) != 0 {
				t.Errorf("%d leased beyond %d", len(leased), want)
			}
			if n := pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox WHERE state = 'sending'`); n != want {
				t.Errorf("%d are sending, want %d", n, want)
			}
			if tt.name == "a large rate" && pgtest.One[float64](t, s.pool, `SELECT tokens FROM outbox_gate`) != 0.5 {
				t.Error("the tokens were not spent")
			}
		})
	}
}

// TestEagerRepeats: a message that comes again, and another under a known id,
// get no lease, cost no token, and give their permit back.
func TestEagerRepeats(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	d, leased := eager(t, s, 8)
	pgtest.Exec(t, s.pool, `UPDATE outbox_gate SET rate = 50, tokens = 5, refilled_at = clock_timestamp() + interval '1 hour'`)
	if _, err := d.add(t, event("r-1", 1)); err != nil {
		t.Fatal(err)
	}
	<-leased
	for _, e := range []request.Event{event("r-1", 1), event("r-1", 2), event("r-1", 3, func(e *request.Event) { e.Request = []byte(`{"channel":{}}`) })} {
		if _, err := d.add(t, e); err != nil {
			t.Fatal(err)
		}
	}
	if len(leased) != 0 || d.free() != 7 || pgtest.One[float64](t, s.pool, `SELECT tokens FROM outbox_gate`) != 4 {
		t.Errorf("%d more leased, %d permits free", len(leased), d.free())
	}
}

// TestEagerFails: an insert that fails gives its permits back.
func TestEagerFails(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	d, leased := eager(t, s, 3)
	pgtest.Exec(t, s.pool, `ALTER TABLE outbox RENAME TO gone`)
	if _, err := d.add(t, event("f", 1)); err == nil {
		t.Error("added to no table")
	}
	if d.free() != 3 || len(leased) != 0 {
		t.Errorf("%d permits free, %d leased", d.free(), len(leased))
	}
}

// TestEagerOneBad: where the data of one event is at fault the others of its batch start all the same, and
// no permit is lost.
func TestEagerOneBad(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	d, leased := eager(t, s, 8)
	events := some("e", 7)
	events[3].Priority = 42
	answers, err := d.add(t, events...)
	if err == nil || Away(err) || !strings.Contains(err.Error(), "priority_is_0_to_9") {
		t.Errorf("%v", err)
	}
	for i, a := range answers {
		if i != 3 && a != Accepted {
			t.Errorf("event %d was %v", i, a)
		}
	}
	for range 6 {
		<-leased
	}
	if n := pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox WHERE state = 'sending'`); n != 6 || d.free() != 2 || d.backlog {
		t.Errorf("%d are sending, %d permits are free, a backlog: %t", n, d.free(), d.backlog)
	}
}

// TestDispatcherEnds: while many add, Run ends; then all that was leased has been carried out or given
// back, and what is added later is pending. So is what is added before Run.
func TestDispatcherEnds(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	if _, err := s.Add(t.Context(), event("before", 9999, func(e *request.Event) { e.NotBefore = time.Now().Add(time.Hour) })); err != nil {
		t.Fatal(err)
	}
	srv := flextest.New(t)
	stop := start(t, newDeliverer(t, s, srv))
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
	if err := srv.Wait(t.Context(), func(c flextest.Calls) bool { return c.Received > 0 }); err != nil {
		t.Fatal(err)
	}
	stop()
	const leased = `SELECT count(*) FILTER (WHERE state = 'sending') || ' ' || count(*) FILTER (WHERE attempt > 0) FROM outbox`
	atTheEnd := pgtest.One[string](t, s.pool, leased)
	if !strings.HasPrefix(atTheEnd, "0 ") {
		t.Errorf("%s are sending and were leased as Run returns", atTheEnd)
	}
	adding.Wait()
	mustAdd(t, s, "after", 1, func(e *request.Event) { e.Sequence += 5000 })
	if now := pgtest.One[string](t, s.pool, leased); now != atTheEnd {
		t.Errorf("%s are sending and were leased after the end, %s before", now, atTheEnd)
	}
	if n := pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox`); n != 82 {
		t.Errorf("%d requests, want 82", n)
	}
}

// TestRoom: how many of those who wait are added in one write, at once and after the longest wait.
func TestRoom(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name                   string
		ceiling, busy, waiting int
		backlog                bool
		atOnce, then, leased   int
	}{
		{"one alone", 4, 0, 1, false, 1, 1, 1},
		{"one, the last permit", 4, 3, 1, false, 1, 1, 1},
		{"more than permits", 4, 0, 9, false, 4, 4, 4},
		{"half are free", 4, 2, 9, false, 2, 2, 2},
		{"one is free for long", 4, 3, 9, false, 0, 1, 1},
		{"none is free for long", 4, 4, 9, false, 0, 9, 0},
		{"others wait", 4, 0, 9, true, 0, 9, 0},
	} {
		d := &Dispatcher{permits: limiter.New(tt.ceiling)}
		d.permits.Take(tt.busy)
		d.backlog = tt.backlog
		wait := permitWait
		if tt.backlog {
			wait = backlogWait
		}
		if n, _ := d.room(tt.waiting, 0); n != tt.atOnce {
			t.Errorf("%s: %d at once, want %d", tt.name, n, tt.atOnce)
		}
		if n, _ := d.room(tt.waiting, wait-1); n != tt.atOnce {
			t.Errorf("%s: %d before the longest wait, want %d", tt.name, n, tt.atOnce)
		}
		if n, permits := d.room(tt.waiting, wait); n != tt.then || permits != tt.leased {
			t.Errorf("%s: %d with %d permits, want %d with %d", tt.name, n, permits, tt.then, tt.leased)
		}
	}
	d := &Dispatcher{permits: limiter.New(2)}
	d.permits.Take(2)
	d.permits.Give(1)
	if n, permits := d.room(3, 0); n != 1 || permits != 1 {
		t.Errorf("%d with %d permits after one was freed", n, permits)
	}
}

// playing runs the loop of a Dispatcher whose inserts the test makes, in its bubble; no claim is due, and nothing is in
// the table.
func playing(t *testing.T, concurrency int, backlog bool) (d *Dispatcher, stop func()) {
	t.Helper()
	d = &Dispatcher{Store: NewStore(nil, "w1", testLimit, "interaction_request"), Concurrency: concurrency}
	d.prepare(t.Context())
	d.backlog, d.restsUntil, d.deaf = backlog, time.Now().Add(time.Hour), true
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); d.loop(ctx) }()
	synctest.Wait() // it attends
	return d, func() { cancel(); <-ended }
}

// accept answers all events of an insertion and says how many there are.
func accept(ctx context.Context, i insertion) int {
	i.events.Write(ctx, func(_ context.Context, events []request.Event) ([]Added, error) {
		return make([]Added, len(events)), nil
	})
	return i.events.Len()
}

// TestRoomBehindABacklog: as many as a write can take are added in each
// backlogWait, though none waited when it began.
func TestRoomBehindABacklog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d, stop := playing(t, 16, true)
		defer stop()
		var sizes []int
		var inserting sync.WaitGroup
		inserting.Go(func() {
			for i := range d.inserts {
				sizes = append(sizes, accept(t.Context(), i))
				d.insertEnded <- insertEnd{dueLeft: true}
			}
		})
		begun := time.Now()
		var all sync.WaitGroup
		for n := range batchSize { // in hand
			all.Go(func() {
				for time.Since(begun) < 10*backlogWait {
					if _, err := d.Store.Add(t.Context(), event(fmt.Sprint(n), 1)); err != nil {
						t.Error(err)
					}
					loop.Rest(t.Context(), backlogWait/20, nil) // it is acked, and the next one comes
				}
			})
		}
		all.Wait()
		close(d.inserts)
		inserting.Wait()
		if len(sizes) != 10 || slices.Min(sizes) != batchSize {
			t.Errorf("written were %v", sizes)
		}
	})
}

// TestHeldForAPermit: where all permits are taken, who waits is added as soon as one is free, and at the latest
// after permitWait, without. One alone is never held while a permit is free.
func TestHeldForAPermit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d, stop := playing(t, 2, false)
		defer stop()
		next := func(wantEvents, wantPermits int, wantWait time.Duration) {
			t.Helper()
			begun := time.Now()
			var adding sync.WaitGroup
			for n := range wantEvents {
				adding.Go(func() {
					if _, err := d.Store.Add(t.Context(), event(fmt.Sprint(n), 1)); err != nil {
						t.Error(err)
					}
				})
			}
			i := <-d.inserts
			if i.events.Len() != wantEvents || i.permits != wantPermits || time.Since(begun) != wantWait {
				t.Errorf("%d events with %d permits after %v, want %d with %d after %v", i.events.Len(), i.permits, time.Since(begun), wantEvents, wantPermits, wantWait)
			}
			accept(t.Context(), i)
			adding.Wait()
			d.insertEnded <- insertEnd{}
			synctest.Wait()
		}
		next(1, 1, 0)
		next(1, 1, 0) // the last permit
		next(1, 0, permitWait)
		next(3, 0, permitWait)
		time.AfterFunc(permitWait/2, func() { d.permits.Give(1) })
		next(1, 1, permitWait/2)
	})
}

// TestBacklogNotedMeanwhile: what was added while a claim looked, and was not seen by
// it, waits in the table all the same when the claim says that nothing does.
func TestBacklogNotedMeanwhile(t *testing.T) {
	t.Parallel()
	d := &Dispatcher{Store: NewStore(nil, "w1", testLimit, "interaction_request"), Concurrency: 4}
	d.prepare(t.Context())
	claim := func(meanwhile func()) {
		d.restsUntil = time.Time{}
		began := make(chan int, 1)
		go func() { began <- <-d.claims }()
		d.startClaim(time.Now())
		permits := <-began
		if d.leasesNext() {
			t.Error("a permit that the claim holds is given twice")
		}
		meanwhile()
		d.permits.Give(permits)
		d.claimEnds(claimEnd{}, time.Now())
	}
	claim(func() {})
	if !d.leasesNext() {
		t.Fatal("nothing is leased without a backlog")
	}
	claim(func() { d.insertEnds(insertEnd{dueLeft: true}) })
	if d.leasesNext() {
		t.Error("it comes before what waits in the table")
	}
	claim(func() {})
	if !d.leasesNext() {
		t.Error("nothing is leased once nothing waits")
	}
	claim(func() {})
	d.insertEnds(insertEnd{dueLeft: true})
	if d.leasesNext() {
		t.Error("it comes before what was left after the claim")
	}
}

// TestClaimsBesideALockedRow: while somebody holds the only row that is due, a replica claims less and less often,
// down to once in idlePoll. A claim that leases something begins anew, and the row is leased once it is free.
func TestClaimsBesideALockedRow(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	mustAdd(t, s, "held", 1)
	_, release := holding(t, s, `SELECT FROM outbox FOR UPDATE`)
	d, _ := eager(t, s, 4)
	rest := func(permits int) time.Duration {
		now := time.Now()
		d.claimEnds(d.claim(t.Context(), d.permits.Take(permits)), now)
		return d.restsUntil.Sub(now)
	}
	rests := func(want ...time.Duration) {
		t.Helper()
		for i, want := range want {
			if got := rest(3); got != want {
				t.Errorf("claim %d: it rests %v, want %v", i+1, got, want)
			}
		}
	}
	const ms = time.Millisecond
	rests(busyPoll, 40*ms, 80*ms, 160*ms, 320*ms, 640*ms, idlePoll, idlePoll)
	for range 16 {
		if got := rest(1); got != idlePoll && got != 0 { // 0: of one kind alone, whose turn it was, nothing was found
			t.Errorf("with one permit it rests %v", got)
		}
	}
	mustAdd(t, s, "free", 1, func(e *request.Event) { e.Sequence = 2 })
	rests(busyPoll, busyPoll, 40*ms) // the first has leased it
	release()
	mustClaim(t, s, 1)
	rests(longestRest)
}
