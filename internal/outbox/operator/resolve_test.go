package operator_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"flexworker/internal/flex"
	"flexworker/internal/outbox/operator"
	"flexworker/internal/outbox/request"
	"flexworker/internal/testing/pgtest"
)

// TestResolveByHand: only what is uncertain, only with the sid of an interaction.
func TestResolveByHand(t *testing.T) {
	t.Parallel()
	s := newRig(t)
	everyState(t, s)
	for _, sid := range []string{"", "KD12", "WT0000000000000000000000000000000a", sidA + "0", "KDzz" + sidA[4:], sidA + "\n"} {
		if err := s.resolve(t, "uncertain", created(sid)); !errors.Is(err, operator.ErrRefused) {
			t.Errorf("%q was believed: %v", sid, err)
		}
	}
	for _, state := range request.States {
		if state == request.Uncertain {
			continue
		}
		for _, decision := range []operator.Decision{absent, created(sidB)} {
			if err := s.resolve(t, string(state), decision); !errors.Is(err, operator.ErrNotUncertain) {
				t.Errorf("%s by %+v: %v", state, decision, err)
			}
		}
	}
	for id, want := range map[string]error{"nobody": operator.ErrUnknown, "uncertain": operator.ErrNoAttempt} {
		if _, err := s.desk.Resolve(t.Context(), aTest, id, absent); !errors.Is(err, want) {
			t.Errorf("%s without an attempt: %v", id, err)
		}
	}
	for _, decision := range []operator.Decision{{}, {Unverified: true}, {Created: sidB, Absent: true, Unverified: true}} {
		if err := s.resolve(t, "uncertain", decision); !errors.Is(err, operator.ErrRefused) {
			t.Errorf("%+v: %v", decision, err)
		}
	}
	if got := acts(t, s); got != "" {
		t.Errorf("recorded %s", got)
	}
	if err := s.resolve(t, "uncertain", absent); err != nil {
		t.Fatal(err)
	}
	if r := s.row(t, "uncertain"); r.State != request.Pending || pgtest.Deref(r.ErrorKind) != "absent" {
		t.Errorf("%+v", r)
	}
	if n := pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox WHERE state = 'pending' AND due_at <= now()`); n != 2 { // it and the pending one
		t.Fatalf("%d are due", n)
	}
	uncertainAgain(t, s, "uncertain")
	asked := operator.NewDesk(s.pool, ann, asks(flex.Outcome{Kind: flex.Created, TaskSID: "WT7", AssignmentStatus: "assigned", Response: []byte(`{"a":1}`)}))
	decision := operator.Decision{Created: sidB}
	if seen, err := asked.Preview(t.Context(), ofAttempt(2, aTest), "uncertain", decision); err != nil || len(seen.Said) != 2 || seen.Said[1] != "Its task shows no interaction_request: compare customer and channel." || seen.Request.State != request.Uncertain {
		t.Errorf("beforehand: %+v, %v", seen, err)
	}
	if r := s.row(t, "uncertain"); r.State != request.Uncertain {
		t.Errorf("to look made it %s", r.State)
	}
	if r, err := asked.Resolve(t.Context(), ofAttempt(2, aTest), "uncertain", decision); err != nil || r.Request.State != request.Created {
		t.Fatal(r, err)
	}
	r := s.row(t, "uncertain")
	if r.State != request.Created || pgtest.Deref(r.InteractionSID) != sidB || pgtest.Deref(r.ResolvedBy) != "operator" || pgtest.Deref(r.TaskSID) != "WT7" ||
		pgtest.Deref(r.AssignmentStatus) != "assigned" || pgtest.Deref(r.Response) != `{"a":1}` || r.ErrorKind != nil || r.DueIn != nil {
		t.Errorf("%+v", r)
	}
	const want = "ann@desk a test resolve absent uncertain uncertain; ann@desk a test resolve created uncertain uncertain"
	if got := acts(t, s); got != want {
		t.Errorf("recorded %s", got)
	}
}

// TestAbsentAfterTheDeadline: whoever says that a request does not exist after its expires_at is not asked again. It is
// expired at once, and was not sent.
func TestAbsentAfterTheDeadline(t *testing.T) {
	t.Parallel()
	s := newRig(t)
	mustAdd(t, s, "r", 1)
	uncertainAgain(t, s)
	pgtest.Exec(t, s.pool, `UPDATE outbox SET expires_at = now() - interval '1 second', for_person_since = now(), error_kind = 'undecided', error_message = 'a person has to decide'`)
	if got := chosen(t, s, "r-1"); !strings.Contains(got, "resolve absent, unverified: It is expired: its expires_at has passed.") {
		t.Errorf("before:\n%s", got)
	}
	if err := s.resolve(t, "r-1", absent); err != nil {
		t.Fatal(err)
	}
	if r := s.row(t, "r-1"); r.State != request.Expired || r.SettledAt == nil || r.DueIn != nil || pgtest.Deref(r.ResolvedBy) != "operator" || pgtest.Deref(r.ErrorKind) != "expired" ||
		pgtest.Deref(r.ErrorMessage) != "expires_at has passed; an operator says that it does not exist; before: a person has to decide" {
		t.Errorf("%+v", r)
	}
}

// TestUnverifiedIsRecorded: whoever was believed, in a resolve or a retry, has it beside their name. Not even they are given
// the interaction of another request, and that is said before anybody is asked.
func TestUnverifiedIsRecorded(t *testing.T) {
	t.Parallel()
	s := newRig(t)
	everyState(t, s)
	asked := operator.NewDesk(s.pool, ann, func() (operator.Flex, time.Duration, error) {
		t.Error("Flex was asked")
		return nil, 0, errors.New("it must not be")
	})
	for _, unverified := range []bool{false, true} {
		r, err := asked.Preview(t.Context(), ofAttempt(1, aTest), "uncertain", operator.Decision{Created: sidA, Unverified: unverified})
		if !errors.Is(err, operator.ErrRefused) || !strings.Contains(err.Error(), "is the interaction of created") {
			t.Errorf("unverified %t: %+v, %v", unverified, r, err)
		}
	}
	if err := s.resolve(t, "uncertain", absent); err != nil {
		t.Fatal(err)
	}
	for id, unverified := range map[string]bool{"abandoned": true, "expired": false} {
		if _, err := s.desk.Do(t.Context(), operator.ToRetry(unverified), aTest, operator.Filter{RequestIDs: []string{id}}); err != nil {
			t.Fatal(err)
		}
	}
	got := pgtest.One[string](t, s.pool, `SELECT string_agg(concat_ws(' ', request_id, act, unverified), ', ' ORDER BY request_id, id) FROM outbox_acts`)
	if want := "abandoned retry t, expired retry f, uncertain resolve absent t"; got != want {
		t.Errorf("recorded %s, want %s", got, want)
	}
	if text, err := s.desk.Explain(t.Context(), "uncertain"); err != nil || !strings.Contains(text, "did: resolve absent of attempt 1, unverified (") {
		t.Error(text, err)
	}
}

// TestItsKey: of an interaction whose task carries the request's key that is said, and nothing has to be compared.
func TestItsKey(t *testing.T) {
	t.Parallel()
	s := newRig(t)
	mustAdd(t, s, "r", 1, keyed)
	uncertainAgain(t, s)
	pgtest.Exec(t, s.pool, `UPDATE outbox SET lookup_attribute = 'our_key'`)
	response := `{"routing":{"properties":{"attributes":"{\"our_key\":\"` + flex.LookupKey("r-1") + `\"}"}}}`
	asked := operator.NewDesk(s.pool, ann, asks(flex.Outcome{Kind: flex.Created, TaskSID: "WT7", Response: []byte(response)}))
	r, err := asked.Preview(t.Context(), ofAttempt(1, aTest), "r-1", operator.Decision{Created: sidB})
	if err != nil || len(r.Said) != 2 || r.Said[1] != "The our_key of its task is that of this request." {
		t.Errorf("%q, %v", r.Said, err)
	}
}

// TestAsk: who may decide is told what TaskRouter says, and nothing is recorded; where it cannot be asked, that is said.
func TestAsk(t *testing.T) {
	t.Parallel()
	s := newRig(t)
	mustAdd(t, s, "r", 1)
	uncertainAgain(t, s)
	d, err := s.desk.Show(t.Context(), "r-1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.desk.Ask(t.Context(), d); !errors.Is(err, operator.ErrCannotAsk) {
		t.Error(err)
	}
	asked := operator.NewDesk(s.pool, ann, asks(flex.Outcome{}))
	if _, err := asked.For(operator.Caller{Name: "eve", Right: operator.MayLook}).Ask(t.Context(), d); !errors.Is(err, operator.ErrForbidden) {
		t.Error(err)
	}
	if e, err := asked.Ask(t.Context(), d); err != nil || e.Absent || len(e.Said) != 1 || !strings.Contains(e.Said[0], "no lookup key") {
		t.Error(e, err)
	}
	if got := acts(t, s); got != "" {
		t.Errorf("recorded %s", got)
	}
}
