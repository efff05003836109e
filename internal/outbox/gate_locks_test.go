package outbox

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"flexworker/internal/flex"
	"flexworker/internal/loop"
	"flexworker/internal/outbox/attempt"
	"flexworker/internal/outbox/gate"
	"flexworker/internal/outbox/request"
	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/flextest"
	"flexworker/internal/testing/pgtest"
)

// Who waits for the gate's row, and with what in hand.

// holding is a transaction that holds what sql locks until done.
func holding(t *testing.T, s *Store, sql string, args ...any) (pid uint32, done func()) {
	t.Helper()
	return pgtest.Holding(t, s.pool, sql, args...)
}

// blockedBy waits until somebody waits for what the session pid holds, and says who.
func blockedBy(t *testing.T, s *Store, pid uint32) (waiter uint32) {
	t.Helper()
	expect.Eventually(t, func() error {
		err := s.pool.QueryRow(t.Context(), `SELECT pid FROM pg_stat_activity WHERE $1::integer = ANY (pg_blocking_pids(pid))`, pid).Scan(&waiter)
		if err != nil {
			return fmt.Errorf("nobody waits for %d: %w", pid, err)
		}
		return nil
	})
	return waiter
}

// barrier keeps every write of outbox from beginning until open is called. Those that wait wait for the session pid, or
// for each other, and for as long as it takes.
func (s *Store) barrier(t *testing.T) (pid uint32, open func()) {
	t.Helper()
	return s.barrierAt(t, `BEFORE UPDATE ON outbox FOR EACH STATEMENT`)
}

// barrierAt is a barrier for the writes that a trigger names.
func (s *Store) barrierAt(t *testing.T, trigger string) (pid uint32, open func()) {
	t.Helper()
	pgtest.Exec(t, s.pool, `CREATE TABLE barrier AS SELECT 1 AS one`)
	pgtest.Exec(t, s.pool, `CREATE FUNCTION stop() RETURNS trigger LANGUAGE plpgsql SET lock_timeout = 0 AS $$ BEGIN
		PERFORM FROM barrier FOR SHARE;
		RETURN NEW; END $$`)
	pgtest.Exec(t, s.pool, `CREATE TRIGGER stop `+trigger+` EXECUTE FUNCTION stop()`)
	return holding(t, s, `SELECT FROM barrier FOR UPDATE`)
}

// waiting waits until n sessions wait for the session pid, or for one that does.
func (s *Store) waiting(t *testing.T, pid uint32, n int) {
	t.Helper()
	expect.Eventually(t, func() error {
		if got := pgtest.One[int](t, s.pool, `
			WITH RECURSIVE waits AS (
				SELECT pid FROM pg_stat_activity WHERE $1::integer = ANY (pg_blocking_pids(pid))
				UNION
				SELECT a.pid FROM pg_stat_activity a JOIN waits w ON w.pid = ANY (pg_blocking_pids(a.pid)))
			SELECT count(*) FROM waits`, pid); got < n {
			return fmt.Errorf("%d of %d sessions wait", got, n)
		}
		return nil
	})
}

// TestAddBesideGate: an add never waits for the gate's row. Where another has it
// there are no tokens: what is added is pending, its permits are free again and the
// claim is woken. Without a rate nobody needs the row.
func TestAddBesideGate(t *testing.T) {
	t.Parallel()
	for rate, want := range map[float64]request.State{50: request.Pending, 0: request.Sending} {
		t.Run(fmt.Sprint(rate), func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			pgtest.Exec(t, s.pool, `UPDATE outbox_gate SET rate = $1, tokens = 5`, rate)
			_, done := holding(t, s, `SELECT FROM outbox_gate FOR UPDATE`)
			adder := NewStore(planned(t, s.pool, "lock_timeout=50"), "w1", testLimit, "interaction_request")
			d, leased := eager(t, adder, 8)
			if _, err := d.add(t, event("a-1", 1)); err != nil {
				t.Fatal(err)
			}
			if got := s.row(t, "a-1").State; got != want {
				t.Errorf("it is %s, want %s", got, want)
			}
			if want == request.Sending {
				<-leased
				return
			}
			if len(leased) != 0 || d.free() != 8 || d.leasesNext() {
				t.Errorf("%d leased, %d permits are free, or what waits does not come first", len(leased), d.free())
			}
			select {
			case <-adder.Due:
			default:
				t.Error("the claim is not woken")
			}
			done()
			mustClaim(t, s, 1)
		})
	}
}

