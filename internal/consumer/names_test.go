package consumer

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"flexworker/internal/outbox"
)

// TestConsumerDeleted: the worker makes it anew; it begins at 1, and all that is
// stored already is recognised.
func TestConsumerDeleted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.consumer(16)
	w.run(c)
	w.sendMany("a", 50)
	w.rows(50)
	w.acked()
	if err := w.js.DeleteConsumer(t.Context(), w.names.Stream, w.names.Consumer); err != nil {
		t.Fatal(err)
	}
	w.sendMany("b", 50)
	w.rows(100)
	w.acked()
	if n := c.Counters.Added[outbox.Redelivered].Load(); n != 50 {
		t.Errorf("%d of the full replay were recognised, want 50", n)
	}
	if n := w.count(`SELECT count(*) FROM outbox_repeats`); n != 0 {
		t.Errorf("%d owe another answer", n)
	}
}

// TestStreamRecreated: a sequence that is used again is not taken for the old
// message, nor a question that is asked again for a redelivery.
func TestStreamRecreated(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.consumer(16)
	w.run(c)
	w.sendMany("a", 10)
	w.rows(10)
	w.acked()
	if err := w.js.DeleteStream(t.Context(), w.names.Stream); err != nil {
		t.Fatal(err)
	}
	if err := w.names.createStream(t.Context(), w.js); err != nil && !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
		t.Fatal(err)
	}
	w.sendMany("a", 3) // the same ids under the same sequences
	w.sendMany("b", 10)
	w.rows(20)
	w.acked() // the repeats are kept behind the rows
	if n := w.count(`SELECT count(*) FROM outbox_repeats`); n != 3 {
		t.Errorf("%d asked again, want 3", n)
	}
	stream, err := w.js.Stream(t.Context(), w.names.Stream)
	if err != nil {
		t.Fatal(err)
	}
	w.acked()
	if err := stream.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.sendMany("c", 10)
	w.rows(30)
	w.acked()
}

func TestNATSRestart(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.shortestAckWait() // for what is on its way, either way, as the server ends
	w.run(w.consumer(16))
	w.sendMany("a", 50)
	if err := w.nats.Restart(); err != nil {
		t.Fatal(err)
	}
	// Asked of the stream: the connection may not know yet that it is none any more.
	eventually(t, func() error { _, err := w.js.Stream(t.Context(), w.names.Stream); return err })
	w.sendMany("b", 50)
	w.rows(100)
}

