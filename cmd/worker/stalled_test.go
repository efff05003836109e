package main

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// TestReadyzWhileNothingComes: a consumer that is paused is `nats` on /readyz, and ok
// again when it is resumed; so is one that became what the worker would not start with,
// until it is deleted.
func TestReadyzWhileNothingComes(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	ctx := t.Context()
	cfg := r.config()
	r.start(cfg)
	r.says(cfg.AdminAddr, "ok", 200)
	stream, err := r.js.Stream(ctx, cfg.RequestsStream)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.PauseConsumer(ctx, cfg.RequestsConsumer, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	r.send("paused", 0, 3)
	r.says(cfg.AdminAddr, "nats", 503)
	if _, err := stream.ResumeConsumer(ctx, cfg.RequestsConsumer); err != nil {
		t.Fatal(err)
	}
	created := func(n int) {
		t.Helper()
		eventually(t, func() error { return is("created", r.count(`SELECT count(*) FROM outbox WHERE state = 'created'`), n) })
	}
	created(3)
	r.says(cfg.AdminAddr, "ok", 200)
	c, err := stream.Consumer(ctx, cfg.RequestsConsumer)
	if err != nil {
		t.Fatal(err)
	}
	config := c.CachedInfo().Config
	config.FilterSubject = "interactions.requests.other"
	if _, err := stream.UpdateConsumer(ctx, config); err != nil {
		t.Fatal(err)
	}
	r.send("filtered", 0, 3)
	r.says(cfg.AdminAddr, "nats", 503)
	// Not edited back: the server has passed over what the filter left out. The one that
	// the worker makes anew, as the log advises, has it all.
	if err := stream.DeleteConsumer(ctx, cfg.RequestsConsumer); err != nil {
		t.Fatal(err)
	}
	created(6)
	r.says(cfg.AdminAddr, "ok", 200)
}

// TestConsumerThatNoPullSatisfies: the start says so with both sides.
func TestConsumerThatNoPullSatisfies(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	cfg := r.config()
	if _, err := r.js.CreateConsumer(t.Context(), cfg.RequestsStream, jetstream.ConsumerConfig{Durable: cfg.RequestsConsumer,
		FilterSubject: "interactions.requests.>", AckPolicy: jetstream.AckExplicitPolicy, MaxRequestExpires: 100 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	err := run(t.Context(), cfg, slog.New(slog.DiscardHandler), nil)
	if err == nil || !strings.Contains(err.Error(), "max expires is 100ms, needed is none, or at least 1s") {
		t.Errorf("got %v", err)
	}
}
