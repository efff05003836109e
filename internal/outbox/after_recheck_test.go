package outbox

import (
	"context"
	"testing"
	"time"

	"flexworker/internal/flex"
	"flexworker/internal/outbox/attempt"
	"flexworker/internal/outbox/operator"
	"flexworker/internal/outbox/request"
	"flexworker/internal/testing/pgtest"
)

var afterLoss = operator.Act{Why: "a failover"}

// recheck holds the fleet and rechecks.
func (s *Store) recheck(t *testing.T, since time.Time, attribute string) operator.Rechecked {
	t.Helper()
	if _, err := s.desk().Hold(t.Context(), afterLoss); err != nil {
		t.Fatal(err)
	}
	would, err := s.desk().Recheck(t.Context(), afterLoss, since, attribute, true)
	if err != nil {
		t.Fatal(err)
	}
	sum, err := s.desk().Recheck(t.Context(), afterLoss, since, attribute, false)
	if err != nil || sum != would {
		t.Fatalf("%+v, %v; the preview said %+v", sum, err, would)
	}
	return sum
}

// TestRetryAfterRecheck: who retries what a recheck has marked is told that it is looked up
// first. What no lookup can tell is for a person then, whatever UNCERTAIN_POLICY says.
func TestRetryAfterRecheck(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		router taskRouter
		want   request.State
	}{
		"found, older than the row": {taskRouter{search: func(_ context.Context, _, _ string, keys []string) ([]flex.Task, error) {
			return []flex.Task{{TaskSID: "WT1", Key: keys[0], InteractionSID: sidA, DateCreated: time.Now().Add(-30 * time.Minute)}}, nil
		}}, request.Created},
		"unclear": {taskRouter{}, request.Uncertain},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			id := mustAdd(t, s, "r", 1, keyed)[0]
			pgtest.Exec(t, s.pool, `UPDATE outbox SET expires_at = clock_timestamp(), stream_time = clock_timestamp() - interval '2 hours'`)
			if n, err := s.expire(t.Context()); err != nil || n != 1 {
				t.Fatal(n, err)
			}
			s.recheck(t, time.Now().Add(-time.Hour), "")
			all, err := s.desk().Do(t.Context(), operator.ToRetry(false), afterLoss, operator.Filter{RequestIDs: []string{id}})
			if err != nil || all.Of[operator.AskedFirst+"; its expires_at has passed and no longer counts"] != 1 {
				t.Fatal(all, err)
			}
			if r := s.row(t, id); r.State != request.Uncertain || pgtest.Deref(r.ErrorKind) != "lost" {
				t.Errorf("%s, %s: %s", r.State, pgtest.Deref(r.ErrorKind), pgtest.Deref(r.ErrorMessage))
			}
			if _, err := s.desk().Release(t.Context(), afterLoss); err != nil {
				t.Fatal(err)
			}
			s.grow(t, 20*time.Minute) // ten settle times, and more than the list remembers
			pgtest.Exec(t, s.pool, `UPDATE outbox SET lookups = 10`)
			lookUp(t, resolver(t, s, tt.router, func(p *request.Policy) { p.Undecided = request.Retry }))
			if r := s.row(t, id); r.State != tt.want {
				t.Errorf("%s: %s; want %s", r.State, pgtest.Deref(r.ErrorMessage), tt.want)
			}
		})
	}
}

// TestExpireAfterRecheck: what may have been sent in the time that was lost does not expire
// before it is known whether it exists.
func TestExpireAfterRecheck(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		router taskRouter
		want   request.State
	}{
		"found":  {taskRouter{search: listed(sidA)}, request.Created},
		"absent": {taskRouter{}, request.Expired},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			id := mustAdd(t, s, "r", 1, keyed)[0]
			pgtest.Exec(t, s.pool, `UPDATE outbox SET expires_at = clock_timestamp(), stream_time = clock_timestamp() - interval '2 hours'`)
			s.recheck(t, time.Now().Add(-3*time.Minute), "")
			if n, err := s.expire(t.Context()); err != nil || n != 0 {
				t.Fatalf("%d expired, %v: %s", n, err, s.row(t, id).State)
			}
			pgtest.Exec(t, s.pool, `UPDATE outbox SET uncertain_since = uncertain_since - interval '2 minutes'`)
			lookUp(t, resolver(t, s, tt.router))
			if _, err := s.expire(t.Context()); err != nil {
				t.Fatal(err)
			}
			if r := s.row(t, id); r.State != tt.want || pgtest.Deref(r.ErrorMessage) == "expires_at passed before it was sent" {
				t.Errorf("%s: %s; want %s", r.State, pgtest.Deref(r.ErrorMessage), tt.want)
			}
		})
	}
}

// TestRecheckDuringLookup: a lookup that began before a recheck does not know of the time that
// was lost. What it finds absent is not obeyed.
func TestRecheckDuringLookup(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	id := mustAdd(t, s, "r", 1, keyed)[0]
	s.timeout(t)
	s.grow(t, 2*time.Minute)
	pgtest.Exec(t, s.pool, `UPDATE outbox SET due_at = clock_timestamp()`)
	r := resolver(t, s, taskRouter{})
	early, err := s.Lookups.Take(t.Context(), 19, time.Minute, nil)
	if err != nil || len(early.Asked) != 1 {
		t.Fatal(early, err)
	}
	s.recheck(t, time.Now().Add(-time.Hour), "")
	pgtest.Exec(t, s.pool, `UPDATE outbox_gate SET lookup_at = '-infinity'`)
	if q, err := s.Lookups.Take(t.Context(), 19, time.Minute, nil); err != nil || len(q.Asked) != 1 { // which is under way when the early one ends
		t.Fatal(q, err)
	}
	if err := r.Ask(t.Context(), early, time.Now()); err != nil {
		t.Fatal(err)
	}
	if row := s.row(t, id); row.State != request.Uncertain {
		t.Errorf("%s: %s", row.State, pgtest.Deref(row.ErrorMessage))
	}
}

// TestLateRecordAfterRecheck: the record of the lost attempt comes at last. It is of an attempt
// with a number of its own, and tells what a retry would look for.
func TestLateRecordAfterRecheck(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	id := mustAdd(t, s, "r", 1, keyed)[0]
	lost := mustClaim(t, s, 1)[0] // in the lost time
	pgtest.Exec(t, s.pool, `UPDATE outbox SET state = 'expired', attempt = 0, attempt_began_at = NULL, leased_by = NULL, leased_until = NULL,
		error_kind = 'expired', settled_at = clock_timestamp()`)
	s.recheck(t, time.Now().Add(-time.Minute), "")
	if _, err := s.desk().Do(t.Context(), operator.ToRetry(false), afterLoss, operator.Filter{RequestIDs: []string{id}}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.record(t.Context(), attempt.Decide(testPolicy, lost, good, 0)); err != nil {
		t.Fatal(err)
	}
	if r := s.row(t, id); r.State != request.Created || pgtest.Deref(r.InteractionSID) != good.InteractionSID {
		t.Errorf("%s: %s", r.State, pgtest.Deref(r.ErrorMessage))
	}
}
