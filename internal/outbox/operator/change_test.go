package operator_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"flexworker/internal/outbox/gate"
	"flexworker/internal/outbox/operator"
	"flexworker/internal/outbox/request"
	"flexworker/internal/testing/pgtest"
)

// TestActsByState: which states each act takes, what it says beforehand, and
// what it records. Whatever else there is stays as it was.
func TestActsByState(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		act  operator.Change
		do   func(*rig, operator.Act, operator.Filter) ([]string, error)
		want []string
		to   request.State // "": unchanged
	}{
		{operator.ToRetry(false), func(s *rig, a operator.Act, f operator.Filter) ([]string, error) { return s.retry(t.Context(), a, f) },
			[]string{"abandoned", "cancelled", "expired", "rejected"}, request.Pending},
		{operator.ToCancel(), func(s *rig, a operator.Act, f operator.Filter) ([]string, error) {
			return s.cancel(t.Context(), a, f)
		},
			[]string{"pending", "uncertain"}, request.Cancelled},
		{operator.ToRepublish(), func(s *rig, a operator.Act, f operator.Filter) ([]string, error) {
			return s.republish(t.Context(), a, f)
		},
			[]string{"abandoned", "cancelled", "created", "expired", "faulty", "rejected"}, ""},
	} {
		t.Run(tt.act.Name, func(t *testing.T) {
			t.Parallel()
			s := newRig(t)
			everyState(t, s)
			const picture = `SELECT string_agg(request_id || ' ' || state, ' ' ORDER BY id) FROM outbox WHERE request_id <> ALL($1)`
			rest := pgtest.One[string](t, s.pool, picture, tt.want)
			all, err := s.desk.Matching(t.Context(), tt.act, nil, operator.Filter{})
			if err != nil || all.N != len(tt.want) || len(all.IDs) != min(all.N, 5) {
				t.Errorf("%+v would change, %v", all, err)
			}
			ids, err := tt.do(s, aTest, operator.Filter{})
			if slices.Sort(ids); err != nil || !slices.Equal(ids, tt.want) {
				t.Errorf("changed %v, %v; want %v", ids, err, tt.want)
			}
			if now := pgtest.One[string](t, s.pool, picture, tt.want); now != rest {
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
					if !pgtest.One[bool](t, s.pool, `SELECT state = 'uncertain' AND cancel_requested_at IS NOT NULL FROM outbox WHERE request_id = 'uncertain'`) {
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
			if ids, err := tt.do(s, aTest, operator.Filter{}); err != nil || len(ids) != 0 {
				t.Errorf("once more: %v, %v", ids, err)
			}
			everyID := operator.Filter{RequestIDs: []string{"faulty", "sending", "nobody"}}
			if ids, err := tt.do(s, aTest, everyID); err != nil || len(ids) != 0 {
				t.Errorf("nothing to do: %v, %v", ids, err)
			}
		})
	}
}

// TestActWantsWhoAndWhy: an act that nobody answers for changes nothing.
func TestActWantsWhoAndWhy(t *testing.T) {
	t.Parallel()
	s := newRig(t)
	mustAdd(t, s, "c", 1)
	for _, bad := range []struct{ who, why string }{{"", "x"}, {" ", "x"}, {"x", ""}, {"x", "\t"}, {"x", "..."}, {"x", "…"}} {
		desk := s.desk.For(operator.Caller{Name: bad.who, Right: operator.MayAct})
		if _, err := desk.Do(t.Context(), operator.ToCancel(), operator.Act{Why: bad.why}, operator.Filter{}); !errors.Is(err, operator.ErrNoReason) {
			t.Errorf("%+v: %v", bad, err)
		}
		if _, err := desk.Hold(t.Context(), operator.Act{Why: bad.why}); !errors.Is(err, operator.ErrNoReason) {
			t.Errorf("hold by %+v: %v", bad, err)
		}
	}
	for _, bad := range []string{`'', 'x'`, `'x', ''`} {
		_, err := s.pool.Exec(t.Context(), `INSERT INTO outbox_acts (who, why, act, was) SELECT `+bad+`, 'hold', 'open'`)
		if err == nil || !strings.Contains(err.Error(), "who_and_why_are_said") {
			t.Errorf("the table takes %s: %v", bad, err)
		}
	}
	if r := s.row(t, "c-1"); r.State != request.Pending || readGate(t, s).State != gate.Open {
		t.Errorf("it is %s, the gate %s", r.State, readGate(t, s).State)
	}
}

// TestActOfAnotherAttempt: Ann and Bob have one list. Ann's decision about attempt 1 leads to
// attempt 2; what Bob typed for attempt 1 is not obeyed for attempt 2, whichever act it is.
func TestActOfAnotherAttempt(t *testing.T) {
	t.Parallel()
	s := newRig(t)
	mustAdd(t, s, "a", 1)
	uncertainAgain(t, s)
	bob := s.desk.For(operator.Caller{Name: "bob", Right: operator.MayAct})
	listed := ofAttempt(1, operator.Act{Why: "the list"})
	if _, err := s.desk.Resolve(t.Context(), ofAttempt(1, aTest), "a-1", absent); err != nil {
		t.Fatal(err)
	}
	uncertainAgain(t, s)
	before := pgtest.One[string](t, s.pool, `SELECT o::text FROM outbox o`)
	for _, decision := range []operator.Decision{absent, created(sidB)} {
		if r, err := bob.Resolve(t.Context(), listed, "a-1", decision); !errors.Is(err, operator.ErrOtherAttempt) || r.Request.Attempt != 2 {
			t.Errorf("%+v: %v, and attempt %d", decision, err, r.Request.Attempt)
		}
	}
	for _, c := range []operator.Change{operator.ToCancel(), operator.ToLookUp(), operator.ToRetry(false), operator.ToRetry(true)} {
		if all, err := s.desk.Matching(t.Context(), c, listed.Attempt, operator.Filter{RequestIDs: []string{"a-1"}}); err != nil || all.N != 0 {
			t.Errorf("%s would change %+v, %v", c.Name, all, err)
		}
		if all, err := bob.Do(t.Context(), c, listed, operator.Filter{RequestIDs: []string{"a-1"}}); err != nil || all.N != 0 {
			t.Errorf("%s changed %+v, %v", c.Name, all, err)
		}
	}
	if now := pgtest.One[string](t, s.pool, `SELECT o::text FROM outbox o`); now != before {
		t.Errorf("it became %s", now)
	}
	if got := pgtest.One[string](t, s.pool, `SELECT string_agg(who || ' ' || attempt, ' ') FROM outbox_acts`); got != "ann@desk 1" {
		t.Errorf("recorded %s", got)
	}
	d, err := s.desk.Show(t.Context(), "a-1")
	if got := d.Since(1); err != nil || !strings.HasPrefix(got, "resolve absent by ann@desk at ") || !strings.Contains(got, "attempt 2 by ") {
		t.Errorf("since then: %s, %v", got, err)
	}
	if got := d.Since(7); got != "there is no attempt 7: the latest is attempt 2" {
		t.Error(got)
	}
	if _, err := bob.Resolve(t.Context(), ofAttempt(2, listed), "a-1", absent); err != nil {
		t.Error(err)
	}
}

// TestRetryOfUndecided: what may exist is looked up before it is sent again, however it
// ended; --unverified sends it, and remembers that an attempt was never decided.
func TestRetryOfUndecided(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, set  string
		unverified bool
		want       request.State
		what       string
		undecided  bool
	}{
		{"abandoned by UNCERTAIN_POLICY=fail", `state = 'abandoned', error_kind = 'undecided'`, false, request.Uncertain, operator.AskedFirst, false},
		{"the same, unverified", `state = 'abandoned', error_kind = 'undecided'`, true, request.Pending, operator.SentAgain, true},
		{"refused after an undecided attempt", `state = 'rejected', error_kind = 'http_400', undecided = true`, false, request.Uncertain, operator.AskedFirst, true},
		{"expired after an undecided attempt", `state = 'expired', error_kind = 'expired', undecided = true`, false, request.Uncertain, operator.AskedFirst, true},
		{"cancelled while it was uncertain", `state = 'cancelled', error_kind = 'undecided', cancel_requested_at = now()`, false, request.Uncertain, operator.AskedFirst, false},
		{"proved absent and used up", `state = 'abandoned', error_kind = 'attempts_used_up'`, false, request.Pending, operator.SentAgain, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newRig(t)
			mustAdd(t, s, "a", 1)
			uncertainAgain(t, s)
			pgtest.Exec(t, s.pool, `UPDATE outbox SET due_at = NULL, lookups = 9, settled_at = now(), published_at = now(), resolved_by = 'lookup', `+tt.set)
			all, err := s.desk.Matching(t.Context(), operator.ToRetry(tt.unverified), nil, operator.Filter{})
			if err != nil || all.N != 1 || all.Of[tt.what] != 1 {
				t.Errorf("the preview says %+v, %v", all, err)
			}
			if all, err = s.desk.Do(t.Context(), operator.ToRetry(tt.unverified), ofAttempt(1, aTest), operator.Filter{RequestIDs: []string{"a-1"}}); err != nil || all.N != 1 || all.Of[tt.what] != 1 {
				t.Fatal(all, err)
			}
			d, err := s.desk.Show(t.Context(), "a-1")
			if err != nil || d.State != tt.want || d.DueAt == nil || d.DueAt.After(d.Now) || d.Undecided != tt.undecided || d.Revision != 2 || d.Uncounted != 1 ||
				d.ForPersonSince != nil || d.CancelRequestedAt != nil || d.SettledAt != nil || d.ResolvedBy != nil {
				t.Errorf("it became %+v, %v", d, err)
			}
			if tt.want == request.Uncertain && (d.Lookups != 0 || d.UncertainSince == nil) {
				t.Errorf("no fresh lookup: %+v", d)
			}
		})
	}
}

