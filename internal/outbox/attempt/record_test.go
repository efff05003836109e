package attempt

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"flexworker/internal/database"
	"flexworker/internal/flex"
	"flexworker/internal/outbox/gate"
	"flexworker/internal/outbox/request"
	"flexworker/internal/testing/pgtest"
)

// TestRecordBatch: one write with two leases of one request, a lost one and one
// whose data Postgres refuses.
func TestRecordBatch(t *testing.T) {
	t.Parallel()
	s := newRig(t)
	first := s.leased(t, "b", 3)
	if _, err := s.record(t.Context(), Unsent(first[0])); err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, s.pool, `UPDATE outbox SET due_at = clock_timestamp() - interval '1 s' WHERE state = 'pending'`)
	second := s.lease(t, 1)[0]
	newer := good
	newer.InteractionSID = sidB
	done, err := s.c.recordBatch(t.Context(), []Record{told(second, newer), told(first[2], good), told(first[0], good)})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{sidB, sidA, ""} {
		if d := done[i]; (d.err == nil) != (want != "") || want == "" && !errors.Is(d.err, ErrLeaseLost) || want != "" && pgtest.Deref(d.settled.InteractionSID) != want {
			t.Errorf("%d: %+v, want %q", i, d, want)
		}
	}
	if h := pgtest.Histories(t, s.pool, first[0].RequestID); h != "1 released, 2 created, 1 created!" && h != "1 released, 1 created!, 2 created" {
		t.Errorf("history %q", h)
	}
	bad := good
	bad.InteractionSID = "KD-of-another-form"
	if _, err := s.record(t.Context(), told(first[1], bad)); err == nil || away(err) || !strings.Contains(err.Error(), "sid_has_its_form") {
		t.Errorf("%v", err)
	}
	if got := s.row(t, first[1].RequestID).State; got != request.Sending {
		t.Errorf("a record that was refused left it %s", got)
	}
	pgtest.CheckOutbox(t, s.pool)
}

// TestAnswerOfAnotherRequest: two requests are told the same interaction, as a cache on the way does. It is the first
// one's, or that one's whose answer carries its own key. The other is not created: it may be, and a person or a lookup
// finds out. In one batch and in two. The same request may be told twice. What carries its own key is a proof, whatever
// another was told before.
func TestAnswerOfAnotherRequest(t *testing.T) {
	t.Parallel()
	bare := good
	bare.Mine = false
	for name, tt := range map[string]struct {
		first, second flex.Outcome
		together      bool
		other         int // which of them is not created; -1: both are
	}{
		"one after the other": {bare, bare, false, 1}, "together": {bare, bare, true, 1},
		"the first has its key": {good, bare, false, 1}, "together, the first has its key": {good, bare, true, 1},
		"the second has its key": {bare, good, false, -1}, "together, the second has its key": {bare, good, true, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newRig(t)
			leases := s.leased(t, "r", 2)
			records := []Record{told(leases[0], tt.first), told(leases[1], tt.second)}
			for _, batch := range map[bool][][]Record{true: {records}, false: {records[:1], records[1:]}}[tt.together] {
				done, err := s.c.recordBatch(t.Context(), batch)
				if err != nil {
					t.Fatal(err)
				}
				for i, d := range done {
					r := batch[i]
					var others *othersError
					if other := tt.other >= 0 && r.Lease.ID == leases[tt.other].ID; (d.err == nil) == other || errors.As(d.err, &others) != other {
						t.Errorf("%s: %+v", r.Lease.RequestID, d)
					}
					if others == nil {
						continue
					}
					if h := pgtest.Histories(t, s.pool, r.Lease.RequestID); h != "" {
						t.Errorf("what is another's is recorded as %s", h)
					}
					if _, err := s.record(t.Context(), disowned(testPolicy, r, others.owner, 0.5)); err != nil {
						t.Fatal(err)
					}
				}
			}
			for i, l := range leases {
				r, owner := s.row(t, l.RequestID), leases[1-i].RequestID
				switch {
				case i != tt.other:
					if r.State != request.Created {
						t.Errorf("%s is %s", l.RequestID, r.State)
					}
				case r.State != request.Uncertain || pgtest.Deref(r.ErrorKind) != "other_request" || !strings.Contains(pgtest.Deref(r.ErrorMessage), sidA) || !strings.Contains(pgtest.Deref(r.ErrorMessage), owner):
					t.Errorf("%s is %s: %s", l.RequestID, r.State, pgtest.Deref(r.ErrorMessage))
				case !r.Answered:
					t.Error("that no task is found would lead it back to pending, though Flex may have created it")
				}
			}
			// The first is recorded again, as after a commit whose answer was lost.
			before := s.row(t, leases[0].RequestID).State
			if _, err := s.c.recordBatch(t.Context(), records[:1]); err != nil {
				t.Fatal(err)
			}
			if after := s.row(t, leases[0].RequestID).State; after != before {
				t.Errorf("the first was %s and is %s after it was told again", before, after)
			}
			pgtest.CheckOutbox(t, s.pool)
		})
	}
}

