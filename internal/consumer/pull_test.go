package consumer

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"flexworker/internal/database"
	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/faultproxy"
	"flexworker/internal/testing/natstest"
)

// kept is a log that a test reads while it is written.
type kept struct {
	t   *testing.T
	mu  sync.Mutex
	all bytes.Buffer
}

func (k *kept) Write(line []byte) (int, error) {
	k.t.Logf("%s", line)
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.all.Write(line)
}

func (k *kept) count(part string) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return strings.Count(k.all.String(), part)
}

// keepLog makes a replica's log readable.
func (w *world) keepLog(c *Consumer) *kept {
	log := &kept{t: w.t}
	c.Log = slog.New(slog.NewTextHandler(log, nil))
	return log
}

// made makes the consumer as somebody else has, before a replica does.
func (w *world) made(change func(*jetstream.ConsumerConfig)) {
	w.t.Helper()
	config := w.names.config()
	change(&config)
	if _, err := w.js.CreateConsumer(w.t.Context(), w.names.Stream, config); err != nil {
		w.t.Fatal(err)
	}
}

// edited changes the consumer while a replica uses it.
func (w *world) edited(change func(*jetstream.ConsumerConfig)) {
	w.t.Helper()
	config := w.info().Config
	change(&config)
	// A busy server may answer later than the client waits; the same change a second time changes nothing.
	expect.Eventually(w.t, func() error {
		_, err := w.js.UpdateConsumer(w.t.Context(), w.names.Stream, config)
		return err
	})
}

// stalled waits until a replica says that nothing comes, for a reason with these words.
func (w *world) stalled(c *Consumer, words ...string) {
	w.t.Helper()
	expect.Eventually(w.t, func() error {
		why, stalled := c.Stalled()
		for _, word := range words {
			if !stalled || !strings.Contains(why, word) {
				return fmt.Errorf("stalled %v, %q: %q is missing", stalled, why, word)
			}
		}
		return nil
	})
}

// moves waits until a replica no longer says so.
func (w *world) moves(c *Consumer) {
	w.t.Helper()
	expect.Eventually(w.t, func() error {
		if why, stalled := c.Stalled(); stalled {
			return errors.New(why)
		}
		return nil
	})
}

// sendLarge publishes a good request with this many bytes of metadata.
func (w *world) sendLarge(id string, size int) {
	w.t.Helper()
	w.send(fmt.Sprintf(`{"request_id":%q,%s,%s,"metadata":%q}`, id, channelOK, routingOK, strings.Repeat("x", size)), nil)
}

// TestLimitedPulls: a consumer or a server that limits what may be pulled at once limits
// that, and no more: all requests are stored, small and large ones.
func TestLimitedPulls(t *testing.T) {
	t.Parallel()
	group := func(p jetstream.PriorityPolicy) func(*jetstream.ConsumerConfig) {
		return func(c *jetstream.ConsumerConfig) { c.PriorityPolicy, c.PriorityGroups = p, []string{"theirs"} }
	}
	for name, tt := range map[string]struct {
		server server.JSLimitOpts
		change func(*jetstream.ConsumerConfig) // nil: the worker makes the consumer
		batch  int                             // of a pull
	}{
		"batch":                 {change: func(c *jetstream.ConsumerConfig) { c.MaxRequestBatch = 10 }, batch: 10},
		"batch of one":          {change: func(c *jetstream.ConsumerConfig) { c.MaxRequestBatch = 1 }, batch: 1},
		"bytes":                 {change: func(c *jetstream.ConsumerConfig) { c.MaxRequestMaxBytes = 4 << 20 }, batch: 64},
		"less than a message":   {change: func(c *jetstream.ConsumerConfig) { c.MaxRequestMaxBytes = 64 << 10 }, batch: 1},
		"one byte":              {change: func(c *jetstream.ConsumerConfig) { c.MaxRequestMaxBytes = 1 }, batch: 1},
		"expires":               {change: func(c *jetstream.ConsumerConfig) { c.MaxRequestExpires = 1500 * time.Millisecond }, batch: 64},
		"expires soon":          {change: func(c *jetstream.ConsumerConfig) { c.MaxRequestExpires = time.Second }, batch: 64},
		"overflow group":        {change: group(jetstream.PriorityPolicyOverflow), batch: 64},
		"pinned group":          {change: group(jetstream.PriorityPolicyPinned), batch: 64},
		"prioritized group":     {change: group(jetstream.PriorityPolicyPrioritized), batch: 64},
		"waiting":               {change: func(c *jetstream.ConsumerConfig) { c.MaxWaiting = 1 }, batch: 64},
		"in hand":               {change: func(c *jetstream.ConsumerConfig) { c.MaxAckPending = 1 }, batch: 64},
		"server":                {server: server.JSLimitOpts{MaxRequestBatch: 50}, batch: 50},
		"server, made by them":  {server: server.JSLimitOpts{MaxRequestBatch: 50}, change: func(*jetstream.ConsumerConfig) {}, batch: 50},
		"server's acks pending": {server: server.JSLimitOpts{MaxAckPending: 20}, batch: 64},
		"all at once": {server: server.JSLimitOpts{MaxRequestBatch: 50}, batch: 1, change: func(c *jetstream.ConsumerConfig) {
			c.MaxRequestBatch, c.MaxRequestMaxBytes, c.MaxRequestExpires = 10, 1000, time.Second
			group(jetstream.PriorityPolicyOverflow)(c)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := worldWith(t, migrated.NewPool(t, database.ForLoops), natstest.Options{Limits: tt.server})
			if tt.change != nil {
				w.made(tt.change)
			}
			w.sendMany("before", 70)
			c := w.consumer(64)
			w.run(c)
			w.sendMany("then", 60)
			w.sendLarge("large", 500<<10)
			w.rows(131)
			w.acked()
			w.moves(c)
			if in := c.attached.Load(); in == nil || in.pull.batch != tt.batch {
				t.Errorf("not attached, or not with pulls of %d: %+v", tt.batch, in)
			}
			if n := c.Counters.Attached.Load(); n != 1 {
				t.Errorf("attached %d times", n)
			}
		})
	}
}

