package outbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"flexworker/internal/database"
	"flexworker/internal/outbox/gate"
	"flexworker/internal/outbox/request"
	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/flextest"
	"flexworker/internal/testing/pgtest"
)

// TestStall: nothing gets through from the begin of the first try that failed on, until one succeeds;
// a try that began before the latest success does not count from its begin. What nobody tries for a minute is over.
func TestStall(t *testing.T) {
	t.Parallel()
	var s gate.Stall
	at := func(seconds int) time.Time { return time.Unix(int64(1e9+seconds), 0) }
	lasts := func(now, want int) {
		t.Helper()
		if d, _ := s.Lasts(at(now)); d != time.Duration(want)*time.Second {
			t.Errorf("at %d it lasts %v, want %d s", now, d, want)
		}
	}
	lasts(5, 0)
	s.Failed(at(5), errors.New("a"))
	lasts(9, 4)
	s.Failed(at(9), errors.New("b"))
	lasts(15, 10)
	if _, why := s.Lasts(at(15)); why != "b" {
		t.Errorf("the reason is %q", why)
	}
	s.GoesOn(at(16))
	lasts(30, 0)
	s.Failed(at(10), errors.New("c")) // it was under way
	lasts(17, 1)
	lasts(70, 54)
	lasts(71, 0) // nobody tries any more
	s.Failed(at(90), errors.New("d"))
	lasts(95, 5)
	s.GoesOn(at(100))
	s.Seldom = true // then one failure alone is no stall
	s.Failed(at(110), errors.New("e"))
	lasts(130, 0)
	s.Failed(at(125), errors.New("f"))
	lasts(130, 15)
	lasts(186, 0)
}

// TestStalled: while a session holds the gate's row a replica says that it cannot claim, and names the
// session, though only where a request is due. Where there is no rate nobody needs the row.
func TestStalled(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, locks string
		due         int
		rate        float64
		want        bool
	}{
		{"the gate's row", `SELECT FROM outbox_gate FOR UPDATE`, 1, 50, true},
		{"nothing is due", `SELECT FROM outbox_gate FOR UPDATE`, 0, 50, false},
		{"no rate", `SELECT FROM outbox_gate FOR UPDATE`, 1, 0, false},
		{"a table", `LOCK TABLE outbox IN ACCESS EXCLUSIVE MODE`, 0, 0, true},
		{"an index is built", `LOCK TABLE outbox IN SHARE MODE`, 1, 50, true},
		{"somebody reads", `SELECT FROM outbox, outbox_gate`, 1, 50, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			pgtest.Exec(t, s.pool, `UPDATE outbox_gate SET rate = $1, tokens = 5`, tt.rate)
			mustAdd(t, s, "r", tt.due)
			pid, done := holding(t, s, tt.locks)
			d := newDeliverer(t, s.with(t, "lock_timeout", "50ms"), flextest.New(t))
			began := time.Now()
			_, err := d.Store.claim(t.Context(), 1)
			if locked := database.WaitedForLock(err); locked != (tt.want || tt.due == 0) {
				t.Errorf("the claim: %v", err)
			}
			if err != nil {
				d.claimFailed(t.Context(), began, err)
			}
			if why := d.Stalled(1); strings.Contains(why, fmt.Sprintf("pid %d (", pid)) != tt.want {
				t.Errorf("it says %q", why)
			}
			if why := d.Stalled(gate.StalledAfter); why != "" {
				t.Errorf("it says so at once: %s", why)
			}
			done()
			if _, err := d.Store.claim(t.Context(), 1); err != nil || d.Stalled(1) != "" {
				t.Errorf("afterwards: %v, %q", err, d.Stalled(1))
			}
		})
	}
}

// TestStalledAdds: messages that cannot be stored are said, too, also where no request is due.
func TestStalledAdds(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	pid, done := holding(t, s, `LOCK TABLE outbox IN SHARE MODE`)
	d := newDeliverer(t, s.with(t, "lock_timeout", "50ms"), flextest.New(t))
	if _, err := d.Store.Add(t.Context(), event("a", 1)); !Away(err) {
		t.Errorf("add: %v", err)
	}
	if why := d.Stalled(1); !strings.HasPrefix(why, "no message could be stored for ") || !strings.Contains(why, fmt.Sprintf("pid %d (", pid)) {
		t.Errorf("it says %q", why)
	}
	done()
	if _, err := d.Store.Add(t.Context(), event("a", 1)); err != nil || d.Stalled(1) != "" {
		t.Errorf("afterwards: %v, %q", err, d.Stalled(1))
	}
}

