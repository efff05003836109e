package main

import (
	"context"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/flextest"
	"flexworker/internal/testing/natstest"
)

// TestPlain: the plain consumer answers each request once and never gives up, and an answer that was lost makes it create
// a second interaction. Its account says so.
func TestPlain(t *testing.T) {
	t.Parallel()
	stream, err := jetstream.New(natstest.New(t, natstest.Options{}).Connect(t), natstest.Unhurried())
	if err != nil {
		t.Fatal(err)
	}
	b, err := startBeside(t.Context(), stream, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer b.flex.Close()
	b.flex.Script("lost-answer", flextest.CreateThenReset)
	b.flex.Script("lost-call", flextest.Reset)
	b.flex.Script("busy", flextest.Status(429), flextest.Status(503), flextest.NoSID)
	b.flex.Script("refused", flextest.Status(400))
	for n, id := range []string{"well", "lost-answer", "lost-call", "busy", "refused"} {
		w := wish{n: n, id: id, rec: &rec{}, priority: -1}
		if _, err := stream.Publish(t.Context(), "plain.requests", []byte(w.json(true, false)), jetstream.WithMsgID(id)); err != nil {
			t.Fatal(err)
		}
		b.acknowledged(id)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		newPlain(stream, b.flex.Addr()).consume(ctx)
		close(done)
	}()
	expect.Eventually(t, func() error {
		s, err := stream.Stream(t.Context(), plainResults)
		if err != nil {
			return err
		}
		return expect.Is("results", s.CachedInfo().State.Msgs, uint64(5))
	})
	b.drain(t.Context(), stream)
	stop()
	<-done
	got, err := b.judge(t.Context(), stream)
	if err != nil {
		t.Fatal(err)
	}
	want := plainCounts{requests: 5, creates: 5, twice: 1, extra: 1, never: 1}
	if got != want || b.left != 0 {
		t.Errorf("%+v, want %+v, %d left after %v", got, want, b.left, plainLimit)
	}
}
