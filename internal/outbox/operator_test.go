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
	"flexworker/internal/outbox/gate"
	"flexworker/internal/outbox/operator"
	"flexworker/internal/outbox/request"
	"flexworker/internal/testing/flextest"
)

var ann = operator.Act{Who: "ann@desk", Why: "a test"}

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

// everyState adds one request for each state, named like it, and one that was
// rejected for its faults.
func everyState(t *testing.T, s *Store) {
	t.Helper()
	events := make([]request.Event, 0, len(request.States)+1)
	for i, state := range request.States {
		events = append(events, event(string(state), uint64(i+1)))
	}
	events = append(events, event("faulty", 20, faulty("is no channel")))
	if _, err := s.addBatch(t.Context(), events); err != nil {
		t.Fatal(err)
	}
	settled := `settled_at = clock_timestamp(), published_at = clock_timestamp(), due_at = NULL`
	for state, set := range map[request.State]string{
		request.Sending:   `attempt = 1, due_at = NULL, leased_by = 'w', leased_until = now() + interval '1 hour'`,
		request.Uncertain: `attempt = 1, due_at = NULL, attempt_began_at = now(), uncertain_since = now(), for_person_since = now(), error_kind = 'timeout'`,
		request.Created:   `attempt = 1, interaction_sid = '` + sidA + `', resolved_by = 'response', ` + settled,
		request.Rejected:  `attempt = 1, error_kind = 'http_400', ` + settled,
		request.Abandoned: `attempt = 1, error_kind = 'attempts_used_up', ` + settled,
		request.Expired:   `expires_at = now() - interval '1 hour', error_kind = 'expired', ` + settled,
		request.Cancelled: `expires_at = now() + interval '1 hour', error_kind = 'cancelled', ` + settled,
	} {
		exec(t, s.pool, `UPDATE outbox SET state = $1, `+set+` WHERE request_id = $1`, string(state))
	}
	exec(t, s.pool, `UPDATE outbox SET published_at = clock_timestamp() WHERE request_id = 'faulty'`)
}

// acts are what is recorded of people, a line each.
func acts(t *testing.T, s *Store) string {
	t.Helper()
	return one[string](t, s.pool, `SELECT coalesce(string_agg(concat_ws(' ', who, why, act, request_id, was), '; ' ORDER BY act, request_id), '') FROM outbox_acts`)
}

// TestActsByState: which states each act takes, what it says beforehand, and
// what it records. Whatever else there is stays as it was.
func TestActsByState(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		act  operator.Change
		do   func(*Store, operator.Act, operator.Filter) ([]string, error)
		want []string
		to   request.State // "": unchanged
	}{
		{operator.ToRetry(false), func(s *Store, a operator.Act, f operator.Filter) ([]string, error) { return s.retry(t.Context(), a, f) },
			[]string{"abandoned", "cancelled", "expired", "rejected"}, request.Pending},
		{operator.ToCancel(), func(s *Store, a operator.Act, f operator.Filter) ([]string, error) {
			return s.cancel(t.Context(), a, f)
		},
			[]string{"pending", "uncertain"}, request.Cancelled},
		{operator.ToRepublish(), func(s *Store, a operator.Act, f operator.Filter) ([]string, error) {
			return s.republish(t.Context(), a, f)
		},
			[]string{"abandoned", "cancelled", "created", "expired", "faulty", "rejected"}, ""},
	} {
		t.Run(tt.act.Name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			everyState(t, s)
			const picture = `SELECT string_agg(request_id || ' ' || state, ' ' ORDER BY id) FROM outbox WHERE request_id <> ALL($1)`
			rest := one[string](t, s.pool, picture, tt.want)
			all, err := s.desk().Matching(t.Context(), tt.act, ann, operator.Filter{})
			if err != nil || all.N != len(tt.want) || len(all.IDs) != min(all.N, 5) {
				t.Errorf("%+v would change, %v", all, err)
			}
			ids, err := tt.do(s, ann, operator.Filter{})
			if slices.Sort(ids); err != nil || !slices.Equal(ids, tt.want) {
				t.Errorf("changed %v, %v; want %v", ids, err, tt.want)
			}
			if now := one[string](t, s.pool, picture, tt.want); now != rest {
				t.Errorf("the others became %s, were %s", now, rest)
			}
			var want []string
			for _, id := range tt.want {
				was := id
				if id == "faulty" {
					was = "rejected"
				}
				want = append(want, fmt.Sprintf("ann@desk a test %s %s %s", tt.act.Name, id, was))
				if id == "uncertain" { // cancelled, but it may exist
					if !one[bool](t, s.pool, `SELECT state = 'uncertain' AND cancel_requested_at IS NOT NULL FROM outbox WHERE request_id = 'uncertain'`) {
						t.Error("uncertain was not kept from being sent again")
					}
					continue
				}
				if got := s.row(t, id); tt.to != "" && got.State != tt.to || tt.to == "" && (string(got.State) != was || got.PublishedAt != nil) {
					t.Errorf("%s is %s, published %v", id, got.State, got.PublishedAt)
				}
			}
			if got := acts(t, s); got != strings.Join(want, "; ") {
				t.Errorf("recorded %s", got)
			}
			if ids, err := tt.do(s, ann, operator.Filter{}); err != nil || len(ids) != 0 {
				t.Errorf("once more: %v, %v", ids, err)
			}
			for _, bad := range []operator.Act{{Who: "", Why: "x"}, {Who: "x", Why: ""}} {
				everyID := operator.Filter{RequestIDs: []string{"faulty", "sending", "nobody"}}
				if ids, err := tt.do(s, bad, everyID); err != nil || len(ids) != 0 {
					t.Errorf("nothing to do: %v, %v", ids, err)
				}
			}
		})
	}
}

