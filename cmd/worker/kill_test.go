package main

import (
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/flextest"
	"flexworker/internal/testing/pgtest"
)

// reached waits until the counters of Flex say so.
func (r *rig) reached(what string, done func(flextest.Calls) bool) {
	r.t.Helper()
	expect.Eventually(r.t, func() error { return expect.Is(what, done(r.flex.Calls()), true) })
}

// TestKill: two processes, one of them killed with requests in flight. Nothing
// is lost, what it left lapses, and no create call is repeated before the
// request was uncertain.
func TestKill(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	in := r.read()
	// What the killed one had received and not acked comes again after AckWait:
	// the shortest that the worker starts with, where its own is a minute.
	if _, err := r.js.CreateConsumer(t.Context(), "INTERACTION_REQUESTS", jetstream.ConsumerConfig{
		Durable: "interaction-worker", FilterSubject: "interactions.requests.>", AckPolicy: jetstream.AckExplicitPolicy,
		AckWait: 10 * time.Second, MaxDeliver: 20, MaxAckPending: 10000}); err != nil {
		t.Fatal(err)
	}
	// No call that hangs ends by itself until one is killed, however busy the machine is.
	one, two := r.command(r.environment(unhurriedCalls)), r.command(r.environment("FLEX_TIMEOUT=20s"))
	r.says(one.address, "ok", 200)
	r.says(two.address, "ok", 200)
	// Half of what is in flight at the kill exists, the other half never will.
	r.flex.Inject(flextest.Rule{Fault: flextest.Hang, Share: 0.05, Times: 8})
	r.flex.Inject(flextest.Rule{Fault: flextest.CreateThenHang, Share: 0.05, Times: 8})
	r.send("a", 0, 500)
	r.reached("calls that hang", func(c flextest.Calls) bool { return c.Hanging >= 8 && c.Created >= 50 })
	var killed string
	if err := r.pool.QueryRow(t.Context(), `SELECT split_part(leased_by, '/', 1) FROM outbox WHERE leased_by LIKE '%-' || $1 || '-%' LIMIT 1`, fmt.Sprint(one.cmd.Process.Pid)).Scan(&killed); err != nil {
		one, two = two, one // the other one has all that hangs
		if err := r.pool.QueryRow(t.Context(), `SELECT split_part(leased_by, '/', 1) FROM outbox WHERE leased_by LIKE '%-' || $1 || '-%' LIMIT 1`, fmt.Sprint(one.cmd.Process.Pid)).Scan(&killed); err != nil {
			t.Fatalf("nobody is in flight: %v: %s", err, r.states())
		}
	}
	if err := one.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	one.exit()
	r.flex.Clear()
	r.lapse(killed)
	in.balanced(500)
	lapsed := r.count(`SELECT count(DISTINCT outbox_id) FROM outbox_attempts WHERE outcome = 'lapsed' AND worker LIKE $1 || '/%'`, killed)
	if lapsed < 1 {
		t.Errorf("nothing of %s lapsed", killed)
	}
	// Whatever was attempted more than once was found to be absent before, and
	// the history says so.
	unexplained := r.count(`SELECT count(*) FROM outbox o WHERE attempt - uncounted > 1 AND NOT EXISTS
		(SELECT FROM outbox_attempts a WHERE a.outbox_id = o.id AND a.kind = 'lookup' AND a.outcome = 'absent')`)
	if unexplained != 0 {
		t.Errorf("%d were attempted again without being looked up: %s", unexplained, r.states())
	}
	stopped(t, two)
}

// lapse makes the time pass that the leases of a dead worker have left.
func (r *rig) lapse(worker string) {
	r.t.Helper()
	r.must(`UPDATE outbox SET leased_until = clock_timestamp() WHERE state = 'sending' AND leased_by LIKE $1 || '/%'`, worker)
}

// TestTerm: SIGTERM with 300 calls in flight: they end and are recorded, the
// rest is pending or in the stream, nothing is uncertain, and the status is 0.
func TestTerm(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	c := r.command(r.environment("FLEX_CONCURRENCY=300", "FLEX_TIMEOUT=30s"))
	r.says(c.address, "ok", 200)
	r.flex.Inject(flextest.Rule{Fault: flextest.Hang})
	r.send("a", 0, 500)
	r.reached("300 in flight", func(c flextest.Calls) bool { return c.Hanging == 300 })
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	r.says(c.address, "draining", 503)
	r.flex.Clear()
	r.flex.Release()
	if status := c.exit(); status != 0 {
		t.Errorf("status %d", status)
	}
	created := r.count(`SELECT count(*) FROM outbox WHERE state = 'created'`)
	waiting := r.count(`SELECT count(*) FROM outbox WHERE state = 'pending' AND attempt = uncounted`)
	if all := r.count(`SELECT count(*) FROM outbox`); created != 300 || created+waiting != all {
		t.Errorf("%d created, %d wait of %d: %s", created, waiting, all, r.states())
	}
	if n := r.count(`SELECT count(*) FROM outbox WHERE published_at IS NOT NULL`); n != 300 {
		t.Errorf("%d results were published before the end, want 300", n)
	}
	in := r.read()
	next := r.command(r.environment())
	in.balanced(500)
	stopped(t, next)
}

