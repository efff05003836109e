package outbox

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"flexworker/internal/flex"
	"flexworker/internal/outbox/lookup"
	"flexworker/internal/outbox/request"
	"flexworker/internal/testing/pgtest"
)

// TestAnotherLookupAttribute: a request is looked for under the attribute that its
// own call carried, whatever the setting of who looks. What was sent under none has no
// task to look for: finding nothing is no proof.
func TestAnotherLookupAttribute(t *testing.T) {
	t.Parallel()
	for _, attribute := range []string{"another_name", ""} {
		s := newStore(t)
		s.Lookups.Attribute = attribute
		mustAdd(t, s, "a", 1, keyed)
		l := mustClaim(t, s, 1)[0]
		if _, err := s.record(t.Context(), told(l, flex.Outcome{ErrorKind: "timeout"})); err != nil {
			t.Fatal(err)
		}
		pgtest.Exec(t, s.pool, `UPDATE outbox SET due_at = now(), uncertain_since = now() - interval '10 minutes'`)
		q, err := s.another("with the usual name").Lookups.Take(t.Context(), 19, 0, nil)
		if err != nil || len(q.Asked) != 1 || q.Attribute != attribute || (q.Workspace == "") != (attribute == "") ||
			(q.Asked[0].LookupKey == "") != (attribute == "") {
			t.Errorf("attribute %q: %+v, %v", attribute, q, err)
		}
	}
}

// TestLookupsOfTwoAttributes: replicas with two names of LOOKUP_ATTRIBUTE do not decide
// each other's doubts. Each request is searched for under its own name, alone, by either.
func TestLookupsOfTwoAttributes(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	mine, theirs := "interaction_request", "another_name"
	for n, attribute := range []string{mine, theirs, mine, theirs} {
		s.Lookups.Attribute = attribute
		if _, err := s.Add(t.Context(), event(fmt.Sprintf("a-%d", n), uint64(n+1), keyed)); err != nil {
			t.Fatal(err)
		}
		if _, err := s.record(t.Context(), told(mustClaim(t, s, 1)[0], flex.Outcome{ErrorKind: "timeout"})); err != nil {
			t.Fatal(err)
		}
	}
	pgtest.Exec(t, s.pool, `UPDATE outbox SET due_at = now() - interval '1 s'`)
	for range 2 {
		q, err := s.Lookups.Take(t.Context(), 19, 0, nil)
		if err != nil || len(q.Asked) != 2 || q.Workspace == "" {
			t.Fatalf("%+v, %v", q, err)
		}
		for _, u := range q.Asked {
			if u.RequestID != "a-0" && u.RequestID != "a-2" && q.Attribute == mine || u.RequestID != "a-1" && u.RequestID != "a-3" && q.Attribute == theirs {
				t.Errorf("%s is asked for under %s", u.RequestID, q.Attribute)
			}
		}
		pgtest.Exec(t, s.pool, `UPDATE outbox_gate SET lookup_at = '-infinity'`)
	}
}

// TestLookupsWhileHeld: what has no task to look for is told to a person also while
// the fleet has no credentials, or may not search, however many wait before it that
// have one; and who can do nothing does not ask again and again.
func TestLookupsWhileHeld(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.Lookups.Attribute = "interaction_request"
	for n, key := range []string{"5f2c9a7e41d84b0c9e6d3a1b7c8f0e22", "6f2c9a7e41d84b0c9e6d3a1b7c8f0e22"} {
		mustAdd(t, s, fmt.Sprint("task", n), 1, func(e *request.Event) { e.LookupKey = key })
	}
	mustAdd(t, s, "none", 1)
	for _, l := range mustClaim(t, s, 3) {
		if _, err := s.record(t.Context(), told(l, flex.Outcome{ErrorKind: "timeout"})); err != nil {
			t.Fatal(err)
		}
	}
	take := func() (string, lookup.Batch) {
		q, err := s.Lookups.Take(t.Context(), 19, 0, nil)
		if err != nil {
			t.Fatal(err)
		}
		ids := make([]string, len(q.Asked))
		for i, u := range q.Asked {
			ids[i] = u.RequestID
		}
		slices.Sort(ids)
		return strings.Join(ids, " "), q
	}
	const due = `UPDATE outbox SET due_at = now() - interval '1 s', uncertain_since = now() - interval '10 minutes'`
	for _, tt := range []struct{ why, gate, want string }{
		{"paused by TaskRouter", `held_since = clock_timestamp(), lookup_at = clock_timestamp() + interval '1 hour'`, "none-1"},
		{"held, and the clock went back", `lookup_at = clock_timestamp() + interval '2 hours'`, "task0-1 task1-1"},
	} {
		pgtest.Exec(t, s.pool, due)
		pgtest.Exec(t, s.pool, `UPDATE outbox_gate SET reason = 'x', `+tt.gate)
		if got, q := take(); got != tt.want || !q.Waiting || (q.Workspace == "") != (got == "none-1") {
			t.Errorf("%s: %q is taken, want %q: %+v", tt.why, got, tt.want, q)
		}
		if tt.want != "none-1" {
			break
		}
		if got, q := take(); got != "" || q.Waiting {
			t.Errorf("%s: %q is taken, waiting %v: nothing can be done", tt.why, got, q.Waiting)
		}
	}
	// The fleet may search again in a moment.
	pgtest.Exec(t, s.pool, due)
	pgtest.Exec(t, s.pool, `UPDATE outbox_gate SET lookup_at = clock_timestamp() + $1::interval`, lookup.LookupEvery)
	if _, q := take(); !q.Waiting {
		t.Error("what may be asked in a moment is not waited for")
	}
}
