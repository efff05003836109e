package outbox

import (
	"testing"
	"time"

	"flexworker/internal/flex"
	"flexworker/internal/outbox/request"
	"flexworker/internal/testing/pgtest"
)

// What the simulation has found, in its smallest form and on the real tables.

// TestLateRecordDatesTheAttempt: an outcome that is recorded minutes late (the
// process was stopped, or Postgres away) tells of an attempt that was over when
// its lease was. Dated by the record, the attempt's events would lie outside the
// time that the event log is read for, and its task could be deleted while the
// search is still believed: an interaction that exists was "proved absent".
// Seed 27 of "a late record counts the settle time, and the log's, from itself".
func TestLateRecordDatesTheAttempt(t *testing.T) {
	t.Parallel()
	for name, lapsed := range map[string]bool{"before the lapse": false, "after the lapse": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			id := mustAdd(t, s, "late", 1, func(e *request.Event) { e.LookupKey = flex.LookupKey(e.RequestID) })[0]
			l := mustClaim(t, s, 1)[0]
			pgtest.Exec(t, s.pool, `UPDATE outbox SET leased_until = clock_timestamp() - interval '9 minutes'`)
			if lapsed {
				if n, err := s.lapse(t.Context()); err != nil || n != 1 {
					t.Fatal(n, err)
				}
			}
			o := flex.Outcome{ErrorKind: "timeout", Took: time.Second}
			if _, err := s.record(t.Context(), record{Lease: l, Outcome: "uncertain", Told: o, Move: request.Move{To: request.Uncertain}}); err != nil {
				t.Fatal(err)
			}
			since := *s.row(t, id).UncertainSince
			age := pgtest.One[time.Duration](t, s.pool, `SELECT clock_timestamp() - $1::timestamptz`, since)
			if age < 9*time.Minute {
				t.Errorf("the attempt is dated %v ago; its lease was over 9 minutes ago", age)
			}
		})
	}
}

// TestLateRecordOutdatesLookups: a lookup that was under way when a late outcome
// was recorded does not know of it and must not be obeyed, whatever its number.
// Here the outcome says that Flex answered with a 2xx without a sid, so that
// absence no longer leads back to pending. Seed 862 of "a late record counts
// the lookups from 0 again".
func TestLateRecordOutdatesLookups(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	id := mustAdd(t, s, "late", 1, func(e *request.Event) { e.LookupKey = flex.LookupKey(e.RequestID) })[0]
	l := mustClaim(t, s, 1)[0]
	pgtest.Exec(t, s.pool, `UPDATE outbox SET leased_until = clock_timestamp() - interval '2 minutes'`)
	if n, err := s.lapse(t.Context()); err != nil || n != 1 {
		t.Fatal(n, err)
	}
	pgtest.Exec(t, s.pool, `UPDATE outbox SET due_at = clock_timestamp()`) // its rest is over
	slow, err := s.Lookups.Take(t.Context(), 19, 0, nil)
	if err != nil || len(slow.Asked) != 1 {
		t.Fatal(slow, err)
	}
	o := flex.Outcome{Answered: true, ErrorKind: "no_sid"}
	if _, err := s.record(t.Context(), record{Lease: l, Outcome: "uncertain", Told: o, Move: request.Move{To: request.Uncertain}}); err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, s.pool, `UPDATE outbox SET due_at = clock_timestamp()`)
	pgtest.Exec(t, s.pool, `UPDATE outbox_gate SET lookup_at = '-infinity'`)
	if again, err := s.Lookups.Take(t.Context(), 19, 0, nil); err != nil || len(again.Asked) != 1 {
		t.Fatal(again, err)
	}
	done, err := s.Lookups.Resolve(t.Context(), slow.Asked[0], request.Finding{Kind: request.Absent}, request.Move{To: request.Pending}, time.Second)
	if err != nil || done != nil || s.row(t, id).State != request.Uncertain {
		t.Errorf("a finding from before the answer was obeyed: %s, %v", s.row(t, id).State, err)
	}
}