// TestActWantsWhoAndWhy: an act that nobody answers for changes nothing.
func TestActWantsWhoAndWhy(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	mustAdd(t, s, "c", 1)
	for _, bad := range []operator.Act{{Who: "", Why: "x"}, {Who: "x", Why: ""}} {
		if _, err := s.cancel(t.Context(), bad, operator.Filter{}); err == nil || !strings.Contains(err.Error(), "who_and_why_are_said") {
			t.Errorf("%+v: %v", bad, err)
		}
		if _, err := s.desk().Hold(t.Context(), bad); err == nil {
			t.Errorf("hold by %+v", bad)
		}
	}
	if r := s.row(t, "c-1"); r.State != request.Pending || readGate(t, s).State != gate.Open {
		t.Errorf("it is %s, the gate %s", r.State, readGate(t, s).State)
	}
}

// TestFilter: each part of a filter alone. A batch is stored in the order of its ids.
func TestFilter(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	everyState(t, s)
	exec(t, s.pool, `UPDATE outbox SET received_at = received_at - interval '2 hours' WHERE request_id IN ('pending', 'created')`)
	exec(t, s.pool, `UPDATE outbox SET settled_at = settled_at - interval '2 hours' WHERE request_id = 'created'`)
	exec(t, s.pool, `UPDATE outbox SET source = 'shop' WHERE request_id IN ('sending', 'expired')`)
	for _, tt := range []struct {
		f    operator.Filter
		want string
	}{
		{operator.Filter{}, "abandoned cancelled created expired faulty pending rejected sending uncertain"},
		{operator.Filter{Limit: 2}, "sending uncertain"},
		{operator.Filter{State: request.Rejected}, "faulty rejected"},
		{operator.Filter{Source: "shop"}, "expired sending"},
		{operator.Filter{ErrorKind: "http_400"}, "rejected"},
		{operator.Filter{OlderThan: time.Hour}, "created pending"},
		{operator.Filter{Since: time.Hour}, "abandoned cancelled expired faulty rejected"},
		{operator.Filter{RequestIDs: []string{"expired", "nobody"}}, "expired"},
		{operator.Filter{RequestIDs: []string{}}, ""},
		{operator.Filter{State: "nonsense"}, ""},
		{operator.Filter{State: request.Created, OlderThan: time.Hour}, "created"},
	} {
		rows, err := s.desk().List(t.Context(), tt.f)
		if err != nil {
			t.Fatal(err)
		}
		var ids []string
		for _, r := range rows {
			ids = append(ids, r.RequestID)
		}
		slices.Reverse(ids) // the newest is first
		if got := strings.Join(ids, " "); got != tt.want {
			t.Errorf("%+v gives %s, want %s", tt.f, got, tt.want)
		}
	}
	ids, err := s.retry(t.Context(), ann, operator.Filter{Limit: 1})
	if err != nil || !slices.Equal(ids, []string{"abandoned"}) {
		t.Errorf("one of many: %v, %v", ids, err)
	}
}

