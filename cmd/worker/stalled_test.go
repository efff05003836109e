package main

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"flexworker/internal/testing/expect"
)

// TestReadyzWhileNothingComes: a consumer that is paused is `nats` on /readyz, and ok
// again when it is resumed; so is one that became what the worker would not start with,
// until it is deleted.
func TestReadyzWhileNothingComes(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	ctx := t.Context()
	cfg := r.config()
	cfg.Retention = 24 * time.Hour
	out := r.startLogged(cfg)
	r.says(cfg.AdminAddr, "ok", 200)
	for _, advice := range []string{"stream INTERACTION_REQUESTS drops a message whose Nats-Msg-Id it has seen within 30m0s", "stream INTERACTION_REQUESTS keeps messages for ever"} {
		if !strings.Contains(out.String(), advice) {
			t.Errorf("the start does not warn that the %s", advice)
		}
	}
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
		expect.Eventually(t, func() error {
			return expect.Is("created", r.count(`SELECT count(*) FROM outbox WHERE state = 'created'`), n)
		})
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

// TestResultsStreamDeleted: it is named, with what to do, and made anew where the streams
// are the worker's; what was not published waits, and is.
func TestResultsStreamDeleted(t *testing.T) {
	t.Parallel()
	for _, create := range []bool{false, true} {
		t.Run(fmt.Sprintf("create=%t", create), func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			cfg := r.config()
			cfg.CreateStreams = create
			out := r.startLogged(cfg)
			r.says(cfg.AdminAddr, "ok", 200)
			if err := r.js.DeleteStream(t.Context(), cfg.ResultsStream); err != nil {
				t.Fatal(err)
			}
			r.send("lost", 0, 3)
			if !create {
				expect.Eventually(t, func() error {
					return expect.Is("named", strings.Contains(out.String(), "no stream is bound to interactions.results.>: create INTERACTION_RESULTS, or start with CREATE_STREAMS=true"), true)
				})
				r.says(cfg.AdminAddr, "nats", 503)
				if _, err := r.js.CreateStream(t.Context(), jetstream.StreamConfig{Name: cfg.ResultsStream, Subjects: []string{"interactions.results.>"}}); err != nil {
					t.Fatal(err)
				}
			}
			expect.Eventually(t, func() error {
				return expect.Is("published", r.count(`SELECT count(*) FROM outbox WHERE published_at IS NOT NULL`), 3)
			})
			stream, err := r.js.Stream(t.Context(), cfg.ResultsStream)
			if err != nil {
				t.Fatal(err)
			}
			if n := stream.CachedInfo().State.Msgs; n != 3 {
				t.Errorf("%d results, want 3", n)
			}
			r.says(cfg.AdminAddr, "ok", 200)
			if said := out.String(); strings.Contains(said, "no response from stream") {
				t.Error("the library's words are in the log")
			}
		})
	}
}

// TestNATSAwayIsSaid: without a connection the log says so, and not that a buffer is full.
func TestNATSAwayIsSaid(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	cfg := r.config()
	out := r.startLogged(cfg)
	r.says(cfg.AdminAddr, "ok", 200)
	r.send("away", 0, 3)
	published := func() {
		t.Helper()
		expect.Eventually(t, func() error {
			return expect.Is("published", r.count(`SELECT count(*) FROM outbox WHERE published_at IS NOT NULL`), 3)
		})
	}
	published()
	r.nats.Shutdown()
	if _, err := r.pool.Exec(t.Context(), `UPDATE outbox SET published_at = NULL`); err != nil { // as a republish does
		t.Fatal(err)
	}
	expect.Eventually(t, func() error {
		return expect.Is("said", strings.Contains(out.String(), `error="NATS is not connected"`), true)
	})
	if err := r.nats.Restart(); err != nil {
		t.Fatal(err)
	}
	published()
	if strings.Contains(out.String(), "outbound buffer limit exceeded") {
		t.Error("the library's words are in the log")
	}
}
