// Package consumer turns messages of the request stream into stored requests.
//
// A message is decoded (event.go), checked (check.go), stored by the outbox and
// then acked (intake.go), with a confirmation: an ack that is lost costs a
// redelivery, which the outbox recognises. Whatever arrives is stored, as a
// request or as malformed, so nothing needs to be refused to the stream and one
// bad event never holds up a good one.
//
// Of flex it knows two pure functions, what a sid looks like and which lookup key
// a request has: a second copy of either could come to differ. It makes no call.
//
// What the library and the server do that one would not expect:
//   - Consume ends without a word when the consumer is deleted, a request is bad
//     or the connection is closed for good. Run looks the consumer up again and
//     goes on; without a connection that is in vain, and cmd/worker ends.
//   - A message without data but with a Status header is taken by the client for
//     a word of the server: it ends Consume and never reaches a handler. After
//     MaxDeliver it is no longer delivered; the server says so in an advisory,
//     and Run stores what it names as malformed.
//   - Messages that are given back count deliveries. So when Postgres is away, or
//     takes no rows, Run stops pulling and keeps what it was storing; only what
//     was prefetched is given back, once.
package consumer

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"flexworker/internal/outbox"
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
	// lostLimit bounds the reading of a message that is no longer delivered, and
	// lostEvery is the time between two tries to store it.
	lostLimit = 5 * time.Second
	lostEvery = 5 * time.Second
	// pullBytes is what the server sends at once, in bytes: one that has 64 MB (its
	// max_pending) waiting for a connection takes it for a slow consumer, and closes it.
	// It must not be less than one message may have, with its subject and reply.
	pullBytes = 16 << 20
	// oldMargin is how much sooner than Retention a message counts as older: its age is
	// by this machine's clock and the stream's, what is removed by that of Postgres.
	oldMargin = time.Minute
	// retryEvery is the time between two tries to attach to the stream, or to
	// reach Postgres.
	retryEvery = time.Second
)

// Store is what the consumer needs of the outbox.
type Store interface {
	Add(context.Context, outbox.Event) (outbox.Added, error)
	AddMalformed(context.Context, outbox.Malformed) error
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
	// Retention is how long requests are remembered; 0: for ever. A message that
	// is older, and not known, is not carried out: a replay of the stream would
	// call people again.
	Retention time.Duration
	Log       *slog.Logger
	Counters  *Counters
}

// Counters count messages since the process started, by what became of them.
type Counters struct {
	Added     [5]atomic.Int64 // by outbox.Added
	Malformed atomic.Int64
	GivenBack atomic.Int64
	Attached  atomic.Int64
}

// Run consumes until ctx ends, and returns when what was in hand is stored and
// acked, or given back. It survives everything but ctx: the stream, the consumer
// and Postgres may go away and come back.
func (c *Consumer) Run(ctx context.Context) {
	var watched func() // waits for the end of the watch; nil: there is none yet
	for ctx.Err() == nil {
		if watched == nil {
			var err error
			if watched, err = c.watchLost(ctx); err != nil {
				c.Log.Warn("not watching for what the stream gives up delivering; trying again with the next consuming", "error", err)
			}
		}
		if err := c.attach(ctx); err != nil && ctx.Err() == nil {
			c.Log.Warn("not consuming; trying again", "stream", c.Names.Stream, "consumer", c.Names.Consumer, "error", err)
		}
		rest(ctx, retryEvery)
	}
	if watched != nil {
		watched()
	}
}

// attach consumes until ctx ends, the consumer goes away or Postgres does.
func (c *Consumer) attach(ctx context.Context) error {
	if err := c.Store.Ready(ctx); err != nil {
		return err
	}
	consumer, err := c.Names.Open(ctx, c.Stream)
	if err != nil {
		return err
	}
	in := c.newIntake(ctx)
	consuming, err := consumer.Consume(in.take,
		jetstream.PullMaxMessagesWithBytesLimit(c.Prefetch, max(pullBytes, 2*int(c.Stream.Conn().MaxPayload()))),
		jetstream.PullExpiry(5*time.Second), jetstream.PullHeartbeat(time.Second),
		jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) { in.trouble(err) }))
	if err != nil {
		return err
	}
	c.Counters.Attached.Add(1)
	c.Log.Info("consuming", "stream", c.Names.Stream, "consumer", c.Names.Consumer)
	select {
	case <-ctx.Done():
	case <-in.away:
		err = errors.New("the database was away; what was only prefetched is given back to the stream")
	case <-consuming.Closed():
		err = errors.New("the stream ended the consuming; looking the consumer up again")
	}
	in.finish(consuming)
	return err
}

// trouble reports what the library met while consuming. It goes on by itself,
// or closes, and then attach ends.
func (in *intake) trouble(err error) {
	if errors.Is(err, nats.ErrConnectionClosed) || errors.Is(err, jetstream.ErrNoHeartbeat) {
		in.Log.Debug("consuming", "error", err)
		return
	}
	in.Log.Warn("trouble while consuming", "error", err)
}

func rest(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
