package outbox

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"flexworker/internal/flex"
	"flexworker/internal/outbox/gate"
	"flexworker/internal/outbox/operator"
	"flexworker/internal/outbox/request"
	"flexworker/internal/outbox/results"
	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/pgtest"
)

// jump makes rows as the database's clock leaves them when it goes back by so much: what it
// said until then lies in the future by that. What the stream says stays.
func jump(t testing.TB, s *Store, by time.Duration) {
	t.Helper()
	for table, columns := range map[string]string{
		"outbox":          "due_at leased_until attempt_began_at uncertain_since for_person_since received_at settled_at",
		"outbox_gate":     "refilled_at paused_until held_since lookup_at changed_at",
		"outbox_replicas": "seen_at started_at state_since",
	} {
		var set []string
		for column := range strings.FieldsSeq(columns) {
			set = append(set, column+" = "+column+" + $1::interval")
		}
		pgtest.Exec(t, s.pool, "UPDATE "+table+" SET "+strings.Join(set, ", "), by)
	}
}

func mustSetBack(t testing.TB, s *Store, back bool, want int) {
	t.Helper()
	if n, more, err := s.upkeep().SetBack(t.Context(), back); n != want || more || err != nil {
		t.Fatalf("%d rows set right, want %d; more %t, %v", n, want, more, err)
	}
}