// TestRetryOfExpired: a deadline that passed does not end it at once again; one
// that is yet to come stays.
func TestRetryOfExpired(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	everyState(t, s)
	if _, err := s.retry(t.Context(), ann, operator.Filter{RequestIDs: []string{"expired", "cancelled", "abandoned"}}); err != nil {
		t.Fatal(err)
	}
	if n, err := s.expire(t.Context()); n != 0 || err != nil {
		t.Fatal(n, err)
	}
	if got := one[string](t, s.pool, `SELECT string_agg(request_id, ' ') FROM outbox WHERE expires_at > now()`); got != "cancelled" {
		t.Errorf("a deadline is left to %s", got)
	}
	if r := s.row(t, "abandoned"); r.Attempt != 1 || r.Spared != 1 {
		t.Errorf("the count is not fresh: %+v", r)
	}
	mustClaim(t, s, 4) // with the pending one
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
	if d, err := b.s.desk().Show(t.Context(), "a-9"); err != nil || len(d.History) != 2 || d.History[1].Number != 2 || len(d.Acts) != 1 || d.Settlement != 2 {
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

// TestResolveByHand: only what is uncertain, only with the sid of an interaction.
func TestResolveByHand(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	everyState(t, s)
	for _, sid := range []string{"", "KD12", "WT0000000000000000000000000000000a", sidA + "0", "KDzz" + sidA[4:], sidA + "\n"} {
		if err := s.desk().ResolveCreated(t.Context(), ann, "uncertain", sid, flex.Outcome{}); err == nil {
			t.Errorf("%q was believed", sid)
		}
	}
	for _, state := range append(request.States[:], "nobody") {
		if state == request.Uncertain {
			continue
		}
		if err := s.desk().ResolveCreated(t.Context(), ann, string(state), sidB, flex.Outcome{}); !errors.Is(err, operator.ErrNotUncertain) {
			t.Errorf("%s as created: %v", state, err)
		}
		if err := s.desk().ResolveAbsent(t.Context(), ann, string(state)); !errors.Is(err, operator.ErrNotUncertain) {
			t.Errorf("%s as absent: %v", state, err)
		}
	}
	if got := acts(t, s); got != "" {
		t.Errorf("recorded %s", got)
	}
	if err := s.desk().ResolveAbsent(t.Context(), ann, "uncertain"); err != nil {
		t.Fatal(err)
	}
	if r := s.row(t, "uncertain"); r.State != request.Pending || deref(r.ErrorKind) != "absent" {
		t.Errorf("%+v", r)
	}
	c, err := s.claim(t.Context(), 9) // it and the pending one
	if err != nil || len(c.leases) != 2 {
		t.Fatal(c, err)
	}
	exec(t, s.pool, `UPDATE outbox SET leased_until = now() - interval '1 second' WHERE request_id = 'uncertain'`)
	if n, err := s.lapse(t.Context()); err != nil || n != 1 {
		t.Fatal(n, err)
	}
	if err := s.desk().ResolveCreated(t.Context(), ann, "uncertain", sidB, flex.Outcome{TaskSID: "WT7", AssignmentStatus: "assigned", Response: []byte(`{"a":1}`)}); err != nil {
		t.Fatal(err)
	}
	r := s.row(t, "uncertain")
	if r.State != request.Created || deref(r.InteractionSID) != sidB || deref(r.ResolvedBy) != "operator" || deref(r.TaskSID) != "WT7" ||
		deref(r.AssignmentStatus) != "assigned" || deref(r.Response) != `{"a":1}` || r.ErrorKind != nil || r.DueIn != nil {
		t.Errorf("%+v", r)
	}
	const want = "ann@desk a test resolve absent uncertain uncertain; ann@desk a test resolve created uncertain uncertain"
	if got := acts(t, s); got != want {
		t.Errorf("recorded %s", got)
	}
}

// TestResolveRacesOutcome: a person decides while the late outcome of the attempt
// is recorded. One of them wins; the other is told, and left a trace or none.
func TestResolveRacesOutcome(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	const n = 40
	mustAdd(t, s, "r", n)
	leases := mustClaim(t, s, n)
	exec(t, s.pool, `UPDATE outbox SET leased_until = now() - interval '1 second'`)
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
				byHand = s.desk().ResolveCreated(t.Context(), ann, l.RequestID, theirs, flex.Outcome{})
			} else {
				byHand = s.desk().ResolveAbsent(t.Context(), ann, l.RequestID)
			}
		})
		both.Go(func() { _, late = s.record(t.Context(), told(l, o)) })
		both.Wait()
		r := s.row(t, l.RequestID)
		done := one[int](t, s.pool, `SELECT count(*) FROM outbox_acts WHERE request_id = $1`, l.RequestID)
		applied := one[bool](t, s.pool, `SELECT applied FROM outbox_attempts WHERE outbox_id = $1 AND outcome = 'created'`, l.ID)
		switch {
		case byHand == nil && errors.Is(late, ErrLeaseLost):
			person++
			if done != 1 || applied || i%2 == 0 && deref(r.InteractionSID) != theirs || i%2 == 1 && r.State != request.Pending {
				t.Errorf("the person won: %+v, %d acts, applied %v", r, done, applied)
			}
		case errors.Is(byHand, operator.ErrNotUncertain) && late == nil:
			outcome++
			if done != 0 || !applied || deref(r.InteractionSID) != ours {
				t.Errorf("the outcome won: %+v, %d acts, applied %v", r, done, applied)
			}
		case byHand == nil && late == nil && i%2 == 1:
			// Said to be absent, not sent again yet, and created after all.
			outcome++
			if done != 1 || !applied || deref(r.InteractionSID) != ours {
				t.Errorf("the outcome came after the person: %+v, %d acts, applied %v", r, done, applied)
			}
		default:
			t.Errorf("%s: by hand %v, outcome %v: %+v", l.RequestID, byHand, late, r)
		}
	}
	t.Logf("the person won %d times, the outcome %d times", person, outcome)
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
	if g := readGate(t, s); g.State != gate.Held || g.Reason != ann.Why || g.ChangedBy != ann.Who {
		t.Errorf("%+v", g)
	}
	eventually(t, func() error { // both have asked the gate since
		if one[int](t, s.pool, `SELECT extract(epoch FROM clock_timestamp() - held_since)::int FROM outbox_gate`) < 3 {
			return errors.New("not long enough")
		}
		return nil
	})
	if n := len(srv.Ledger()); n != 20 {
		t.Errorf("%d created while held", n)
	}
	if _, err := s.desk().Release(t.Context(), operator.Act{Who: "bob", Why: "over"}); err != nil {
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
	if n := one[int](t, s.pool, `SELECT count(*) FROM outbox WHERE state = 'sending'`); n != claimed {
		t.Errorf("%d sending, %d claimed", n, claimed)
	}
	if n := one[int](t, s.pool, `SELECT count(*) FROM outbox WHERE state = 'cancelled' AND attempt = 0`); n != cancelled {
		t.Errorf("%d cancelled unsent, %d were", n, cancelled)
	}
}

