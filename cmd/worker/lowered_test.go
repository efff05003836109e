package main

import (
	"errors"
	"testing"
	"time"

	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/flextest"
)

// TestLoweredTimeout: Flex creates an interaction in the first moment of a call that may
// take a minute, the answer is lost, and the interaction's task ends. TaskRouter is away
// for six minutes. Then the task is deleted, and only the event log knows of its creation,
// nearly a minute before the attempt ended. Who looks has a FLEX_TIMEOUT of 20 s. Other
// requests of the workspace have been created meanwhile, so that absence from the log
// would be believed.
func TestLoweredTimeout(t *testing.T) {
	t.Parallel()
	const timeout, away = time.Minute, 6 * time.Minute
	for name, tt := range map[string]struct {
		fault flextest.Fault
		lose  func(*rig, *child)
	}{
		// It hangs for all of its minute: the test shortens the wait by the two columns.
		"the call is given up": {flextest.CreateThenReset, func(r *rig, c *child) {
			expect.Eventually(r.t, func() error {
				return expect.Is("uncertain", r.count(`SELECT count(*) FROM outbox WHERE state = 'uncertain'`), 1)
			})
			c.end()
			r.must(`UPDATE outbox SET uncertain_since = attempt_began_at + $1::interval`, timeout)
		}},
		"its process is killed": {flextest.CreateThen(flextest.Hang), func(r *rig, c *child) {
			expect.Eventually(r.t, func() error { return expect.Is("created", len(r.flex.Ledger()), 1) })
			c.end()
			if n := r.count(`SELECT count(*) FROM outbox WHERE state = 'sending' AND leased_until > attempt_began_at + $1::interval`, timeout); n != 1 {
				r.t.Fatalf("the lease does not cover the call: %s", r.states())
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			in := r.read()
			down := flextest.TaskRouter{Trouble: flextest.Status(503), EventTrouble: flextest.Status(503)}
			r.flex.SetTaskRouter(down)
			r.flex.Script("long-0", tt.fault)
			sender := r.command(r.environment("FLEX_TIMEOUT="+timeout.String(), "LOOKUP_SETTLE=1s"))
			r.send("long", 0, 1)
			tt.lose(r, sender)

			if n := r.flex.Complete("long-0"); n != 1 {
				t.Fatalf("%d tasks end, want 1", n)
			}
			r.flex.Age(timeout + away)
			r.must(`UPDATE outbox SET received_at = received_at - $1::interval, attempt_began_at = attempt_began_at - $1::interval,
				leased_until = leased_until - $1::interval, uncertain_since = uncertain_since - $1::interval`, timeout+away)

			r.start(r.unhurried())
			const later = 3
			r.send("later", 0, later)
			expect.Eventually(t, func() error {
				return expect.Is("created later", r.count(`SELECT count(*) FROM outbox WHERE state = 'created' AND settled_at < clock_timestamp() - interval '1 s'`), later)
			})
			expect.Eventually(t, func() error {
				if r.count(`SELECT count(*) FROM outbox_attempts WHERE kind = 'lookup'`) == 0 {
					return errors.New("nobody has looked yet")
				}
				return nil
			})
			r.flex.SetTaskRouter(flextest.TaskRouter{})
			in.balanced(later + 1)
			if got := in.final()["long-0"][0].Body; got.ResolvedBy != "lookup" || got.Attempts != 1 {
				t.Errorf("resolved by %s after %d attempts; it was there since the first", got.ResolvedBy, got.Attempts)
			}
		})
	}
}

// end kills the process, and waits for that.
func (c *child) end() {
	_ = c.cmd.Process.Kill() // it may be gone
	<-c.done
}