// TestClockBack: the database's clock goes back by an hour, or by a month. Whatever a request
// waits for comes in its usual time, and what is right is left alone.
func TestClockBack(t *testing.T) {
	t.Parallel()
	for _, by := range []time.Duration{2 * time.Minute, time.Hour, 59 * time.Minute, 30 * 24 * time.Hour} {
		t.Run(by.String(), func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			later := pgtest.One[time.Time](t, s.pool, `SELECT date_trunc('second', clock_timestamp()) + interval '90 days'`)
			notBefore := func(e *request.Event) {
				e.NotBefore = later
				e.Request = fmt.Appendf(nil, `{"not_before":%q,%s`, later.UTC().Format(time.RFC3339), e.Request[1:])
			}
			recent := func(e *request.Event) { e.Time = time.Now() }
			tried := mustAdd(t, s, "tried", 1, recent)[0]
			for _, l := range mustClaim(t, s, 1) {
				if _, err := s.record(t.Context(), record{Lease: l, Outcome: "refused", Told: isRefusing, Move: request.Move{To: request.Pending, Delay: time.Minute, Uncounted: true}}); err != nil {
					t.Fatal(err)
				}
			}
			mustAdd(t, s, "sending", 1, recent, keyed)
			held := mustClaim(t, s, 1)[0]
			mustAdd(t, s, "fresh", 1, recent)
			mustAdd(t, s, "later", 1, recent, notBefore)
			pgtest.Exec(t, s.pool, `UPDATE outbox_gate SET changed_at = clock_timestamp()`)
			mustSetBack(t, s, false, 0)
			mustSetBack(t, s, true, 0)

			jump(t, s, by)
			pgtest.Exec(t, s.pool, `UPDATE outbox SET due_at = $1 WHERE request_id = 'later-1'`, later)
			mustSetBack(t, s, false, 5) // the gate and four requests
			mustSetBack(t, s, false, 0)
			if in := pgtest.Deref(s.row(t, "fresh-1").DueIn); in > 0 {
				t.Errorf("the new one is due in %v", in)
			}
			if in := pgtest.Deref(s.row(t, tried).DueIn); in > 0 {
				t.Errorf("the one that is tried again is due in %v", in)
			}
			if in := pgtest.Deref(s.row(t, "later-1").DueIn); in < 89*24*time.Hour {
				t.Errorf("the one for later is due in %v", in)
			}
			end := *s.row(t, "sending-1").LeasedUntil
			if in := pgtest.One[time.Duration](t, s.pool, `SELECT $1 - clock_timestamp()`, end); in <= 0 || in > testLimit+request.LeaseMargin {
				t.Errorf("the lease ends in %v", in)
			}
			if n := pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox WHERE received_at > clock_timestamp() + interval '1 s' OR attempt_began_at > clock_timestamp()`); n != 0 {
				t.Errorf("%d requests were received, or tried, in the future", n)
			}
			// Its holder lives, and knows.
			if _, err := s.record(t.Context(), record{Lease: held, Outcome: "created", Told: isFound(held), Move: request.Move{To: request.Created}}); err != nil {
				t.Fatal(err)
			}
			pgtest.CheckOutbox(t, s.pool)
		})
	}
}

func isFound(l Lease) flex.Outcome {
	o := good
	o.InteractionSID = fmt.Sprintf("KD%032x", l.ID)
	return o
}

// uncertainKeyed is an uncertain request with a task to look for, whose message the stream got just now.
func uncertainKeyed(t testing.TB, s *Store, id string) Lease {
	t.Helper()
	mustAdd(t, s, id, 1, keyed, func(e *request.Event) { e.Time = time.Now() })
	l := mustClaim(t, s, 1)[0]
	if _, err := s.record(t.Context(), record{Lease: l, Outcome: "uncertain", Told: isTimeout, Move: request.Move{To: request.Uncertain, Delay: request.FirstLookup}}); err != nil {
		t.Fatal(err)
	}
	return l
}

// TestClockBackLookups: what a lookup finds after the clock went back proves no absence by times of
// before; what exists is adopted, and is no other request's; the wait for a lookup is the usual one.
func TestClockBackLookups(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	const settle = 10 * time.Second
	uncertainKeyed(t, s, "u")
	pgtest.Exec(t, s.pool, `UPDATE outbox SET for_person_since = clock_timestamp(), due_at = clock_timestamp() + interval '9 minutes'`)
	pgtest.Exec(t, s.pool, `UPDATE outbox_gate SET lookup_at = clock_timestamp()`)
	jump(t, s, 59*time.Minute)
	// An attempt that was under way while the clock went back began later than it ended.
	began := pgtest.One[time.Time](t, s.pool, `UPDATE outbox SET uncertain_since = clock_timestamp() - interval '2 minutes', due_at = clock_timestamp() RETURNING attempt_began_at`)
	pgtest.Exec(t, s.pool, `UPDATE outbox_gate SET lookup_at = clock_timestamp() - interval '1 s'`)
	q, err := s.Lookups.Take(t.Context(), 10, settle, nil)
	if err != nil || len(q.Asked) != 1 {
		t.Fatalf("%d to look up, %v", len(q.Asked), err)
	}
	findings, err := q.LookUp(t.Context(), logReader{})
	if err != nil {
		t.Fatal(err)
	}
	for _, guess := range findings {
		if guess.Kind != request.Unclear || !strings.Contains(guess.Why, "clock went back") {
			t.Errorf("%s: %s", guess.Kind, guess.Why)
		}
	}
	mustSetBack(t, s, true, 2) // the gate and the request
	mustSetBack(t, s, true, 0)
	// The attempt may have begun as soon as the stream had its message, and its task is not older than that.
	if !pgtest.One[bool](t, s.pool, `SELECT attempt_began_at <= least(stream_time, uncertain_since) AND greatest(uncertain_since, due_at, for_person_since) <= clock_timestamp()
		AND received_at <= stream_time FROM outbox`) {
		t.Errorf("%+v, it began at %v", s.row(t, "u-1"), began)
	}
	// What was found by the times from before is not obeyed.
	done, err := s.Lookups.Resolve(t.Context(), q.Asked[0], request.Finding{Kind: request.Absent}, request.Move{To: request.Pending}, 0)
	if err != nil || done != nil {
		t.Errorf("%+v, %v", done, err)
	}
	if is := s.row(t, "u-1").State; is != request.Uncertain {
		t.Errorf("it is %s", is)
	}
}

// TestClockBackGate: a pause by Flex keeps its length, one of TaskRouter ends, and a hold stays.
func TestClockBackGate(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	pgtest.Exec(t, s.pool, `UPDATE outbox_gate SET changed_at = clock_timestamp(), paused_until = clock_timestamp() + interval '20 seconds', reason = 'limited', lookup_at = clock_timestamp()`)
	jump(t, s, 40*time.Minute)
	mustSetBack(t, s, true, 1)
	if g := readGate(t, s); g.State != gate.Paused || g.PausedFor > 20*time.Second || g.ChangedAt.After(time.Now().Add(time.Second)) {
		t.Errorf("%+v", g)
	}
	if !pgtest.One[bool](t, s.pool, `SELECT lookup_at <= clock_timestamp() FROM outbox_gate`) {
		t.Error("lookups wait")
	}
	if _, err := s.desk().Hold(t.Context(), operator.Act{Why: "w"}); err != nil {
		t.Fatal(err)
	}
	jump(t, s, 40*time.Minute)
	mustSetBack(t, s, false, 1)
	if g := readGate(t, s); g.State != gate.Held || g.HeldSince.After(time.Now().Add(time.Second)) {
		t.Errorf("%+v", g)
	}
}

// TestClockBackResults: a result that settled in the future is published by any replica all the same.
func TestClockBackResults(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	mustAdd(t, s, "r", 1)
	l := mustClaim(t, s, 1)[0]
	if _, err := s.record(t.Context(), record{Lease: l, Outcome: "created", Told: isFound(l), Move: request.Move{To: request.Created}}); err != nil {
		t.Fatal(err)
	}
	jump(t, s, time.Hour)
	mustSetBack(t, s, false, 2) // and the gate
	pgtest.Exec(t, s.pool, `UPDATE outbox SET settled_at = settled_at - interval '4 seconds'`)
	if all, err := s.Results.Unpublished(t.Context(), &results.Cursor{}); err != nil || len(all) != 1 {
		t.Errorf("%d results, %v", len(all), err)
	}
}

// TestClockBackIsNoticed: a worker that renews its row sees that the clock went back, and the upkeep of
// a running process sets it right; one that starts later does so as it starts.
func TestClockBackIsNoticed(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	uncertainKeyed(t, s, "n")
	keeper := s.upkeep()
	r := gate.Registry{Pool: s.pool, Name: s.worker, WentBack: keeper.WentBack, Version: "v", Standing: standingOK, Log: quiet}
	for range 2 {
		if err := r.Renew(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-keeper.WentBack:
		t.Fatal("it went back, though nothing happened")
	default:
	}
	right := func() {
		expect.Eventually(t, func() error {
			if n := pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox WHERE attempt_began_at > clock_timestamp() OR due_at > clock_timestamp()`); n > 0 {
				return fmt.Errorf("%d are not set right", n)
			}
			return nil
		})
	}
	jump(t, s, time.Hour)
	running(t, keeper.Sweep)
	right()
	jump(t, s, time.Hour)
	if err := r.Renew(t.Context()); err != nil {
		t.Fatal(err)
	}
	right()
	if pgtest.One[bool](t, s.pool, `SELECT seen_at > clock_timestamp() + interval '1 s' FROM outbox_replicas`) {
		t.Error("its row lies in the future")
	}
}

func standingOK(context.Context) gate.Standing { return gate.Standing{Word: gate.WordOK} }