// TestSecondTerm: a second SIGTERM ends the process at once, calls in flight or
// not; what is left lapses and is found by the next worker.
func TestSecondTerm(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	in := r.read()
	c := r.command(r.environment("SHUTDOWN_GRACE=1h", "FLEX_TIMEOUT=5m"))
	r.says(c.address, "ok", 200)
	r.flex.Next(flextest.CreateThenHang)
	r.send("a", 0, 1)
	r.reached("in flight", func(c flextest.Calls) bool { return c.Hanging == 1 })
	for range 2 {
		if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		r.draining(c)
	}
	if status := c.exit(); status != 1 {
		t.Errorf("status %d, want 1", status)
	}
	if n := r.count(`SELECT count(*) FROM outbox WHERE state = 'sending'`); n != 1 {
		t.Errorf("it did not end at once: %s", r.states())
	}
	r.lapse(r.text(`SELECT coalesce(min(split_part(leased_by, '/', 1)), 'nobody') FROM outbox`))
	r.command(r.environment())
	in.balanced(1)
	if n := r.count(`SELECT count(*) FROM outbox WHERE resolved_by = 'lookup' AND attempt = 1`); n != 1 {
		t.Errorf("not found by lookup: %s", r.states())
	}
}

// draining waits until the first signal has arrived; the second ends the process.
func (r *rig) draining(c *child) {
	r.t.Helper()
	expect.Eventually(r.t, func() error {
		select {
		case <-c.done:
			return nil
		default:
		}
		got, _, err := word(c.address)
		if err != nil {
			return err
		}
		return expect.Is("readyz", got, "draining")
	})
}

// TestGraceOver: calls that outlast SHUTDOWN_GRACE do not hold the process.
func TestGraceOver(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	c := r.command(r.environment("SHUTDOWN_GRACE=100ms", "FLEX_TIMEOUT=5m"))
	r.says(c.address, "ok", 200)
	r.flex.Next(flextest.Hang)
	r.send("a", 0, 1)
	r.reached("in flight", func(c flextest.Calls) bool { return c.Hanging == 1 })
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if status := c.exit(); status != 0 {
		t.Errorf("status %d", status)
	}
	if n := r.count(`SELECT count(*) FROM outbox WHERE state = 'sending'`); n != 1 {
		t.Errorf("it is not left to lapse: %s", r.states())
	}
}

// TestTermWithoutPostgres: what Flex answered cannot be recorded, and that does not
// hold the process beyond SHUTDOWN_GRACE; the next worker finds what was created. A
// Postgres that only stood still may record it when the process is gone.
func TestTermWithoutPostgres(t *testing.T) {
	t.Parallel()
	for name, away := range map[string]func(*pgtest.Server) (begin, end func() error){
		"killed": func(s *pgtest.Server) (begin, end func() error) {
			return s.Kill, func() error { return s.Restart(t.Context()) }
		},
		"paused": func(s *pgtest.Server) (begin, end func() error) { return s.Pause, s.Resume },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := pgtest.NewServer(t)
			r := rigOn(t, server.DSN("postgres"))
			in := r.read()
			c := r.command(r.environment("SHUTDOWN_GRACE=2s", unhurriedCalls))
			r.says(c.address, "ok", 200)
			r.flex.Next(slices.Repeat([]flextest.Fault{flextest.CreateThenHang}, 10)...)
			r.send("a", 0, 10)
			r.reached("in flight", func(c flextest.Calls) bool { return c.Hanging == 10 })
			begin, end := away(server)
			if err := begin(); err != nil {
				t.Fatal(err)
			}
			if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			r.draining(c)
			r.flex.Release() // Flex answers when Postgres is already away
			if status := c.exit(); status != 0 {
				t.Errorf("status %d", status)
			}
			if err := end(); err != nil {
				t.Fatal(err)
			}
			r.command(r.environment())
			in.balanced(10)
			if n := r.flex.Calls().Received; n != 10 {
				t.Errorf("%d calls for 10 requests", n)
			}
			if n := r.count(`SELECT count(*) FROM outbox WHERE resolved_by = 'lookup'`); name == "killed" && n != 10 {
				t.Errorf("%d were found by lookup, want 10: %s", n, r.states())
			}
		})
	}
}