// TestRetryOfPending: what waits is due now, and not sooner than its sender has asked for.
func TestRetryOfPending(t *testing.T) {
	t.Parallel()
	s := newRig(t)
	mustAdd(t, s, "a", 2)
	pgtest.Exec(t, s.pool, `UPDATE outbox SET due_at = now() + interval '1 hour', attempt = 1, error_kind = 'http_429'`)
	pgtest.Exec(t, s.pool, `UPDATE outbox SET request = '{"not_before":"2100-01-01T09:00:00Z"}', due_at = '2100-01-01T09:00:00Z' WHERE request_id = 'a-2'`)
	all, err := s.desk.Do(t.Context(), operator.ToRetry(false), aTest, operator.Filter{RequestIDs: []string{"a-1", "a-2"}})
	if err != nil || !slices.Equal(all.IDs, []string{"a-1"}) || all.Of[operator.DueNow] != 1 {
		t.Fatal(all, err)
	}
	if d, err := s.desk.Show(t.Context(), "a-1"); err != nil || d.State != request.Pending || d.DueAt.After(d.Now) || d.Revision != 1 || d.Uncounted != 0 {
		t.Errorf("%+v, %v", d, err)
	}
}

// TestRetryNotBefore: who retries what was cancelled does not call people sooner than
// they asked for.
func TestRetryNotBefore(t *testing.T) {
	t.Parallel()
	s := newRig(t)
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
		if _, err := s.store.Add(t.Context(), event(id, uint64(i+1), func(e *request.Event) {
			e.Request = []byte(`{"channel":{},"not_before":` + tt.notBefore + `}`)
		})); err != nil {
			t.Fatal(err)
		}
		chosen := operator.Filter{RequestIDs: []string{id}}
		if _, err := s.cancel(t.Context(), operator.Act{Why: "x"}, chosen); err != nil {
			t.Fatal(err)
		}
		if ids, err := s.retry(t.Context(), operator.Act{Why: "x"}, chosen); err != nil || len(ids) != 1 {
			t.Fatal(tt.notBefore, ids, err)
		}
		if later := pgtest.One[bool](t, s.pool, `SELECT due_at > now() + interval '1 hour' FROM outbox WHERE request_id = '`+id+`'`); later != tt.later {
			t.Errorf("%s: due later %t", tt.notBefore, later)
		}
	}
}

