package main

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/natstest"
)

// TestSlowConsumer: a worker that stands still does not read what NATS sends it, more than fits between the two, and NATS closes
// its connection as that of a slow consumer. When the worker goes on it connects anew by itself. What it had not read comes again
// after AckWait; each request is created once, and none loses an attempt.
func TestSlowConsumer(t *testing.T) {
	t.Parallel()
	r := rigWith(t, migrated.NewDSN(t), natstest.Options{WriteDeadline: 2 * time.Second})
	r.redeliversSoon()
	in := r.read()
	// The more attempts in flight, the more it asks NATS for at once: what it has asked for before it stands still is all that comes.
	w := r.command(r.environment(unhurriedCalls, "FLEX_CONCURRENCY=64"))
	r.says(w.address, "ok", 200)
	sending := r.load()
	in.goesOn()

	// While the consumer is paused, pulls wait and nothing is given out. So all of it is there at once when the worker stands still,
	// however long a busy machine takes to store it.
	const large = 30
	if _, err := r.js.PauseConsumer(t.Context(), "INTERACTION_REQUESTS", "interaction-worker", time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	for i := range large {
		body := append(requestOf(fmt.Sprintf("large-%d", i)), bytes.Repeat([]byte(" "), 1000<<10)...)
		if _, err := r.js.Publish(t.Context(), "interactions.requests.crm", body); err != nil {
			t.Fatal(err)
		}
	}
	pulls, err := r.js.Conn().SubscribeSync("$JS.API.CONSUMER.MSG.NEXT.INTERACTION_REQUESTS.interaction-worker")
	if err != nil {
		t.Fatal(err)
	}
	stands := func(signal syscall.Signal) {
		t.Helper()
		if err := w.cmd.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
	}
	// A pull ends by itself after five seconds, and a worker that stands still makes no other: it stops right after one.
	if _, err := pulls.NextMsg(expect.Patience); err != nil {
		t.Fatalf("the worker does not pull: %v", err)
	}
	stands(syscall.SIGSTOP)
	t.Cleanup(func() { _ = w.cmd.Process.Signal(syscall.SIGCONT) }) // it may have ended
	if _, err := r.js.ResumeConsumer(t.Context(), "INTERACTION_REQUESTS", "interaction-worker"); err != nil {
		t.Fatal(err)
	}
	expect.Eventually(t, func() error { return expect.Is("NATS has met a slow consumer", r.nats.SlowConsumers() > 0, true) })
	stands(syscall.SIGCONT)
	expect.Eventually(t, func() error {
		if !strings.Contains(w.log.String(), `"msg":"NATS is back"`) {
			return errors.New("it has not connected anew")
		}
		return nil
	})
	r.says(w.address, "ok", 200)
	in.goesOn()
	in.balanced(sending.stop() + large)
	r.uncounted()
	consumer, err := r.js.Consumer(t.Context(), "INTERACTION_REQUESTS", "interaction-worker")
	if err != nil {
		t.Fatal(err)
	}
	delivered := consumer.CachedInfo().Delivered
	again := delivered.Consumer - delivered.Stream
	if again == 0 {
		t.Error("nothing had been given out that the worker did not read")
	}
	t.Logf("%d messages came again; %d connections of slow consumers were closed", again, r.nats.SlowConsumers())
	stopped(t, w)
}
