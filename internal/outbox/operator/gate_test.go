package operator_test

import (
	"context"
	"errors"
	"regexp"
	"strings"
	"testing"

	"flexworker/internal/outbox/gate"
	"flexworker/internal/outbox/operator"
	"flexworker/internal/outbox/request"
	"flexworker/internal/testing/pgtest"
)

// releaseBatch is how many requests a release makes due in one transaction.
const releaseBatch = 1000

// TestReleaseMakesDue: what had met the 429 behind a pause does not wait for the rest of it
// once a person opens the gate; what waits for another reason does, and so does what meets
// a new refusal.
func TestReleaseMakesDue(t *testing.T) {
	t.Parallel()
	s := newRig(t)
	mustAdd(t, s, "limited", releaseBatch+3)
	mustAdd(t, s, "later", 3, func(e *request.Event) { e.Sequence += 5000 })
	pgtest.Exec(t, s.pool, `UPDATE outbox SET attempt = 1, due_at = now() + interval '9 minutes', error_kind = 'http_429', http_status = 429 WHERE request_id LIKE 'limited-%'`)
	pgtest.Exec(t, s.pool, `UPDATE outbox SET attempt = 1, due_at = now() + interval '9 minutes', error_kind = 'dial' WHERE request_id LIKE 'later-%'`)
	pgtest.Exec(t, s.pool, `UPDATE outbox_gate SET paused_until = now() + interval '10 minutes', reason = 'HTTP 429'`)
	if _, err := s.desk.Release(t.Context(), aTest); err != nil {
		t.Fatal(err)
	}
	if g := readGate(t, s); g.State != gate.Open {
		t.Errorf("the gate is %+v", g)
	}
	if n := pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox WHERE due_at <= now() AND request_id LIKE 'limited-%'`); n != releaseBatch+3 {
		t.Errorf("%d are due", n)
	}
	if n := pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox WHERE due_at <= now() AND request_id LIKE 'later-%'`); n != 0 {
		t.Errorf("%d are due that did not wait for the gate", n)
	}
}

// TestHoldAfterHold: a later hold keeps who held first, and an open gate has no reason.
func TestHoldAfterHold(t *testing.T) {
	t.Parallel()
	s := newRig(t)
	pgtest.Exec(t, s.pool, `UPDATE outbox_gate SET paused_until = now() + interval '10 minutes', reason = 'HTTP 429', changed_by = 'w1'`)
	for _, hold := range []struct{ who, why, want string }{
		{"ann", "one", "one; before: HTTP 429"},
		{"bob", "two", "two; held first by ann: one; before: HTTP 429"},
		{"carl", "three", "three; held first by ann: one; before: HTTP 429"},
	} {
		c, err := s.desk.For(operator.Caller{Name: hold.who, Right: operator.MayAct}).Hold(t.Context(), operator.Act{Why: hold.why})
		if err != nil || c.After.Reason != hold.want || c.After.ChangedBy != hold.who || c.After.ChangedAt != readGate(t, s).ChangedAt {
			t.Errorf("%+v, %v", c.After, err)
		}
	}
	if _, err := s.desk.Release(t.Context(), operator.Act{Why: "over"}); err != nil {
		t.Fatal(err)
	}
	var reason *string
	if err := s.pool.QueryRow(t.Context(), `SELECT reason FROM outbox_gate`).Scan(&reason); err != nil || reason != nil {
		t.Errorf("%v: an open gate says %v", err, reason)
	}
}

// TestReleaseOfAnOpenGate: it is recorded, since it makes requests due, and who opened the gate before stays.
func TestReleaseOfAnOpenGate(t *testing.T) {
	t.Parallel()
	s := newRig(t)
	bob := s.desk.For(operator.Caller{Name: "bob", Right: operator.MayAct})
	for _, act := range []func(context.Context, operator.Act) (operator.GateChange, error){s.desk.Hold, s.desk.Release} {
		if _, err := act(t.Context(), aTest); err != nil {
			t.Fatal(err)
		}
	}
	before := readGate(t, s)
	c, err := bob.Release(t.Context(), operator.Act{Why: "once more"})
	if err != nil || c.Before != before || c.After != before || before.ChangedBy != "ann@desk" {
		t.Errorf("%+v, %v", c, err)
	}
	if got, want := acts(t, s), "ann@desk a test hold open; ann@desk a test release held; bob once more release open"; got != want {
		t.Errorf("recorded: %s, want %s", got, want)
	}
}

// TestReleaseOfAnotherHold: a release opens the hold that its reader has seen, and no later one; a hold of what was open when it
// was seen is refused likewise.
func TestReleaseOfAnotherHold(t *testing.T) {
	t.Parallel()
	s := newRig(t)
	hold := func(who, why string) operator.Tag {
		c, err := s.desk.For(operator.Caller{Name: who, Right: operator.MayAct}).Hold(t.Context(), operator.Act{Why: why})
		if err != nil {
			t.Fatal(err)
		}
		return operator.GateTag(c.After)
	}
	open := operator.GateTag(readGate(t, s))
	seen := hold("ann", "a flood")
	if _, err := s.desk.Release(t.Context(), operator.Act{Why: "over", Seen: seen}); err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, s.pool, `UPDATE outbox_gate SET paused_until = clock_timestamp() + interval '1 minute', changed_at = clock_timestamp(), changed_by = 'w1', reason = 'HTTP 429'`)
	if now := operator.GateTag(readGate(t, s)); now != open {
		t.Errorf("a pause has the tag %s, and open is %s", now, open)
	}
	now := hold("carl", "wrong numbers")
	before := readGate(t, s)
	for _, old := range []operator.Tag{seen, open, "held-x", "*"} {
		for name, act := range map[string]func(context.Context, operator.Act) (operator.GateChange, error){"release": s.desk.Release, "hold": s.desk.Hold} {
			c, err := act(t.Context(), operator.Act{Why: "late", Seen: old})
			if !errors.Is(err, operator.ErrStale) || c.Before.Reason != before.Reason || operator.GateTag(c.Before) != now {
				t.Errorf("%s under %s: %+v, %v", name, old, c, err)
			}
		}
	}
	if g := readGate(t, s); g.Reason != before.Reason || g.ChangedAt != before.ChangedAt {
		t.Errorf("it was changed: %+v", g)
	}
	said, err := s.desk.GateSince(t.Context(), seen)
	if err != nil || !regexp.MustCompile(`^release by ann@desk at \S+ \S+ UTC \(over\); hold by carl at \S+ \S+ UTC \(wrong numbers\)$`).MatchString(said) {
		t.Errorf("since then: %q, %v", said, err)
	}
	if said, err := s.desk.GateSince(t.Context(), open); err != nil || !strings.HasPrefix(said, "hold by carl at ") {
		t.Errorf("since it was open: %q, %v", said, err)
	}
	if _, err := s.desk.Release(t.Context(), operator.Act{Why: "over", Seen: now}); err != nil {
		t.Error(err)
	}
}
