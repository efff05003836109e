// Package consumer turns messages of the request stream into stored requests.
//
// A message is decoded (event.go, a CloudEvent's envelope in envelope.go, its request id in
// id.go), checked (check.go, one member at a time in member.go, names that are nearly right in
// near.go), stored by the outbox and then acked (intake.go), with a confirmation: an ack that is
// lost costs a redelivery, which the outbox recognises. names.go has the names and the settings
// of stream and consumer.
//
// What a sender publishes is stored, as a request or as malformed. So nothing needs to be
// refused to the stream, and one bad event never holds up a good one. Three things are not
// stored: a delete marker of the server is acked and no more, a message whose body the
// consumer leaves out (headers_only) is given back, and one without JetStream's metadata,
// which is not of a stream, is ignored.
//
// Of flex it knows two pure functions, what a sid looks like and which lookup key
// a request has: a second copy of either could come to differ. It makes no call.
//
// What the library and the server do that one would not expect:
//   - Consume ends without a word when the consumer is deleted, a request is bad
//     or the connection is closed for good. Run looks the consumer up again and
//     goes on; without a connection that is in vain, and cmd/worker ends.
//   - A pull that asks for more than the consumer allows is refused, and the client
//     makes the same again, for ever. Pulls stay within the consumer's limits
//     (pull.go), and a standstill for whatever reason is noticed and named (watch.go).
//   - A message without data but with a Status header is taken by the client for
//     a word of the server: it ends Consume and never reaches a handler. After
//     MaxDeliver it is no longer delivered; the server says so in an advisory,
//     and Run stores what that names, as any other message (advisory.go): without
//     data it is malformed.
//   - Messages that are given back count deliveries. So when Postgres is away, or
//     takes no rows, Run stops pulling and keeps what it was storing; only what
//     was prefetched is given back, once.
package consumer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"flexworker/internal/outbox"
	"flexworker/internal/outbox/request"
	"flexworker/internal/trouble"
)

const (
	// ackLimit bounds the wait for the confirmation of acks, and drainLimit that for
	// the client to hand over what it has prefetched.
	ackLimit   = 5 * time.Second
	drainLimit = 5 * time.Second
	// returnDelay is the delay after which a message comes again that was prefetched
	// as Postgres went away, and storeEvery the time between two tries to store one
	// that was in hand.
	returnDelay = 2 * time.Second
	storeEvery  = 2 * time.Second
	// lockedDelay is the delay after which a message comes again whose row or table somebody holds
	// locked, where too many of such are in hand. Each time costs it a delivery, and doubles
	// the delay, up to lockedMost.
	lockedDelay = 30 * time.Second
	lockedMost  = 10 * time.Minute
	// lostLimit bounds the reading of a message that is no longer delivered, and
	// lostEvery is the time between two tries to store it.
	lostLimit = 5 * time.Second
	lostEvery = 5 * time.Second
	// retryEvery is the time between two tries to attach to the stream, or to
	// reach Postgres.
	retryEvery = time.Second
	// yieldEvery is the time between two questions whether to leave the messages to others.
	yieldEvery = 500 * time.Millisecond
)

// Store is what the consumer needs of the outbox.
type Store interface {
	Add(context.Context, request.Event) (outbox.Added, error)
	AddMalformed(context.Context, request.Malformed) error
	Ready(context.Context) error
}

// Consumer reads the request stream into the outbox. Set the exported fields
// before Run.
type Consumer struct {
	Stream    jetstream.JetStream
	Names     Names
	Store     Store
	Attribute string // LOOKUP_ATTRIBUTE; "": no lookup key
	// Prefetch is how many messages are in hand, at most: being stored or acked.
	// The client holds up to as many again, and that many more for each reconnect
	// while all are in hand: it asks anew then, whatever it holds.
	Prefetch int
	// Retention is how long requests are remembered, as the answer to an older message
	// says: the outbox does not carry it out, since a replay of the stream would call
	// people again.
	Retention time.Duration
	// Yields is asked twice a second; true: this process leaves the messages to others
	// that read the same consumer. nil: never.
	Yields   func() bool
	Log      *slog.Logger
	Counters *Counters

	attached                     atomic.Pointer[intake] // nil: not consuming
	lookNow                      chan struct{}          // a pull was refused
	acked                        atomic.Int64           // when the server last confirmed acks, in Unix nanoseconds; 0: never
	rejected, malformed, waiting trouble.Sample         // of the log
	unstored                     trouble.Sample         // of the log, too: lost messages
	told                         atomic.Pointer[string] // what the library met last; nil: nothing since messages came
	unopened                     ongoing                // the consumer cannot be opened, or the server ended the consuming
	standing                     ongoing                // consuming, and nothing comes
	database                     trouble.Trouble        // nothing is taken, since it could not be stored
}

// Counters count messages since the process started, by what became of them.
type Counters struct {
	Added     [5]atomic.Int64 // by outbox.Added
	Malformed atomic.Int64
	Markers   atomic.Int64 // delete markers of the server: acked, and nothing else
	GivenBack atomic.Int64
	Attached  atomic.Int64
}

// LastAcked is when the server has last confirmed acks of this process; zero: never.
func (c *Consumer) LastAcked() time.Time {
	ns := c.acked.Load()
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, ns)
}