// TestDrift: a consumer under which the promises do not hold stops the start
// and the message shows both sides; other differences are the operator's.
func TestDrift(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*jetstream.ConsumerConfig)
		want   string // "": none
	}{
		"none":              {func(*jetstream.ConsumerConfig) {}, ""},
		"description":       {func(c *jetstream.ConsumerConfig) { c.Description = "theirs" }, ""},
		"longer ack wait":   {func(c *jetstream.ConsumerConfig) { c.AckWait = 5 * time.Minute }, ""},
		"shortest ack wait": {func(c *jetstream.ConsumerConfig) { c.AckWait = 10 * time.Second }, ""},
		"fewer in hand":     {func(c *jetstream.ConsumerConfig) { c.MaxAckPending = 100 }, ""},
		"more deliveries":   {func(c *jetstream.ConsumerConfig) { c.MaxDeliver = -1 }, ""},
		"filters":           {func(c *jetstream.ConsumerConfig) { c.FilterSubject, c.FilterSubjects = "", []string{"requests.>"} }, ""},
		"metadata":          {func(c *jetstream.ConsumerConfig) { c.Metadata = map[string]string{"team": "crm"} }, ""},
		"replicas":          {func(c *jetstream.ConsumerConfig) { c.Replicas = 1 }, ""},
		"sampled":           {func(c *jetstream.ConsumerConfig) { c.SampleFrequency = "100" }, ""},
		"ack policy":        {func(c *jetstream.ConsumerConfig) { c.AckPolicy = jetstream.AckAllPolicy }, "ack policy is AckAll, needed is AckExplicit"},
		"no acks": {func(c *jetstream.ConsumerConfig) {
			c.AckPolicy, c.MaxDeliver, c.MaxAckPending, c.AckWait = jetstream.AckNonePolicy, 0, 0, 0
		}, "ack policy is AckNone, needed is AckExplicit; ack wait is 0s, needed is at least 10s (the worker itself would make it 1m0s)"},
		"deliver policy":     {func(c *jetstream.ConsumerConfig) { c.DeliverPolicy = jetstream.DeliverNewPolicy }, "deliver policy is new, needed is all"},
		"filter":             {func(c *jetstream.ConsumerConfig) { c.FilterSubject = "requests.crm" }, "filter is [requests.crm], needed is requests.>"},
		"no filter":          {func(c *jetstream.ConsumerConfig) { c.FilterSubject = "" }, "filter is [], needed is requests.>"},
		"ack wait":           {func(c *jetstream.ConsumerConfig) { c.AckWait = 9 * time.Second }, "ack wait is 9s, needed is at least 10s (the worker itself would make it 1m0s)"},
		"max deliver":        {func(c *jetstream.ConsumerConfig) { c.MaxDeliver = 9 }, "max deliver is 9, needed is at least 10 (the worker itself would make it 20)"},
		"backoff":            {func(c *jetstream.ConsumerConfig) { c.BackOff = []time.Duration{20 * time.Second} }, "backoff is [20s], needed is none: it delays what is given back"},
		"inactive threshold": {func(c *jetstream.ConsumerConfig) { c.InactiveThreshold = time.Hour }, "inactive threshold is 1h0m0s, needed is none: the consumer would be deleted in an outage"},
		"headers only":       {func(c *jetstream.ConsumerConfig) { c.HeadersOnly = true }, "headers only is true, needed is false"},
		"paused":             {func(c *jetstream.ConsumerConfig) { until := time.Now().Add(time.Hour); c.PauseUntil = &until }, ""},
		"two at once": {func(c *jetstream.ConsumerConfig) { c.MaxDeliver, c.HeadersOnly = 1, true },
			"max deliver is 1, needed is at least 10 (the worker itself would make it 20); headers only is true, needed is false"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := &world{t: t, names: Names{Stream: "REQUESTS", Subject: "requests", Consumer: "worker"}}
			w.js = newStream(t, w.names)
			config := w.names.config()
			c.change(&config)
			made, err := w.js.CreateConsumer(t.Context(), w.names.Stream, config)
			if err != nil {
				t.Fatal(err)
			}
			_, err = w.names.Open(t.Context(), w.js)
			if c.want == "" {
				if err != nil {
					t.Errorf("got %v", err)
				}
				return
			}
			if !errors.Is(err, ErrDrift) || !strings.Contains(err.Error(), "consumer worker on stream REQUESTS: "+c.want+"; delete it") {
				t.Errorf("got %v\nwant %s", err, c.want)
			}
			if now := w.info().Config; now.AckWait != made.CachedInfo().Config.AckWait || now.MaxDeliver != made.CachedInfo().Config.MaxDeliver {
				t.Error("Open has changed the consumer")
			}
		})
	}
}

// TestOpenAtOnce: ten replicas that start together make one consumer.
func TestOpenAtOnce(t *testing.T) {
	t.Parallel()
	names := Names{Stream: "REQUESTS", Subject: "requests", Consumer: "worker", Create: true}
	js := newServer(t)
	var wait sync.WaitGroup
	for range 10 {
		wait.Go(func() {
			if _, err := names.Open(t.Context(), js); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	stream, err := js.Stream(t.Context(), names.Stream)
	if err != nil {
		t.Fatal(err)
	}
	if info := stream.CachedInfo(); info.State.Consumers != 1 || len(info.Config.Subjects) != 1 || info.Config.Subjects[0] != "requests.>" {
		t.Errorf("%d consumers, subjects %v", info.State.Consumers, info.Config.Subjects)
	}
}

// TestOpenWithoutStream: it is created only where that is asked for.
func TestOpenWithoutStream(t *testing.T) {
	t.Parallel()
	js := newServer(t)
	names := Names{Stream: "REQUESTS", Subject: "requests", Consumer: "worker"}
	_, err := names.Open(t.Context(), js)
	if want := "stream REQUESTS does not exist: create it with subjects requests.>, or start with CREATE_STREAMS=true"; !errors.Is(err, jetstream.ErrStreamNotFound) || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("got %v", err)
	}
	if _, err := js.Stream(t.Context(), names.Stream); !errors.Is(err, jetstream.ErrStreamNotFound) {
		t.Errorf("the stream: %v", err)
	}
	names.Create = true
	if _, err := names.Open(t.Context(), js); err != nil {
		t.Error(err)
	}
}
