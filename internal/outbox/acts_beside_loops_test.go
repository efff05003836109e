package outbox

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"flexworker/internal/flex"
	"flexworker/internal/outbox/attempt"
	"flexworker/internal/outbox/gate"
	"flexworker/internal/outbox/operator"
	"flexworker/internal/outbox/request"
	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/flextest"
	"flexworker/internal/testing/pgtest"
)

var ann = operator.Act{Why: "a test"}

// retry, cancel and republish do the acts and say whom they changed.
func (s *Store) retry(ctx context.Context, a operator.Act, f operator.Filter) ([]string, error) {
	all, err := s.desk().Do(ctx, operator.ToRetry(false), a, f)
	return all.IDs, err
}

func (s *Store) cancel(ctx context.Context, a operator.Act, f operator.Filter) ([]string, error) {
	all, err := s.desk().Do(ctx, operator.ToCancel(), a, f)
	return all.IDs, err
}

func (s *Store) republish(ctx context.Context, a operator.Act, f operator.Filter) ([]string, error) {
	all, err := s.desk().Do(ctx, operator.ToRepublish(), a, f)
	return all.IDs, err
}

// acts are what is recorded of people, a line each.
func acts(t *testing.T, s *Store) string {
	t.Helper()
	return pgtest.One[string](t, s.pool, `SELECT coalesce(string_agg(concat_ws(' ', who, why, act, request_id, was), '; ' ORDER BY act, request_id), '') FROM outbox_acts`)
}

// TestRetryAnswersAnew: the second final result has another message id, so the
// stream takes it, and the audit understands both.
func TestRetryAnswersAnew(t *testing.T) {
	t.Parallel()
	b := newBooks(t, 10) // a-9 is rejected
	if ids, err := b.s.retry(t.Context(), ann, operator.Filter{State: request.Rejected}); err != nil || !slices.Equal(ids, []string{"a-9"}) {
		t.Fatal(ids, err)
	}
	b.want(t)
	srv := flextest.New(t)
	stop := start(t, newDeliverer(t, b.s, srv))
	inState(t, b.s, request.Created, 10)
	stop()
	b.publish()
	var got []string
	for _, m := range b.results.all(t) {
		if strings.Contains(string(m.Data), `"request_id":"a-9"`) {
			got = append(got, m.Subject+" "+m.Header.Get("Nats-Msg-Id"))
		}
	}
	key := flex.LookupKey("a-9")
	want := []string{"interactions.results.rejected.crm " + key + "-1", "interactions.results.created.crm " + key + "-2"}
	if !slices.Equal(got, want) {
		t.Errorf("results %v, want %v", got, want)
	}
	b.want(t)
	if d, err := b.s.desk().Show(t.Context(), "a-9"); err != nil || len(d.History) != 2 || d.History[1].Number != 2 || len(d.Acts) != 1 || d.Revision != 2 {
		t.Errorf("%+v, %v", d, err)
	}
}

// TestRepublish: the same ids, so the stream drops what it remembers; and the
// marks are set again.
func TestRepublish(t *testing.T) {
	t.Parallel()
	b := newBooks(t, 10)
	before := len(b.results.all(t))
	ids, err := b.s.republish(t.Context(), ann, operator.Filter{Since: time.Hour})
	if err != nil || len(ids) != 10 {
		t.Fatal(ids, err)
	}
	b.publish()
	if after := len(b.results.all(t)); after != before {
		t.Errorf("%d messages, %d before", after, before)
	}
	b.want(t)
}