// TestInteractionLocked: a replica that was stopped after it was told an interaction, before its commit, holds up
// nobody but who is told the same.
func TestInteractionLocked(t *testing.T) {
	t.Parallel()
	s := newRig(t)
	leases := s.leased(t, "r", 2)
	o, other := good, good
	o.Mine, other.Mine, other.InteractionSID = false, false, sidB
	_, free := pgtest.Holding(t, s.pool, database.TryLockSIDs, []string{sidB})
	done, err := s.c.recordBatch(t.Context(), []Record{told(leases[0], o), told(leases[1], other)})
	if err != nil || done[0].err != nil || !errors.Is(done[1].err, database.ErrLocked) {
		t.Errorf("%+v, %v", done, err)
	}
	free()
	if _, _, err := s.c.Complete(t.Context(), s.log, testPolicy, told(leases[1], other)); err != nil {
		t.Error(err)
	}
	if r := s.row(t, leases[1].RequestID); r.State != request.Created {
		t.Errorf("it is %s", r.State)
	}
}

// TestRecordLocked: one locked row costs no other outcome its record, and its own follows.
func TestRecordLocked(t *testing.T) {
	t.Parallel()
	s := newRig(t)
	var records []Record
	for i, l := range s.leased(t, "a", 20) {
		records = append(records, Record{Lease: l, Outcome: "created", Told: wasCreated(i), Move: request.Move{To: request.Created}})
	}
	_, release := pgtest.Holding(t, s.pool, `SELECT FROM outbox WHERE request_id = 'a-7' FOR UPDATE`)
	done, err := s.c.recordBatch(t.Context(), records)
	if err != nil {
		t.Fatal(err)
	}
	for i, d := range done {
		if mine := records[i].Lease.RequestID == "a-7"; errors.Is(d.err, database.ErrLocked) != mine || (d.err != nil) != mine || (d.settled == nil) != mine {
			t.Errorf("%s: %+v", records[i].Lease.RequestID, d)
		}
	}
	if n := s.created(t); n != 19 {
		t.Errorf("%d are created", n)
	}
	which := slices.IndexFunc(records, func(r Record) bool { return r.Lease.RequestID == "a-7" })
	if _, err := s.record(t.Context(), records[which]); !errors.Is(err, database.ErrLocked) {
		t.Error(err)
	}
	recorded := make(chan error, 1)
	go func() {
		_, err := s.c.again(context.WithoutCancel(t.Context()), s.log, records[which], database.ErrLocked)
		recorded <- err
	}()
	release()
	if err := <-recorded; err != nil {
		t.Error(err)
	}
	if n := s.created(t); n != 20 {
		t.Errorf("%d are created", n)
	}
	if h := pgtest.Histories(t, s.pool, "a-7"); h != "1 created" {
		t.Errorf("its history is %s", h)
	}
	pgtest.CheckOutbox(t, s.pool)
}

// TestRecordBesideGate: who holds the gate's row keeps no outcome from its record, though one asks for a pause.
func TestRecordBesideGate(t *testing.T) {
	t.Parallel()
	for _, wary := range []bool{false, true} {
		s := newRig(t)
		leases := s.leased(t, "g", 2)
		limited := flex.Outcome{Kind: flex.Refused, Limited: true, HTTPStatus: 429, RetryAfter: time.Hour, ErrorKind: "http_429", Message: "too many"}
		records := []Record{Decide(testPolicy, leases[0], limited, 0), Decide(testPolicy, leases[1], wasCreated(1), 0)}
		pgtest.Holding(t, s.pool, `SELECT FROM outbox_gate FOR UPDATE`)
		if wary {
			s.c.wary.Met()
		}
		done, err := s.c.recordBatch(t.Context(), records)
		if err != nil || done[0].err != nil || done[1].err != nil || s.c.wary.Now() != wary {
			t.Errorf("%+v, %v", done, err)
		}
		if !pgtest.One[bool](t, s.pool, `SELECT due_at > now() + interval '50 minutes' FROM outbox WHERE id = $1`, leases[0].ID) {
			t.Error("the request itself does not wait for Retry-After")
		}
	}
}