// TestRetryOfExpired: a deadline that passed does not end it at once again; one
// that is yet to come stays.
func TestRetryOfExpired(t *testing.T) {
	t.Parallel()
	s := newRig(t)
	everyState(t, s)
	if _, err := s.retry(t.Context(), aTest, operator.Filter{RequestIDs: []string{"expired", "cancelled", "abandoned"}}); err != nil {
		t.Fatal(err)
	}
	if n := pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox WHERE state = 'pending' AND expires_at <= now()`); n != 0 {
		t.Fatalf("%d would expire", n)
	}
	if got := pgtest.One[string](t, s.pool, `SELECT string_agg(request_id, ' ') FROM outbox WHERE expires_at > now()`); got != "cancelled" {
		t.Errorf("a deadline is left to %s", got)
	}
	if r := s.row(t, "abandoned"); r.Attempt != 1 || r.Uncounted != 1 {
		t.Errorf("the count is not fresh: %+v", r)
	}
	if n := pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox WHERE state = 'pending' AND due_at <= now()`); n != 4 { // with the pending one
		t.Errorf("%d are due", n)
	}
}

// TestRetrySaysWhenAndWhether: the preview of a retry says that a not_before still counts, that
// a deadline that passed does not, and claims of nothing unsent that it is sent again.
func TestRetrySaysWhenAndWhether(t *testing.T) {
	t.Parallel()
	s := newRig(t)
	for _, c := range []struct{ set, want string }{
		{`request = '{"not_before":"2099-01-01T00:00:00Z"}', state = 'cancelled', error_kind = 'cancelled'`, "sent, due 2099-01-01T00:00:00Z, its not_before"},
		{`state = 'cancelled', error_kind = 'cancelled', attempt = 1, uncounted = 0`, "sent again"},
		{`state = 'expired', error_kind = 'expired', expires_at = now() - interval '1 hour'`, "sent; its expires_at has passed and no longer counts"},
	} {
		pgtest.Exec(t, s.pool, `DELETE FROM outbox`)
		pgtest.Exec(t, s.pool, `INSERT INTO outbox (request_id, source, state, request, due_at, stream_sequence, stream_time) VALUES ('r', 's', 'pending', '{}', now(), 1, now())`)
		pgtest.Exec(t, s.pool, `UPDATE outbox SET due_at = NULL, settled_at = now(), resolved_by = 'operator', error_message = 'x', lookup_key = repeat('a', 32), lookup_attribute = 'a', attempt_began_at = now(), uncertain_since = now(), `+c.set)
		all, err := s.desk.Matching(t.Context(), operator.ToRetry(false), nil, operator.Filter{RequestIDs: []string{"r"}})
		if err != nil || all.Of[c.want] != 1 {
			t.Errorf("%s: %v, %+v, want %q", c.set, err, all.Of, c.want)
		}
	}
}

