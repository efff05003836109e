package main

import (
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/flextest"
)

// TestLongSource: a source as long as the request stream takes is answered like any
// other, with a subject that fits, and every replica stays connected.
func TestLongSource(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	in := r.read()
	first, second := r.config(), r.config()
	r.start(first)
	r.start(second)
	source := strings.Repeat("x", 4000)
	for _, body := range []string{string(requestOf("far")), "not JSON", string(requestOf("far"))} {
		if _, err := r.js.Publish(t.Context(), "interactions.requests."+source, []byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	r.send("near", 0, 10)
	at := source[:991] + ".91c9568c40c8d8d1f7a1bd029d124994"
	expect.Eventually(t, func() error {
		got := in.subjects()
		if err := expect.Is("created", got["interactions.results.created."+at], 2); err != nil {
			return err
		}
		return expect.Is("malformed", got["interactions.results.malformed."+at], 1)
	})
	expect.Eventually(t, func() error { return expect.Is("near", in.subjects()["interactions.results.created.crm"], 10) })
	r.says(first.AdminAddr, "ok", 200)
	r.says(second.AdminAddr, "ok", 200)
}

// TestClosedForGood: a server closes a connection for good when it is sent a line
// that is too long, here by a prefix of results beyond all measure, and the library
// does not connect again. The worker must not live on deaf: it stops in order, so
// that what is in flight is recorded, and ends with an error.
func TestClosedForGood(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.flex.Inject(flextest.Rule{Fault: flextest.Hang, Times: 4})
	env := r.environment(unhurriedCalls, "RESULTS_SUBJECT=interactions.results."+strings.Repeat("x", nats.MAX_CONTROL_LINE_SIZE))
	c := r.command(env)
	r.says(c.address, "ok", 200)
	r.send("flight", 0, 4)
	r.reached("in flight", func(c flextest.Calls) bool { return c.Hanging == 4 })
	if _, err := r.js.Publish(t.Context(), "interactions.requests.crm", []byte("not JSON")); err != nil {
		t.Fatal(err)
	}
	r.draining(c)
	r.flex.Release() // the connection is closed already
	if status := c.exit(); status != exitAway {
		t.Errorf("exit status %d, want %d", status, exitAway)
	}
	if said := c.log.String(); !strings.Contains(said, "worker: NATS has closed the connection for good") || !strings.Contains(said, "maximum control line exceeded") {
		t.Errorf("it does not say why")
	}
	if n := r.count(`SELECT count(*) FROM outbox WHERE state = 'created' AND published_at IS NULL`); n != 4 {
		t.Errorf("%d of 4 that were in flight are recorded: %s", n, r.states())
	}
	in := r.read()
	r.start(r.config()) // the next one, with settings that are right
	expect.Eventually(t, func() error {
		got := in.subjects()
		return expect.Is("answers", [2]int{got["interactions.results.created.crm"], got["interactions.results.malformed.crm"]}, [2]int{4, 1})
	})
	if n := r.flex.Calls().Created; n != 4 {
		t.Errorf("%d created, want 4", n)
	}
}
