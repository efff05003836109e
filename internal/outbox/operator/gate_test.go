package operator_test

import (
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

// TestReleaseForgetsWhyItWasShut: an open gate has no reason, and holds in a row keep one
// earlier reason, not all.
func TestReleaseForgetsWhyItWasShut(t *testing.T) {
	t.Parallel()
	s := newRig(t)
	for _, why := range []string{"one", "two", "three"} {
		if _, err := s.desk.Hold(t.Context(), operator.Act{Why: why}); err != nil {
			t.Fatal(err)
		}
	}
	if g := readGate(t, s); g.Reason != "three; before: two" {
		t.Error(g.Reason)
	}
	if _, err := s.desk.Release(t.Context(), operator.Act{Why: "over"}); err != nil {
		t.Fatal(err)
	}
	var reason *string
	if err := s.pool.QueryRow(t.Context(), `SELECT reason FROM outbox_gate`).Scan(&reason); err != nil || reason != nil {
		t.Errorf("%v: an open gate says %v", err, reason)
	}
}