// TestCancelKeepsTheReason: a retry still finds what was cancelled by why it had failed.
func TestCancelKeepsTheReason(t *testing.T) {
	t.Parallel()
	s := newRig(t)
	mustAdd(t, s, "a", 2)
	pgtest.Exec(t, s.pool, `UPDATE outbox SET attempt = 1, error_kind = 'http_403', error_message = 'no access to WS1', http_status = 403 WHERE request_id = 'a-1'`)
	for range 2 { // the reason does not grow
		if ids, err := s.cancel(t.Context(), aTest, operator.Filter{}); err != nil || len(ids) != 2 {
			t.Fatal(ids, err)
		}
		for id, want := range map[string]string{"a-1": "http_403 cancelled by an operator; before: no access to WS1", "a-2": "cancelled cancelled by an operator"} {
			if r := s.row(t, id); *r.ErrorKind+" "+*r.ErrorMessage != want || r.State != request.Cancelled || pgtest.Deref(r.ResolvedBy) != "operator" {
				t.Errorf("%s: %s %s, want %s", id, *r.ErrorKind, *r.ErrorMessage, want)
			}
		}
		if ids, err := s.retry(t.Context(), aTest, operator.Filter{State: request.Cancelled, ErrorKind: "http_403"}); err != nil || !slices.Equal(ids, []string{"a-1"}) {
			t.Fatal(ids, err)
		}
		if ids, err := s.retry(t.Context(), aTest, operator.Filter{State: request.Cancelled}); err != nil || !slices.Equal(ids, []string{"a-2"}) {
			t.Fatal(ids, err)
		}
	}
}