// TestTwoReplicasAtLimitedConsumer: one of two that share a consumer of few places does
// not say that nothing comes, for the other gets it; nor do two behind a pin.
func TestTwoReplicasAtLimitedConsumer(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*jetstream.ConsumerConfig){
		"waiting": func(c *jetstream.ConsumerConfig) { c.MaxWaiting = 1 },
		"pinned": func(c *jetstream.ConsumerConfig) {
			c.PriorityPolicy, c.PriorityGroups = jetstream.PriorityPolicyPinned, []string{"theirs"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.made(change)
			one, other := w.consumer(16), w.consumer(16)
			w.run(one)
			w.run(other)
			for i := range 5 {
				w.sendMany(fmt.Sprint("a", i), 50)
				w.rows(50 * (i + 1))
			}
			w.acked()
			w.moves(one)
			w.moves(other)
		})
	}
}

// TestConsumerEditedWhileItRuns: limits that come later are kept as those at the start,
// and a consumer that becomes one which the worker would not start with is named.
func TestConsumerEditedWhileItRuns(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		change func(*jetstream.ConsumerConfig)
		named  string // "": it goes on
		back   func(*jetstream.ConsumerConfig)
	}{
		"batch":   {change: func(c *jetstream.ConsumerConfig) { c.MaxRequestBatch = 3 }},
		"bytes":   {change: func(c *jetstream.ConsumerConfig) { c.MaxRequestMaxBytes = 100 }},
		"expires": {change: func(c *jetstream.ConsumerConfig) { c.MaxRequestExpires = time.Second }},
		"group": {change: func(c *jetstream.ConsumerConfig) {
			c.PriorityPolicy, c.PriorityGroups = jetstream.PriorityPolicyOverflow, []string{"theirs"}
		}},
		"expires at once": {change: func(c *jetstream.ConsumerConfig) { c.MaxRequestExpires = 100 * time.Millisecond },
			named: "max expires is 100ms, needed is none, or at least 1s",
			back:  func(c *jetstream.ConsumerConfig) { c.MaxRequestExpires = 0 }},
		"filter": {change: func(c *jetstream.ConsumerConfig) { c.FilterSubject = "requests.other" },
			named: "filter is [requests.other], needed is requests.>",
			back:  func(c *jetstream.ConsumerConfig) { c.FilterSubject = "requests.>" }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			c := w.consumer(16)
			log := w.keepLog(c)
			w.run(c)
			w.sendMany("a", 20)
			w.rows(20)
			w.edited(tt.change)
			if tt.named != "" {
				w.stalled(c, tt.named)
				w.edited(tt.back)
			}
			w.sendMany("b", 20)
			w.sendLarge("large", 500<<10)
			w.rows(41)
			w.acked()
			w.moves(c)
			if begins := log.count(`msg="no messages come" `) - log.count(late); tt.named != "" && begins != 1 {
				t.Errorf("it was said %d times that no messages come", begins)
			}
			if refused := log.count("trouble while consuming"); refused > 1 {
				t.Errorf("%d refusals of a pull were logged", refused)
			}
		})
	}
}

