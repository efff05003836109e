package consumer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"flexworker/internal/outbox"
	"flexworker/internal/testing/expect"
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
	// Asked of the stream: the connection may not know yet that it is none any more, and a question may be lost.
	expect.Eventually(t, func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err := w.js.Stream(ctx, w.names.Stream)
		return err
	})
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
		"replay policy":      {func(c *jetstream.ConsumerConfig) { c.ReplayPolicy = jetstream.ReplayOriginalPolicy }, "replay policy is original, needed is instant"},
		"max expires":        {func(c *jetstream.ConsumerConfig) { c.MaxRequestExpires = 999 * time.Millisecond }, "max expires is 999ms, needed is none, or at least 1s"},
		"limited pulls": {func(c *jetstream.ConsumerConfig) {
			c.MaxRequestBatch, c.MaxRequestMaxBytes, c.MaxRequestExpires, c.MaxWaiting = 1, 1, time.Second, 1
		}, ""},
		"paused": {func(c *jetstream.ConsumerConfig) { until := time.Now().Add(time.Hour); c.PauseUntil = &until }, ""},
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

// TestStreamLimitsItsConsumers: what every consumer of the stream inherits is named as the
// stream's, for a consumer that is made anew has it again; what only limits is obeyed.
func TestStreamLimitsItsConsumers(t *testing.T) {
	t.Parallel()
	names := Names{Stream: "REQUESTS", Subject: "requests", Consumer: "worker"}
	limited := func(t *testing.T, limits jetstream.StreamConsumerLimits) (*world, func(jetstream.StreamConsumerLimits)) {
		t.Helper()
		w := &world{t: t, names: names, js: newStream(t, names)}
		set := func(limits jetstream.StreamConsumerLimits) {
			t.Helper()
			stream, err := w.js.Stream(t.Context(), names.Stream)
			if err != nil {
				t.Fatal(err)
			}
			config := stream.CachedInfo().Config
			config.ConsumerLimits = limits
			if _, err := w.js.UpdateStream(t.Context(), config); err != nil {
				t.Fatal(err)
			}
		}
		set(limits)
		return w, set
	}
	const streams = "stream REQUESTS gives every consumer an inactive threshold (its consumer_limits.inactive_threshold is 1h0m0s), needed is none: " +
		"consumer worker would be deleted in an outage; set that limit of the stream to 0 and start the worker again"
	refused := func(t *testing.T, w *world, want, not string) {
		t.Helper()
		_, err := names.Open(t.Context(), w.js)
		if !errors.Is(err, ErrDrift) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), not) {
			t.Errorf("got %v\nwant %s\nnot %s", err, want, not)
		}
	}
	t.Run("inactive threshold", func(t *testing.T) {
		t.Parallel()
		w, set := limited(t, jetstream.StreamConsumerLimits{InactiveThreshold: time.Hour, MaxAckPending: 100})
		refused(t, w, streams, "delete it")
		if _, err := w.js.Consumer(t.Context(), names.Stream, names.Consumer); !errors.Is(err, jetstream.ErrConsumerNotFound) {
			t.Errorf("a consumer that the worker refuses was made all the same: %v", err)
		}
		set(jetstream.StreamConsumerLimits{MaxAckPending: 100})
		if _, err := names.Open(t.Context(), w.js); err != nil {
			t.Error(err)
		}
	})
	t.Run("inherited by a consumer that is there", func(t *testing.T) {
		t.Parallel()
		w, set := limited(t, jetstream.StreamConsumerLimits{InactiveThreshold: time.Hour})
		w.made(func(c *jetstream.ConsumerConfig) { c.MaxDeliver = 5 })
		refused(t, w, streams, "inactive threshold is")
		refused(t, w, "; and "+ErrDrift.Error()+": consumer worker on stream REQUESTS: max deliver is 5, needed is at least 10", "inactive threshold is")
		set(jetstream.StreamConsumerLimits{})
		refused(t, w, "inactive threshold is 1h0m0s, needed is none: the consumer would be deleted in an outage; delete it", "consumer_limits")
	})
	t.Run("acks pending", func(t *testing.T) {
		t.Parallel()
		w, _ := limited(t, jetstream.StreamConsumerLimits{MaxAckPending: 100})
		if _, err := names.Open(t.Context(), w.js); err != nil {
			t.Fatal(err)
		}
		if n := w.info().Config.MaxAckPending; n != 100 {
			t.Errorf("%d may be unacked, the stream allows 100", n)
		}
	})
	t.Run("push", func(t *testing.T) {
		t.Parallel()
		w, _ := limited(t, jetstream.StreamConsumerLimits{})
		config := names.config()
		config.DeliverSubject = "somewhere"
		if _, err := w.js.CreatePushConsumer(t.Context(), names.Stream, config); err != nil {
			t.Fatal(err)
		}
		refused(t, w, "consumer worker on stream REQUESTS is a push consumer, needed is one that is pulled from; delete it", "API error")
	})
}