// TestPausesOfOneWrite: of several outcomes that ask for a pause the longest is asked for, and its word stands.
func TestPausesOfOneWrite(t *testing.T) {
	t.Parallel()
	const busy = 30 * time.Second // how late a busy machine may read what is left of a pause
	for _, tt := range []struct {
		name   string
		asked  []time.Duration
		state  gate.State
		reason string
		pause  time.Duration
		by     string
	}{
		{"nothing", []time.Duration{0}, gate.Open, "", 0, "migration"},
		{"one", []time.Duration{time.Minute}, gate.Paused, "429 1m0s", time.Minute, "w1"},
		{"longer stays", []time.Duration{time.Hour, time.Minute}, gate.Paused, "429 1h0m0s", time.Hour, "w1"},
		{"longer wins", []time.Duration{time.Minute, time.Hour}, gate.Paused, "429 1h0m0s", time.Hour, "w1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newRig(t)
			var records []Record
			for i, l := range s.leased(t, "p", len(tt.asked)) {
				d := tt.asked[i]
				records = append(records, told(l, flex.Outcome{Kind: flex.Refused, Limited: d > 0, RetryAfter: d, ErrorKind: "http_429", Message: "429 " + d.String()}))
			}
			if _, err := s.c.recordBatch(t.Context(), records); err != nil {
				t.Fatal(err)
			}
			g, err := gate.Read(t.Context(), s.pool)
			if err != nil || g.State != tt.state || g.Reason != tt.reason || g.PausedFor > tt.pause || g.PausedFor < tt.pause-busy || g.ChangedBy != tt.by {
				t.Errorf("%+v, %v", g, err)
			}
		})
	}
}

// BenchmarkRecord is BenchmarkWrites of package outbox, of the record.
func BenchmarkRecord(b *testing.B) {
	for _, size := range []int{1, 32, batchSize} {
		b.Run(fmt.Sprintf("record/%d", size), func(b *testing.B) {
			s := newRig(b)
			b.StopTimer()
			b.ResetTimer()
			for n := range b.N {
				var records []Record
				for _, l := range s.leased(b, fmt.Sprint("bench-", n), size) {
					o := good
					o.InteractionSID = fmt.Sprintf("KD%032x", l.ID)
					records = append(records, told(l, o))
				}
				b.StartTimer()
				done, err := s.c.recordBatch(b.Context(), records)
				b.StopTimer()
				if err != nil || slices.ContainsFunc(done, func(d recorded) bool { return d.err != nil }) {
					b.Fatal("a record was not applied:", err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*size), "ns/row")
		})
	}
}

// TestRecordAgainLocked: one request's row that somebody holds, while the history is asked about it, is that outcome's own
// trouble. A history that somebody holds as a whole keeps all outcomes from being recorded.
func TestRecordAgainLocked(t *testing.T) {
	t.Parallel()
	for sql, own := range map[string]bool{`SELECT FROM outbox FOR UPDATE`: true, `LOCK TABLE outbox_attempts`: false} {
		t.Run(sql, func(t *testing.T) {
			t.Parallel()
			s := newRig(t)
			l := s.leased(t, "a", 1)[0]
			_, release := pgtest.Holding(t, s.pool, sql)
			_, err := s.c.Try(t.Context(), told(l, good), true)
			stalled, why := s.c.Stall.Lasts(time.Now())
			if errors.Is(err, database.ErrLocked) != own || away(err) == own || (stalled == 0) != own {
				t.Errorf("%v; no outcome could be recorded for %v: %s", err, stalled, why)
			}
			release()
			if done, err := s.c.Try(t.Context(), told(l, good), true); err != nil || done == nil {
				t.Errorf("afterwards: %+v, %v", done, err)
			}
		})
	}
}

// TestNoConnectionIsNoLostAnswer: an outcome whose record got no connection was never recorded, so that its next try does not
// ask the history for it, on a connection for each outcome.
func TestNoConnectionIsNoLostAnswer(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		told flex.Outcome
		wary bool
	}{
		"one statement":            {told: good},
		"whose is the interaction": {told: wasCreated(1)},
		"beside locked rows":       {told: good, wary: true},
		"a pause comes first":      {told: flex.Outcome{Kind: flex.Refused, HTTPStatus: 429, Limited: true, RetryAfter: time.Second}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newRig(t)
			s.pool.Close() // it gives no connection
			if tt.wary {
				s.c.wary.Met()
			}
			if _, err := s.record(t.Context(), told(Lease{ID: 1, RequestID: "a", Attempt: 1}, tt.told)); err == nil || !database.NotCommitted(err) {
				t.Errorf("it may be committed after %v", err)
			}
		})
	}
}