// wrong is a line to NATS on which every pull asks for signs of life at a longer interval than it lasts, until it is put
// right: the server answers each with 400, as to a client that it does not understand.
type wrong struct{ right atomic.Bool }

// address is where the line begins.
func (l *wrong) address(t *testing.T, nats string) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var lines sync.WaitGroup
	t.Cleanup(func() { _ = listener.Close(); lines.Wait() })
	lines.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return // the test is over
			}
			server, err := net.Dial("tcp", nats)
			if err != nil {
				_ = client.Close()
				continue
			}
			lines.Go(func() { _, _ = io.Copy(client, server); _ = client.Close() })
			lines.Go(func() {
				defer server.Close()
				for from := bufio.NewReader(client); ; {
					line, err := from.ReadBytes('\n') // a pull is one, with its end
					if !l.right.Load() {
						line = bytes.Replace(line, []byte(`"idle_heartbeat":1`), []byte(`"idle_heartbeat":9`), 1)
					}
					if _, failed := server.Write(line); failed != nil || err != nil {
						return
					}
				}
			})
		}
	})
	return listener.Addr().String()
}

// TestBadRequest: the server answers every pull with 400, and the client ends. The worker looks the consumer up again and
// again; its log says so once, and it says that nothing comes all the while.
func TestBadRequest(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	line := &wrong{}
	conn, err := nats.Connect("nats://" + line.address(t, w.nats.Addr()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	c := w.consumer(16)
	if c.Stream, err = jetstream.New(conn); err != nil {
		t.Fatal(err)
	}
	log := w.keepLog(c)
	w.run(c)
	w.sendMany("a", 5)
	w.stalled(c, "the server ended the consuming from stream REQUESTS by consumer worker", "bad request")
	from := c.Counters.Attached.Load()
	expect.Eventually(t, func() error {
		if why, stalled := c.Stalled(); !stalled || !strings.Contains(why, "bad request") && log.count(late) == 0 {
			t.Errorf("it says %q, %v", why, stalled)
		}
		if n := c.Counters.Attached.Load() - from; n < 5 {
			return fmt.Errorf("it was looked up %d times more", n)
		}
		return nil
	})
	slow := log.count(late)
	for part, most := range map[string]int{`msg="no messages come" `: 1 + slow, "trouble while consuming": 1, "msg=consuming ": 1, "level=": 3 + 2*slow} {
		if n := log.count(part); n > most {
			t.Errorf("%q stands in the log %d times", part, n)
		}
	}
	line.right.Store(true)
	w.rows(5)
	w.acked()
	w.moves(c)
	expect.Eventually(t, func() error {
		return expect.Is("ends in the log", log.count(`msg="works again" trouble="no messages come"`), log.count(`msg="no messages come" `))
	})
}

// TestPausedConsumer: a pause is named, at the start and later, and what waited comes
// when it is over, by a resume or by itself.
func TestPausedConsumer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	w.made(func(c *jetstream.ConsumerConfig) { until := time.Now().Add(time.Hour); c.PauseUntil = &until })
	c := w.consumer(16)
	log := w.keepLog(c)
	w.run(c)
	w.sendMany("a", 20)
	w.stalled(c, "consumer worker on stream REQUESTS is paused until 20", "nats consumer resume REQUESTS worker")
	stream, err := w.js.Stream(ctx, w.names.Stream)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.ResumeConsumer(ctx, w.names.Consumer); err != nil {
		t.Fatal(err)
	}
	w.rows(20)
	w.acked()
	w.moves(c)
	expect.Eventually(t, func() error {
		return expect.Is("ends in the log", log.count(`msg="works again" trouble="no messages come"`), 1)
	})
	pause := func(d time.Duration) (named string) {
		t.Helper()
		until := time.Now().Add(d)
		if _, err := stream.PauseConsumer(ctx, w.names.Consumer, until); err != nil {
			t.Fatal(err)
		}
		return "is paused until " + until.UTC().Format(time.RFC3339)
	}
	pause(2 * time.Hour)
	w.sendMany("b", 20)
	w.stalled(c, "is paused")
	ends := pause(time.Second) // by itself; it was seen before, since a look may come later than that
	w.rows(40)
	w.acked()
	w.moves(c)
	expect.Eventually(t, func() error {
		return expect.Is("ends in the log", log.count(`msg="works again" trouble="no messages come"`), 2)
	})
	if n, last := log.count(`msg="no messages come" `), log.count(ends); n-last != 2 || last > 1 {
		t.Errorf("two pauses were named %d times, the last second of the second %d times", n-last, last)
	}
}

// TestAcksPendingUsedUp: who holds all that may be unacked stops everybody; that is named,
// and ends with the first ack.
func TestAcksPendingUsedUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.made(func(c *jetstream.ConsumerConfig) { c.MaxAckPending = 1 })
	w.sendMany("a", 10)
	theirs, err := w.js.Consumer(t.Context(), w.names.Stream, w.names.Consumer)
	if err != nil {
		t.Fatal(err)
	}
	held, err := theirs.Next()
	if err != nil {
		t.Fatal(err)
	}
	c := w.consumer(16)
	w.run(c)
	w.stalled(c, "messages wait for consumer worker on stream REQUESTS and none is delivered", "max_ack_pending of 1 is used up")
	if err := held.Nak(); err != nil {
		t.Fatal(err)
	}
	w.rows(10)
	w.acked()
	w.moves(c)
}