// TestResolveRacesOutcome: a person decides while the late outcome of the attempt
// is recorded. One of them wins; the other is told, and left a trace or none.
func TestResolveRacesOutcome(t *testing.T) {
	t.Parallel()
	s := newStore(t).unhurried(t)
	const n = 40
	mustAdd(t, s, "r", n)
	leases := mustClaim(t, s, n)
	pgtest.Exec(t, s.pool, `UPDATE outbox SET leased_until = now() - interval '1 second'`)
	if got, err := s.lapse(t.Context()); err != nil || got != n {
		t.Fatal(got, err)
	}
	person, outcome := 0, 0
	for i, l := range leases {
		theirs, ours := fmt.Sprintf("KD%032x", i+1), fmt.Sprintf("KD%032x", 1000+i)
		var both sync.WaitGroup
		var byHand, late error
		o := good
		o.InteractionSID = ours
		both.Go(func() {
			if i%2 == 0 {
				byHand = s.byHand(t.Context(), l.RequestID, l.Attempt, theirs)
			} else {
				byHand = s.byHand(t.Context(), l.RequestID, l.Attempt, "")
			}
		})
		both.Go(func() { _, late = s.record(t.Context(), told(l, o)) })
		both.Wait()
		r := s.row(t, l.RequestID)
		done := pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox_acts WHERE request_id = $1`, l.RequestID)
		applied := pgtest.One[bool](t, s.pool, `SELECT applied FROM outbox_attempts WHERE outbox_id = $1 AND outcome = 'created'`, l.ID)
		switch {
		case byHand == nil && errors.Is(late, attempt.ErrLeaseLost):
			person++
			if done != 1 || applied || i%2 == 0 && pgtest.Deref(r.InteractionSID) != theirs || i%2 == 1 && r.State != request.Pending {
				t.Errorf("the person won: %+v, %d acts, applied %v", r, done, applied)
			}
		case errors.Is(byHand, operator.ErrNotUncertain) && late == nil:
			outcome++
			if done != 0 || !applied || pgtest.Deref(r.InteractionSID) != ours {
				t.Errorf("the outcome won: %+v, %d acts, applied %v", r, done, applied)
			}
		case byHand == nil && late == nil && i%2 == 1:
			// Said to be absent, not sent again yet, and created after all.
			outcome++
			if done != 1 || !applied || pgtest.Deref(r.InteractionSID) != ours {
				t.Errorf("the outcome came after the person: %+v, %d acts, applied %v", r, done, applied)
			}
		default:
			t.Errorf("%s: by hand %v, outcome %v: %+v", l.RequestID, byHand, late, r)
		}
	}
	t.Logf("the person won %d times, the outcome %d times", person, outcome)
}

// TestResolveAtOnce: at the moment at which a person gives an interaction to one request, another person, or an answer
// of Flex, gives it to another. It becomes that of one of them.
func TestResolveAtOnce(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"two people", "a person and an answer"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t).unhurried(t)
			mustAdd(t, s, "r", 2)
			leases := mustClaim(t, s, 2)
			for _, l := range leases {
				if _, err := s.record(t.Context(), told(l, flex.Outcome{ErrorKind: "timeout"})); err != nil {
					t.Fatal(err)
				}
			}
			o := good
			o.Mine = false
			pid, open := s.barrier(t)
			var both sync.WaitGroup
			var first, second error
			both.Go(func() {
				first = s.byHand(context.WithoutCancel(t.Context()), leases[0].RequestID, 1, sidA)
			})
			both.Go(func() {
				if name == "two people" {
					second = s.byHand(context.WithoutCancel(t.Context()), leases[1].RequestID, 1, sidA)
				} else {
					newDeliverer(t, s.another("w2"), flextest.New(t)).record(context.WithoutCancel(t.Context()), told(leases[1], o))
				}
			})
			s.waiting(t, pid, 2)
			open()
			both.Wait()
			for _, err := range []error{first, second} {
				if err != nil && !errors.Is(err, operator.ErrRefused) {
					t.Error(err)
				}
			}
			if n := pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox WHERE interaction_sid = $1`, sidA); n != 1 {
				t.Errorf("it is the interaction of %d requests", n)
			}
			if n := pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox_acts`); n > 0 && first != nil && second != nil {
				t.Errorf("%d acts are recorded, and people were told %v, %v", n, first, second)
			}
		})
	}
}

// TestHoldAndRelease: a fleet that runs stops, and the end of a pause does not open
// what a person has shut; released, it goes on.
func TestHoldAndRelease(t *testing.T) {
	t.Parallel()
	srv := flextest.New(t)
	s := newStore(t)
	for _, store := range []*Store{s, s.another("w2")} {
		start(t, newDeliverer(t, store, srv))
	}
	mustAdd(t, s, "before", 20)
	inState(t, s, request.Created, 20)
	if _, err := s.desk().Hold(t.Context(), ann); err != nil {
		t.Fatal(err)
	}
	mustAdd(t, s, "held", 20, func(e *request.Event) { e.Sequence += 100 })
	pause(t, s, time.Millisecond) // does not make it open by itself
	if g := readGate(t, s); g.State != gate.Held || g.Reason != ann.Why || g.ChangedBy != "ann@desk" {
		t.Errorf("%+v", g)
	}
	expect.Eventually(t, func() error { // both have asked the gate since
		if pgtest.One[int](t, s.pool, `SELECT extract(epoch FROM clock_timestamp() - held_since)::int FROM outbox_gate`) < 3 {
			return errors.New("not long enough")
		}
		return nil
	})
	if n := len(srv.Ledger()); n != 20 {
		t.Errorf("%d created while held", n)
	}
	bob := operator.NewDesk(s.pool, operator.Caller{Name: "bob", Right: operator.MayAct}, nil)
	if _, err := bob.Release(t.Context(), operator.Act{Why: "over"}); err != nil {
		t.Fatal(err)
	}
	inState(t, s, request.Created, 40)
	if g := readGate(t, s); g.State != gate.Open || g.Reason != "" || g.ChangedBy != "bob" {
		t.Errorf("%+v", g)
	}
	if got := acts(t, s); got != "ann@desk a test hold open; bob over release held" {
		t.Errorf("recorded %s", got)
	}
}

// TestHoldOverPause: why Flex had paused the fleet is not forgotten when a person holds
// it as well.
func TestHoldOverPause(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	pause(t, s, time.Hour)
	if _, err := s.desk().Hold(t.Context(), ann); err != nil {
		t.Fatal(err)
	}
	if g := readGate(t, s); g.State != gate.Held || g.Reason != ann.Why+"; before: 429 1h0m0s" {
		t.Errorf("%+v", g)
	}
}

// TestCancelRacesClaim: what is cancelled is never sent, what is claimed is not cancelled.
func TestCancelRacesClaim(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	mustAdd(t, s, "c", 200)
	var both sync.WaitGroup
	var claimed, cancelled int
	both.Go(func() {
		for range 20 {
			c, err := s.claim(t.Context(), 5)
			if err != nil {
				t.Error(err)
			}
			claimed += len(c.leases)
		}
	})
	both.Go(func() {
		for range 20 {
			ids, err := s.cancel(t.Context(), ann, operator.Filter{Limit: 5})
			if err != nil {
				t.Error(err)
			}
			cancelled += len(ids)
		}
	})
	both.Wait()
	if n := pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox WHERE state = 'sending'`); n != claimed {
		t.Errorf("%d sending, %d claimed", n, claimed)
	}
	if n := pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox WHERE state = 'cancelled' AND attempt = 0`); n != cancelled {
		t.Errorf("%d cancelled unsent, %d were", n, cancelled)
	}
}

// TestDeadRowsBlockNoReplay: what was settled for bad can be sent again,
// by retry under the same id, or by the id's owner once retention removed it
// (0xfurai/peekaping#266).
func TestDeadRowsBlockNoReplay(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	id := mustAdd(t, s, "a", 1)[0]
	l := mustClaim(t, s, 1)[0]
	done, err := s.record(t.Context(), record{Lease: l, Outcome: "rejected", Told: flex.Outcome{Kind: flex.Rejected, ErrorKind: "http_400"}, Move: request.Move{To: request.Rejected}})
	if err != nil {
		t.Fatal(err)
	}
	first := done.MessageID()
	if ids, err := s.retry(t.Context(), person, operator.Filter{RequestIDs: []string{id}}); err != nil || len(ids) != 1 {
		t.Fatal(ids, err)
	}
	l = mustClaim(t, s, 1)[0]
	done, err = s.record(t.Context(), record{Lease: l, Outcome: "rejected", Told: flex.Outcome{Kind: flex.Rejected, ErrorKind: "http_400"}, Move: request.Move{To: request.Rejected}})
	if err != nil {
		t.Fatal(err)
	}
	if done.MessageID() == first {
		t.Error("the second result would be dropped as a repeat of the first")
	}
	pgtest.Exec(t, s.pool, `UPDATE outbox SET settled_at = now() - interval '2 days', published_at = now()`)
	if n, err := s.prune(t.Context(), time.Hour); err != nil || n != 1 {
		t.Fatal(n, err)
	}
	if a, err := s.Add(t.Context(), event(id, 2)); err != nil || a != Accepted {
		t.Errorf("asked anew after it was removed: %v, %v", a, err)
	}
}