// TestAddBesideGateShut: a gate that is being shut is not passed, nor is one that
// has been shut since the statement began.
func TestAddBesideGateShut(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	pgtest.Exec(t, s.pool, `UPDATE outbox_gate SET rate = 50, tokens = 5`)
	d, leased := eager(t, s, 8)
	_, done := holding(t, s, `UPDATE outbox_gate SET held_since = clock_timestamp(), reason = 'x'`)
	if _, err := d.add(t, event("while", 1)); err != nil {
		t.Fatal(err)
	}
	done()
	d.backlog = false
	if _, err := d.add(t, event("after", 2)); err != nil {
		t.Fatal(err)
	}
	if n := pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox WHERE state = 'pending'`); n != 2 || len(leased) != 0 || d.free() != 8 {
		t.Errorf("%d are pending, %d leased, %d permits free", n, len(leased), d.free())
	}
}

// TestAddWakesTheClaim: what was added beside a gate that another held is sent as
// soon as the gate is free, by the hint alone: no poll runs. No insert waits for the claim that does.
func TestAddWakesTheClaim(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	pgtest.Exec(t, s.pool, `UPDATE outbox_gate SET rate = 50, tokens = 5`)
	d := newDeliverer(t, s, flextest.New(t))
	ctx, cancel := context.WithCancel(t.Context())
	d.quiet = loop.NewSignal()
	var running sync.WaitGroup
	running.Go(func() { d.Run(ctx) })
	defer running.Wait()
	defer cancel()
	<-d.quiet // it has claimed and rests
	pid, done := holding(t, s, `SELECT FROM outbox_gate FOR UPDATE`)
	if _, err := s.Add(t.Context(), event("a", 1)); err != nil {
		t.Fatal(err)
	}
	blockedBy(t, s, pid) // the claim
	if _, err := s.Add(t.Context(), event("b", 2)); err != nil {
		t.Fatal(err)
	}
	if got := s.row(t, "b").State; got != request.Pending {
		t.Errorf("what was added beside a claim that waits is %s", got)
	}
	done()
	inState(t, s, request.Created, 2)
}

// TestGateBeforeRows: a record that pauses the gate has paused it, and let it go, before it locks its row. An add
// that has the gate may wait for that row: the request is asked for again while its outcome is recorded. Neither
// fails by a deadlock.
func TestGateBeforeRows(t *testing.T) {
	t.Parallel()
	s := newStore(t).unhurried(t)
	mustAdd(t, s, "r", 1)
	lease := mustClaim(t, s, 1)[0]
	pgtest.Exec(t, s.pool, `UPDATE outbox_gate SET rate = 50, tokens = 5`)
	d, _ := eager(t, s, 8)
	// The record is kept between its row and its history.
	pid, done := s.barrierAt(t, `BEFORE INSERT ON outbox_attempts FOR EACH ROW`)
	limited := flex.Outcome{Kind: flex.Refused, Limited: true, HTTPStatus: 429, RetryAfter: time.Minute, ErrorKind: "http_429", Message: "too many"}
	var both sync.WaitGroup
	both.Go(func() {
		if _, err := s.record(context.WithoutCancel(t.Context()), attempt.Decide(testPolicy, lease, limited, 0)); err != nil {
			t.Errorf("record: %v", err)
		}
	})
	recording := blockedBy(t, s, pid)
	if g := readGate(t, s); g.State != gate.Paused {
		t.Errorf("with the row locked: %+v", g)
	}
	both.Go(func() {
		if got, err := d.add(t, event(lease.RequestID, 100)); err != nil || got[0] != Repeated {
			t.Errorf("add: %v, %v", got, err)
		}
	})
	blockedBy(t, s, recording)
	done()
	both.Wait()
	if g := readGate(t, s); g.State != gate.Paused {
		t.Errorf("%+v", g)
	}
}

// TestClaimWhileRateChanges: a claim that waited for the gate while its rate was
// taken away, or set anew, claims all the same.
func TestClaimWhileRateChanges(t *testing.T) {
	t.Parallel()
	for _, rate := range []float64{0, 100} {
		t.Run(fmt.Sprint(rate), func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			mustAdd(t, s, "r", 1)
			pgtest.Exec(t, s.pool, `UPDATE outbox_gate SET rate = 50, tokens = 5`)
			pid, done := holding(t, s, `UPDATE outbox_gate SET rate = $1`, rate)
			var claiming sync.WaitGroup
			claiming.Go(func() {
				if c, err := s.claim(context.WithoutCancel(t.Context()), 1); err != nil || len(c.leases) != 1 {
					t.Errorf("%+v, %v", c, err)
				}
			})
			blockedBy(t, s, pid)
			done()
			claiming.Wait()
		})
	}
}
