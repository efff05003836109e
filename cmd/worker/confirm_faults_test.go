package main

import (
	"context"
	"flag"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/flextest"
	"flexworker/internal/testing/pgtest"
)

var confirmRequests = flag.Int("confirm.requests", 300, "requests of TestConfirmUnderFaults")

// TestConfirmUnderFaults: the set-up of every twentieth request fails in each of four ways, while replicas are killed,
// Postgres is killed with what no mark had waited for, and NATS goes away. Each created request has exactly one word, the
// one of its fate by Flex's ledger. The second half of the requests is looked at while NATS is away, and not before.
func TestConfirmUnderFaults(t *testing.T) {
	t.Parallel()
	server := pgtest.NewServer(t)
	r := rigOn(t, server.DSN("postgres"))
	r.program = plainWorker(t)
	if _, err := r.js.CreateConsumer(t.Context(), "INTERACTION_REQUESTS", jetstream.ConsumerConfig{
		Durable: "interaction-worker", FilterSubject: "interactions.requests.>", AckPolicy: jetstream.AckExplicitPolicy,
		AckWait: 10 * time.Second, MaxDeliver: 20, MaxAckPending: 10000}); err != nil {
		t.Fatal(err)
	}
	r.flex.Set(flextest.Settings{Latency: 5 * time.Millisecond,
		SetupFates: flextest.SetupFates{ChannelFailed: .05, NoCustomer: .05, TaskCanceled: .05, Stuck: .05}})
	in, n := r.read(), *confirmRequests
	start := func() *child {
		c := r.command(r.environment("CONFIRM=true", "CONFIRM_RATE=1000", "FLEX_CONCURRENCY=4"))
		r.says(c.address, "ok", 200)
		return c
	}
	one, two := start(), start()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go r.hasten(ctx)
	words := func(share float64) {
		t.Helper()
		r.eventually(func() error {
			got := len(in.words())
			return expect.Is(fmt.Sprintf("%d words of %d are enough", got, n), got >= int(share*float64(n)), true)
		})
	}
	r.send("f", 0, n/2)
	words(0.1)
	for _, kill := range []*child{one, two} {
		if err := kill.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		kill.exit()
		start()
	}
	words(0.2)
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	words(0.3)
	mayLook := func(until string) {
		t.Helper()
		r.eventually(func() error { // Postgres was killed: the first session may be one that is gone
			_, err := r.pool.Exec(t.Context(), `UPDATE outbox_confirmation SET read_at = clock_timestamp() + $1::interval`, until)
			return err
		})
	}
	mayLook("1 hour") // as after a 429: until then nobody looks
	r.send("f", n/2, n)
	r.eventually(func() error { return expect.Is("set-ups", r.count(`SELECT count(*) FROM outbox_setups`), n) })
	r.nats.Shutdown()
	mayLook("0 s")
	r.eventually(func() error { // looks go on without NATS, and their words wait
		return expect.Is("set-ups without a word", r.count(`SELECT count(*) FROM outbox_setups WHERE word IS NULL`), 0)
	})
	if waiting := r.count(`SELECT count(*) FROM outbox_setups WHERE published_at IS NULL`); waiting < n/2 {
		t.Errorf("%d words wait for NATS, of %d found while NATS was away", waiting, n/2)
	}
	if err := r.nats.Restart(); err != nil {
		t.Fatal(err)
	}
	words(1)
	r.eventually(func() error {
		if _, err := r.pool.Exec(t.Context(), `SELECT 1`); err != nil {
			return err
		}
		return expect.Is("words not published", r.count(`SELECT count(*) FROM outbox_setups WHERE published_at IS NULL`), 0)
	})
	r.judgeWords(in)
	if created := len(r.flex.Ledger()); created != n || len(in.words()) != n {
		t.Errorf("%d created, %d with a word, of %d", created, len(in.words()), n)
	}
	fates := map[flextest.Fate]int{}
	for _, e := range r.flex.Ledger() {
		fates[e.Fate]++
	}
	t.Logf("fates: %v", fates)
}