// TestCancelOfUncertain: it stays uncertain and keeps its next lookup; once it is said to
// be absent it ends as cancelled, unsent, and what is found is adopted.
func TestCancelOfUncertain(t *testing.T) {
	t.Parallel()
	s := newRig(t)
	mustAdd(t, s, "a", 2)
	for range 2 {
		uncertainAgain(t, s)
	}
	due := s.row(t, "a-1").DueIn
	all, err := s.desk.Do(t.Context(), operator.ToCancel(), aTest, operator.Filter{})
	if err != nil || all.N != 2 || all.Of[operator.NeverResent] != 2 {
		t.Fatal(all, err)
	}
	if r := s.row(t, "a-1"); r.State != request.Uncertain || r.DueIn == nil || *r.DueIn > *due || r.SettledAt != nil || pgtest.Deref(r.ErrorKind) != "lapsed" {
		t.Errorf("it became %+v", r)
	}
	if ids, err := s.cancel(t.Context(), aTest, operator.Filter{}); err != nil || len(ids) != 0 {
		t.Errorf("once more: %v, %v", ids, err)
	}
	if err := s.resolve(t, "a-1", absent); err != nil {
		t.Fatal(err)
	}
	if r := s.row(t, "a-1"); r.State != request.Cancelled || r.SettledAt == nil || pgtest.Deref(r.ResolvedBy) != "operator" || !strings.HasPrefix(pgtest.Deref(r.ErrorMessage), "cancelled; an operator says that it does not exist") {
		t.Errorf("said to be absent it became %+v", r)
	}
	if err := s.resolve(t, "a-2", created(sidB)); err != nil {
		t.Fatal(err)
	}
	if r := s.row(t, "a-2"); r.State != request.Created || pgtest.Deref(r.InteractionSID) != sidB {
		t.Errorf("found it became %+v", r)
	}
	if n := pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox WHERE state = 'pending'`); n != 0 {
		t.Errorf("%d would be sent", n)
	}
}

// TestCancelOfUndecided: a request that waits to be sent again, long from now, and that an attempt may have created is looked
// up at once when it is cancelled.
func TestCancelOfUndecided(t *testing.T) {
	t.Parallel()
	s := newRig(t)
	mustAdd(t, s, "r", 1)
	uncertainAgain(t, s)
	if err := s.resolve(t, "r-1", absent); err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, s.pool, `UPDATE outbox SET due_at = now() + interval '30 minutes'`)
	if _, err := s.cancel(t.Context(), aTest, operator.Filter{}); err != nil {
		t.Fatal(err)
	}
	if r := s.row(t, "r-1"); r.State != request.Uncertain || r.DueIn == nil || *r.DueIn > 0 {
		t.Errorf("%+v", r)
	}
}

// TestLookUpNow: a lookup is due at once, also of what waits for a person.
func TestLookUpNow(t *testing.T) {
	t.Parallel()
	s := newRig(t)
	mustAdd(t, s, "a", 2)
	uncertainAgain(t, s)
	uncertainAgain(t, s)
	pgtest.Exec(t, s.pool, `UPDATE outbox SET due_at = CASE request_id WHEN 'a-1' THEN now() + interval '10 minutes' END, for_person_since = now()`)
	if all, err := s.desk.Do(t.Context(), operator.ToLookUp(), aTest, operator.Filter{}); err != nil || all.N != 2 {
		t.Fatal(all, err)
	}
	if n := pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox WHERE due_at <= now() AND state = 'uncertain' AND for_person_since IS NOT NULL`); n != 2 {
		t.Errorf("%d are looked up now", n)
	}
	if got := acts(t, s); got != "ann@desk a test lookup a-1 uncertain; ann@desk a test lookup a-2 uncertain" {
		t.Errorf("recorded %s", got)
	}
}