// TestAdvice: a request stream that swallows what is asked again, or that keeps messages
// for longer than they are known, is named with what to do. The worker's own is not.
func TestAdvice(t *testing.T) {
	t.Parallel()
	const retention = 10 * 24 * time.Hour
	names := Names{Stream: "REQUESTS", Subject: "requests", Consumer: "worker", Create: true, MaxAge: retention / 2}
	const swallows = "stream REQUESTS drops a message whose Nats-Msg-Id it has seen within 2m0s"
	const forgets = "stream REQUESTS keeps messages %s (max_age), longer than requests are remembered (RETENTION, 240h0m0s)"
	for name, tt := range map[string]struct {
		change    func(*jetstream.StreamConfig)
		consumer  func(*jetstream.ConsumerConfig)
		retention time.Duration
		want      []string
	}{
		"made by the worker": {retention: retention},
		"five seconds":       {change: func(c *jetstream.StreamConfig) { c.Duplicates = 5 * time.Second }, retention: retention},
		"the server's own window": {change: func(c *jetstream.StreamConfig) { c.Duplicates = 0 }, retention: retention,
			want: []string{swallows + ": a question that is asked again in that time is not answered, nor is another one that has the same id; nats stream edit REQUESTS --dupe-window 100ms."}},
		"kept longer": {change: func(c *jetstream.StreamConfig) { c.MaxAge = retention + time.Hour }, retention: retention,
			want: []string{fmt.Sprintf(forgets, "for 241h0m0s")}},
		"kept for ever": {change: func(c *jetstream.StreamConfig) { c.MaxAge = 0 }, retention: retention, want: []string{fmt.Sprintf(forgets, "for ever")}},
		"both for ever": {change: func(c *jetstream.StreamConfig) { c.MaxAge = 0 }},
		"as long":       {change: func(c *jetstream.StreamConfig) { c.MaxAge = retention }, retention: retention},
		"slow consumer": {consumer: func(c *jetstream.ConsumerConfig) {
			c.MaxRequestMaxBytes, c.MaxWaiting = 1000, 1
			c.PriorityPolicy, c.PriorityGroups = jetstream.PriorityPolicyPinned, []string{"theirs"}
		}, want: []string{
			"consumer worker on stream REQUESTS: its max_bytes of 1000 is less than one message may have",
			"its priority policy is pinned_client: one replica gets all messages, and when that one ends nobody gets any for up to 2m0s",
			"its max_waiting of 1 is less than 16",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := &world{t: t, names: names, js: newServer(t)}
			if tt.change != nil {
				config := jetstream.StreamConfig{Name: names.Stream, Subjects: []string{"requests.>"}, Duplicates: duplicates, MaxAge: names.MaxAge}
				tt.change(&config)
				if _, err := w.js.CreateStream(t.Context(), config); err != nil {
					t.Fatal(err)
				}
			}
			if tt.consumer != nil {
				if err := names.createStream(t.Context(), w.js); err != nil {
					t.Fatal(err)
				}
				w.made(tt.consumer)
			}
			if _, err := names.Open(t.Context(), w.js); err != nil {
				t.Fatal(err)
			}
			c := Consumer{Stream: w.js, Names: names, Retention: tt.retention, Log: slog.New(slog.NewTextHandler(t.Output(), nil))}
			got := c.Advice(t.Context())
			if len(got) != len(tt.want) {
				t.Errorf("got %d pieces of advice, want %d: %q", len(got), len(tt.want), got)
			}
			for i, want := range tt.want[:min(len(got), len(tt.want))] {
				if !strings.Contains(got[i], want) {
					t.Errorf("got %s\nwant %s", got[i], want)
				}
			}
		})
	}
}

// TestAskedAgainUnderOneID: the stream that the worker makes passes on a question that is
// asked again with the same Nats-Msg-Id, soon after, and another one that has the id of
// the first: both are answered.
func TestAskedAgainUnderOneID(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.consumer(16)
	w.run(c)
	header := headers{"Nats-Msg-Id": {"crm-42"}}
	w.send(`{`+channelOK+`,`+routingOK+`}`, header)
	w.rows(1)
	for i, body := range []string{`{` + channelOK + `,` + routingOK + `}`, `{` + channelOK + `,` + routingOK + `,"interaction_context_sid":"HQ00000000000000000000000000000001"}`} {
		expect.Eventually(t, func() error { // the window is over after 100 ms
			m := nats.NewMsg("requests.crm")
			m.Data, m.Header = []byte(body), nats.Header(header)
			ack, err := w.js.PublishMsg(t.Context(), m)
			if err == nil && ack.Duplicate {
				err = errors.New("the stream has dropped it")
			}
			return err
		})
		expect.Eventually(t, func() error {
			return expect.Is("asked again, and conflicts", [2]int{w.count(`SELECT count(*) FROM outbox_repeats`), w.malformed()}, [2]int{1, i})
		})
	}
	w.rows(1)
}