// Run consumes until ctx ends, and returns when what was in hand is stored and
// acked, or given back. It survives everything but ctx: the stream, the consumer
// and Postgres may go away and come back.
func (c *Consumer) Run(ctx context.Context) {
	c.lookNow = make(chan struct{}, 1)
	var watching sync.WaitGroup
	defer watching.Wait()
	watching.Go(func() { c.watch(ctx) })
	var watched func() // waits for the end of the watch for lost messages; nil: there is none yet
	for ctx.Err() == nil {
		if watched == nil {
			var err error
			if watched, err = c.watchLost(ctx); err != nil {
				c.Log.Warn("not watching for what the stream gives up delivering; trying again with the next consuming", "error", err)
			}
		}
		if c.yields() {
			rest(ctx, yieldEvery)
			continue
		}
		err := c.Store.Ready(ctx)
		if ctx.Err() == nil {
			c.database.Tell(c.Log, "nothing is taken from the stream", err)
		}
		if err == nil {
			c.attach(ctx)
		}
		rest(ctx, retryEvery)
	}
	if watched != nil {
		watched()
	}
}

// attach consumes until ctx ends, the consumer goes away or is changed, or Postgres goes
// away.
func (c *Consumer) attach(ctx context.Context) {
	consumer, err := c.Names.Open(ctx, c.Stream)
	if err != nil {
		c.notOpened(ctx, err)
		return
	}
	in := c.newIntake(ctx)
	in.pull = pullOf(consumer.CachedInfo().Config, c.Prefetch, c.largest())
	consuming, err := consumer.Consume(in.take, append(in.pull.options(),
		jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) { in.trouble(err) }))...)
	if err != nil {
		c.notOpened(ctx, fmt.Errorf("consumer %s on stream %s: %w", c.Names.Consumer, c.Names.Stream, err))
		return
	}
	c.Counters.Attached.Add(1)
	level := slog.LevelInfo
	if c.unopened.now() != "" && c.told.Load() != nil { // the server ended the one before, and may end this one at once
		level = slog.LevelDebug
	}
	c.Log.Log(ctx, level, "consuming", "stream", c.Names.Stream, "consumer", c.Names.Consumer, "batch", in.pull.batch)
	if why := in.standstill(nil, consumer.CachedInfo()); why != "" {
		c.standing.set(c.Log, why)
	}
	c.attached.Store(in)
	in.until(ctx, consuming, consumer.CachedInfo())
	c.attached.Store(nil)
	in.finish(consuming)
}

// notOpened notes why nothing is consumed, unless the worker is told to stop.
func (c *Consumer) notOpened(ctx context.Context, err error) {
	if ctx.Err() == nil {
		c.unopened.set(c.Log, err.Error())
	}
}

// until returns when the consuming is to end, and notes why.
func (in *intake) until(ctx context.Context, consuming jetstream.ConsumeContext, opened *jetstream.ConsumerInfo) {
	ask := time.NewTicker(yieldEvery)
	defer ask.Stop()
	for {
		select {
		case <-ctx.Done():
		case <-in.away:
			in.Log.Warn("the database was away; what was only prefetched is given back to the stream")
		case <-in.changed:
			in.Log.Warn("looking the consumer up again", "stream", in.Names.Stream, "consumer", in.Names.Consumer, "why", in.change)
		case <-consuming.Closed():
			if in.unchanged(ctx, opened) {
				in.Log.Warn("the consuming ended though the consumer is there: a sender's message without data and with a Status header looks like the server's word",
					"stream", in.Names.Stream, "consumer", in.Names.Consumer, "word", in.lastWord())
				return
			}
			in.notOpened(ctx, fmt.Errorf("the server ended the consuming from stream %s by consumer %s (%s); looking it up again", in.Names.Stream, in.Names.Consumer, in.lastWord()))
		case <-ask.C:
			if !in.yields() {
				continue
			}
			in.standing.set(in.Log, "") // nothing is meant to come
			in.Log.Info("not consuming while this replica is stopped: the messages are left to the others")
		}
		return
	}
}

// unchanged says whether the consumer is still the one that was opened, and has delivered
// since: then a message may have ended the consuming. A pull that the server refuses
// delivers nothing.
func (in *intake) unchanged(ctx context.Context, opened *jetstream.ConsumerInfo) bool {
	now, err := in.look(ctx)
	return err == nil && now.Created.Equal(opened.Created) && now.Delivered.Consumer > opened.Delivered.Consumer &&
		in.Names.compare(now.Config) == nil && pullOf(now.Config, in.Prefetch, in.largest()) == in.pull
}

// yields says whether the messages are left to others.
func (c *Consumer) yields() bool { return c.Yields != nil && c.Yields() }

// trouble notes what the library met while consuming. It goes on by itself, or closes,
// and then attach ends. A pull that is refused is made again as it is: the watch looks
// whether the consumer was changed.
func (in *intake) trouble(err error) {
	if errors.Is(err, nats.ErrConnectionClosed) || errors.Is(err, jetstream.ErrNoHeartbeat) || errors.Is(err, jetstream.ErrPinIDMismatch) {
		in.Log.Debug("consuming", "error", err)
		return
	}
	word := err.Error()
	in.word.Store(&word)
	level := slog.LevelDebug // the library meets it again every two seconds, or ends, and is begun again
	if before := in.told.Swap(&word); before == nil || *before != word {
		level = slog.LevelWarn
	}
	in.Log.Log(in.ctx, level, "trouble while consuming", "stream", in.Names.Stream, "consumer", in.Names.Consumer, "error", err)
	select {
	case in.lookNow <- struct{}{}:
	default: // a look is due already
	}
}

// lastWord is what the library met last.
func (in *intake) lastWord() string {
	if word := in.word.Load(); word != nil {
		return *word
	}
	return "it did not say why"
}

// rest waits for d, give or take a quarter: replicas that began together must not ask
// together for ever.
func rest(ctx context.Context, d time.Duration) {
	t := time.NewTimer(jitter(d))
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// jitter is d, give or take a quarter.
func jitter(d time.Duration) time.Duration { return d*3/4 + rand.N(d/2) }