// TestRetryNotBefore: who retries what was cancelled does not call people sooner than
// they asked for.
func TestRetryNotBefore(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	for i, tt := range []struct {
		notBefore string
		later     bool
	}{
		{`"2100-01-01T09:00:00.5+02:00"`, true},
		{`"2100-01-01T09:00:00Z"`, true},
		{`"2100-01-01t09:00:00z"`, true}, {`"2100-01-01t09:00:00.5-02:00"`, true}, {`"2100-12-31T23:59:60Z"`, true},
		{`"2000-01-01T09:00:00Z"`, false},
		{`null`, false},
		{`"2000-01-01T09:00:00+23:00"`, false}, // an offset that Postgres does not take
		// What an earlier version let in, and Postgres does not take.
		{`"2000-01-01T09:00:00,5Z"`, false}, {`"2000-01-01T09:00:00+14:60"`, false}, {`"2000-01-01T09:00:00.` + strings.Repeat("5", 200) + `Z"`, false},
	} {
		id := fmt.Sprint("r-", i)
		if _, err := s.Add(t.Context(), event(id, uint64(i+1), func(e *request.Event) {
			e.Request = []byte(`{"channel":{},"not_before":` + tt.notBefore + `}`)
		})); err != nil {
			t.Fatal(err)
		}
		chosen := operator.Filter{RequestIDs: []string{id}}
		if _, err := s.cancel(t.Context(), operator.Act{Who: "ann", Why: "x"}, chosen); err != nil {
			t.Fatal(err)
		}
		if ids, err := s.retry(t.Context(), operator.Act{Who: "ann", Why: "x"}, chosen); err != nil || len(ids) != 1 {
			t.Fatal(tt.notBefore, ids, err)
		}
		if later := one[bool](t, s.pool, `SELECT due_at > now() + interval '1 hour' FROM outbox WHERE request_id = '`+id+`'`); later != tt.later {
			t.Errorf("%s: due later %t", tt.notBefore, later)
		}
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
	done, err := s.record(t.Context(), record{lease: l, outcome: "rejected", told: flex.Outcome{Kind: flex.Rejected, ErrorKind: "http_400"}, move: request.Move{To: request.Rejected}})
	if err != nil {
		t.Fatal(err)
	}
	first := done.MessageID()
	if ids, err := s.retry(t.Context(), person, operator.Filter{RequestIDs: []string{id}}); err != nil || len(ids) != 1 {
		t.Fatal(ids, err)
	}
	l = mustClaim(t, s, 1)[0]
	done, err = s.record(t.Context(), record{lease: l, outcome: "rejected", told: flex.Outcome{Kind: flex.Rejected, ErrorKind: "http_400"}, move: request.Move{To: request.Rejected}})
	if err != nil {
		t.Fatal(err)
	}
	if done.MessageID() == first {
		t.Error("the second result would be dropped as a repeat of the first")
	}
	exec(t, s.pool, `UPDATE outbox SET settled_at = now() - interval '2 days', published_at = now()`)
	if n, err := s.prune(t.Context(), time.Hour); err != nil || n != 1 {
		t.Fatal(n, err)
	}
	if a, err := s.Add(t.Context(), event(id, 2)); err != nil || a != Accepted {
		t.Errorf("asked anew after it was removed: %v, %v", a, err)
	}
}
