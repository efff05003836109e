package outbox

import (
	"testing"
	"time"

	"flexworker/internal/flex"
	"flexworker/internal/outbox/lookup"
	"flexworker/internal/outbox/operator"
	"flexworker/internal/outbox/request"
	"flexworker/internal/testing/pgtest"
)

// TestPolicyDoesNotDecideWhatWasLost: after a loss of data, or while a person holds the fleet,
// nobody creates what could prove that the event log has caught up. What is unclear then is
// neither sent unproved nor given up: a person decides, and lookups go on.
func TestPolicyDoesNotDecideWhatWasLost(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		policy     request.Undecided
		lost, held bool
		want       request.State
	}{
		"lost, hold":  {request.Hold, true, true, request.Uncertain},
		"lost, retry": {request.Retry, true, true, request.Uncertain},
		"lost, fail":  {request.Fail, true, true, request.Uncertain},
		"lost, retry, released before it is decided": {request.Retry, true, false, request.Uncertain},
		"lost, fail, released before it is decided":  {request.Fail, true, false, request.Uncertain},
		"held, retry": {request.Retry, false, true, request.Uncertain},
		"held, fail":  {request.Fail, false, true, request.Uncertain},
		"retry":       {request.Retry, false, false, request.Pending},
		"fail":        {request.Fail, false, false, request.Abandoned},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			id := mustAdd(t, s, "tail", 1, keyed)[0]
			ann := operator.Act{Why: "a failover"}
			hold := func() {
				if _, err := s.desk().Hold(t.Context(), ann); err != nil {
					t.Fatal(err)
				}
			}
			if tt.lost {
				hold()
				if n, err := s.desk().Recheck(t.Context(), ann, time.Now().Add(-20*time.Minute), "", false); err != nil || n.LookedUp != 1 {
					t.Fatal(n, err)
				}
				if !tt.held {
					if _, err := s.desk().Release(t.Context(), ann); err != nil {
						t.Fatal(err)
					}
				}
			} else {
				s.timeout(t)
				if tt.held {
					hold()
				}
			}
			s.grow(t, 20*time.Minute) // ten settle times, and more than the list remembers
			pgtest.Exec(t, s.pool, `UPDATE outbox SET lookups = 10`)
			lookUp(t, resolver(t, s, taskRouter{}, func(p *request.Policy) { p.Undecided = tt.policy }))
			waits := pgtest.One[bool](t, s.pool, `SELECT for_person_since IS NOT NULL AND due_at > clock_timestamp() FROM outbox`)
			if r := s.row(t, id); r.State != tt.want || waits != (tt.want == request.Uncertain) {
				t.Errorf("%s, waits for a person and is looked up %t: %s; want %s", r.State, waits, pgtest.Deref(r.ErrorMessage), tt.want)
			}
		})
	}
}

// TestAnotherWorkspaceHidesNoCreation: the creation that shows that the log has caught up
// stands behind more settled requests of another workspace than are read.
func TestAnotherWorkspaceHidesNoCreation(t *testing.T) {
	t.Parallel()
	for _, published := range []bool{false, true} {
		s := newStore(t)
		id := mustAdd(t, s, "doubt", 1, keyed)[0]
		s.timeout(t)
		s.grow(t, 20*time.Minute)
		later := event("later", 7, keyed)
		settle(t, s, later, good)
		pgtest.Exec(t, s.pool, `
			INSERT INTO outbox (request_id, source, state, request, attempt, attempt_began_at, lookup_key, lookup_attribute, interaction_sid, resolved_by, stream_sequence, stream_time, settled_at)
			SELECT 'busy-' || n, 'crm', 'created', '{"routing":{"properties":{"workspace_sid":"WS00000000000000000000000000000009"}}}', 1,
			       clock_timestamp() - interval '10 minutes', lpad(to_hex(n), 32, '0'), 'interaction_request', 'KD' || lpad(to_hex(n), 32, '0'), 'response', n, clock_timestamp(), clock_timestamp() - interval '9 minutes'
			  FROM generate_series(1, $1) AS n`, lookup.LaterMost+1)
		if published {
			pgtest.Exec(t, s.pool, `UPDATE outbox SET published_at = clock_timestamp() WHERE settled_at IS NOT NULL`)
		}
		shown := flex.Task{TaskSID: "WT7", Key: later.LookupKey, InteractionSID: sidA, DateCreated: time.Now()}
		lookUp(t, resolver(t, s, taskRouter{log: logOf(shown)}))
		if r := s.row(t, id); r.State != request.Pending {
			t.Errorf("published %t: %s, %s; want proved absent", published, r.State, pgtest.Deref(r.ErrorMessage))
		}
	}
}

// TestAbsenceThatIsStoredTooLate: a machine is suspended in the middle of a lookup, whose
// clock does not notice. What was found absent then is not obeyed, what was found is.
func TestAbsenceThatIsStoredTooLate(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		router taskRouter
		late   bool
		want   request.State
	}{
		"absent":           {taskRouter{}, false, request.Pending},
		"absent, but late": {taskRouter{}, true, request.Uncertain},
		"found, late":      {taskRouter{search: listed(sidA)}, true, request.Created},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			id := mustAdd(t, s, "suspended", 1, keyed)[0]
			s.timeout(t)
			s.grow(t, 2*time.Minute)
			pgtest.Exec(t, s.pool, `UPDATE outbox SET due_at = clock_timestamp()`)
			r := resolver(t, s, tt.router)
			q, err := s.Lookups.Take(t.Context(), 19, time.Minute, nil)
			if err != nil || len(q.Asked) != 1 {
				t.Fatal(q, err)
			}
			if tt.late {
				pgtest.Exec(t, s.pool, `UPDATE outbox SET due_at = due_at - $1::interval`, lookup.LookupLimit)
			}
			if err := r.Ask(t.Context(), q, time.Now()); err != nil {
				t.Fatal(err)
			}
			if row := s.row(t, id); row.State != tt.want {
				t.Errorf("%s: %s; want %s", row.State, pgtest.Deref(row.ErrorMessage), tt.want)
			}
		})
	}
}