// TestPending: what was not delivered and what was not acked waits, and nothing else; without the consumer nobody knows.
func TestPending(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.consumer(16)
	if n, err := c.Pending(t.Context()); err == nil || !strings.Contains(err.Error(), "consumer worker on stream REQUESTS") {
		t.Errorf("%d pending before there is a consumer: %v", n, err)
	}
	w.made(func(*jetstream.ConsumerConfig) {})
	w.sendMany("a", 10)
	theirs, err := w.js.Consumer(t.Context(), w.names.Stream, w.names.Consumer)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := theirs.Next(); err != nil {
		t.Fatal(err)
	}
	acked, err := theirs.Next()
	if err != nil {
		t.Fatal(err)
	}
	if err := acked.DoubleAck(t.Context()); err != nil {
		t.Fatal(err)
	}
	expect.Eventually(t, func() error { // a busy server may answer later than a look waits
		n, err := c.Pending(t.Context())
		if err == nil && n != 9 {
			t.Fatalf("%d pending, want 9", n)
		}
		return err
	})
}

// TestStreamDeletedWhileItRuns: the missing stream is named, once, with what to do.
func TestStreamDeletedWhileItRuns(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.names.Create = false
	c := w.consumer(16)
	log := w.keepLog(c)
	w.run(c)
	w.sendMany("a", 10)
	w.rows(10)
	w.acked()
	if err := w.js.DeleteStream(t.Context(), w.names.Stream); err != nil {
		t.Fatal(err)
	}
	w.stalled(c, "stream REQUESTS does not exist: create it with subjects requests.>")
	if err := w.names.createStream(t.Context(), w.js); err != nil {
		t.Fatal(err)
	}
	w.sendMany("b", 10)
	w.rows(20)
	w.moves(c)
	if n := log.count("does not exist: create it"); n != 1 {
		t.Errorf("it was said %d times that the stream is missing", n)
	}
}

// TestConsumerDeletedWhileAway: a consumer that is gone when the connection comes back is
// made anew: nobody says to a pull that there is nobody.
func TestConsumerDeletedWhileAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	line := faultproxy.New(t, w.nats.Addr())
	conn, err := nats.Connect("nats://"+line.Addr(), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	c := w.consumer(16)
	if c.Stream, err = jetstream.New(conn); err != nil {
		t.Fatal(err)
	}
	w.run(c)
	w.sendMany("a", 10)
	w.rows(10)
	w.acked()
	line.Refuse()
	if err := w.js.DeleteConsumer(t.Context(), w.names.Stream, w.names.Consumer); err != nil {
		t.Fatal(err)
	}
	line.Heal()
	w.sendMany("b", 10)
	w.rows(20)
	w.acked()
	w.moves(c)
}

// TestHeadersOnlyWhileItRuns: what comes without its body, before the worker has noticed that the
// consumer was changed, is no malformed message. It is stored once the consumer gives bodies again.
func TestHeadersOnlyWhileItRuns(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.consumer(16)
	w.run(c)
	w.sendMany("a", 5)
	w.rows(5)
	w.edited(func(c *jetstream.ConsumerConfig) { c.HeadersOnly = true })
	w.sendMany("b", 5)
	w.stalled(c, "headers only is true, needed is false")
	w.edited(func(c *jetstream.ConsumerConfig) { c.HeadersOnly = false })
	w.rows(10)
	w.acked()
	if n := c.Counters.Malformed.Load(); n > 0 {
		t.Errorf("%d messages were answered as malformed", n)
	}
}