// TestStalledRecords: outcomes that cannot be recorded are said, too, where nothing is to be claimed or
// stored, once a minute in the log. They wait together: one connection tries for all, and none of them
// asks the history on its own. All are recorded once the table is free.
func TestStalledRecords(t *testing.T) {
	t.Parallel()
	const n = 12
	s := newStore(t)
	mustAdd(t, s, "r", n)
	leases := mustClaim(t, s, n)
	pid, done := holding(t, s, `LOCK TABLE outbox_attempts IN ACCESS EXCLUSIVE MODE`)
	var log bytes.Buffer
	d := newDeliverer(t, s.with(t, "lock_timeout", "50ms"), flextest.New(t))
	d.Log = textLog(&log)
	var recording sync.WaitGroup
	for i, l := range leases {
		recording.Go(func() {
			d.record(context.WithoutCancel(t.Context()), record{Lease: l, Outcome: "created", Told: wasCreated(i), Move: request.Move{To: request.Created}})
		})
	}
	session := fmt.Sprintf("pid %d (", pid)
	most := int32(0)
	expect.Eventually(t, func() error {
		most = max(most, d.Store.pool.Stat().AcquiredConns())
		if why := d.Stalled(200 * time.Millisecond); !strings.HasPrefix(why, "no outcome could be recorded for ") || !strings.Contains(why, session) {
			return fmt.Errorf("it says %q", why)
		}
		return nil
	})
	if most > 2 { // the batch, and who asks for the holders or whether rows are locked
		t.Errorf("%d connections wait at once", most)
	}
	done()
	recording.Wait()
	if why := d.Stalled(1); why != "" {
		t.Errorf("afterwards it says %q", why)
	}
	inState(t, s, request.Created, n)
	if said := log.String(); strings.Count(said, "an outcome cannot be recorded; trying again") != 2 || strings.Count(said, "level=WARN") != 1 ||
		!strings.Contains(said, "held_by=\""+session) || !strings.Contains(said, "works again") {
		t.Errorf("the log is\n%s", said)
	}
	pgtest.CheckOutbox(t, s.pool)
}

// TestStalledUpkeep: while somebody holds outbox_attempts, no lease that ran out ends and nothing that a lookup found is
// stored; while somebody holds outbox_replicas, no worker's row is renewed. Each is said, with the session; then all goes on.
func TestStalledUpkeep(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ table, says string }{
		{"outbox_attempts", "no lease that ran out could be ended for "},
		{"outbox_replicas", "this worker's row of outbox_replicas could not be renewed for "},
	} {
		t.Run(tt.table, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			mustAdd(t, s, "lapses", 1)
			mustClaim(t, s, 1)
			pgtest.Exec(t, s.pool, `UPDATE outbox SET leased_until = clock_timestamp() - interval '1 minute'`)
			pid, release := holding(t, s, `LOCK TABLE `+tt.table+` IN ACCESS EXCLUSIVE MODE`)
			hasty := s.with(t, "lock_timeout", "50ms")
			u := hasty.upkeep()
			u.Registry = &gate.Registry{Pool: hasty.pool, Name: "w1", WentBack: u.WentBack, Version: "v", Standing: standingOK, Log: quiet}
			running(t, u.Poll)
			running(t, u.Sweep)
			expect.Eventually(t, func() error {
				if why := u.Stalled(time.Millisecond); !strings.HasPrefix(why, tt.says) || !strings.Contains(why, fmt.Sprintf("pid %d (", pid)) {
					return fmt.Errorf("it says %q", why)
				}
				return nil
			})
			release()
			expect.Eventually(t, func() error { return expect.Is("stalled", u.Stalled(time.Nanosecond), "") })
			inState(t, s, request.Uncertain, 1)
		})
	}
}

// TestHolders: who holds locks for long is named, and who they wait for themselves in their place. A
// role that may not see others' sessions still learns whose they are.
func TestHolders(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	named := func(s *Store, want ...uint32) []database.Holder {
		t.Helper()
		holders, err := database.Holders(t.Context(), s.pool, 0)
		if err != nil {
			t.Fatal(err)
		}
		for i, h := range holders {
			if i >= len(want) || h.PID != int32(want[i]) {
				t.Fatalf("%s, want %v", database.Named(holders), want)
			}
		}
		if len(holders) != len(want) {
			t.Fatalf("%s, want %v", database.Named(holders), want)
		}
		return holders
	}
	named(s)
	reads, read := holding(t, s, `SELECT FROM outbox`)
	named(s) // who reads keeps nobody waiting
	altered := make(chan error, 1)
	go func() {
		altered <- pgx.BeginFunc(t.Context(), s.pool, func(tx pgx.Tx) error {
			_, err := tx.Exec(t.Context(), `LOCK TABLE outbox IN ACCESS EXCLUSIVE MODE`) // as ALTER TABLE does
			return err
		})
	}()
	blockedBy(t, s, reads)
	if h := named(s, reads)[0]; h.Waiting != 1 || h.Query != "SELECT FROM outbox" || h.Since == nil || strings.Join(h.Tables, " ") != "outbox" {
		t.Errorf("%+v", h)
	}
	role := strings.ToLower(strings.ReplaceAll(fmt.Sprintf("r_%s_%d", pgtest.One[string](t, s.pool, `SELECT current_schema()`), time.Now().UnixNano()), "-", "_"))
	pgtest.Exec(t, s.pool, `CREATE ROLE `+role)
	defer func() {
		pgtest.Exec(t, s.pool, `DROP OWNED BY `+role)
		pgtest.Exec(t, s.pool, `DROP ROLE `+role)
	}()
	poor := s.with(t, "role", role)
	pgtest.Exec(t, s.pool, `GRANT USAGE ON SCHEMA `+pgtest.One[string](t, s.pool, `SELECT quote_ident(current_schema())`)+` TO `+role)
	if h := named(poor, reads)[0]; h.Since != nil || h.User == "" {
		t.Errorf("%+v", h)
	}
	read()
	if err := <-altered; err != nil {
		t.Error(err)
	}
	holds, _ := holding(t, s, `SELECT FROM outbox_gate FOR UPDATE`)
	named(s, holds)
	if all, err := database.Holders(t.Context(), s.pool, time.Hour); err != nil || len(all) != 0 {
		t.Errorf("within an hour: %s, %v", database.Named(all), err)
	}
}
