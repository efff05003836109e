// Package consumer turns messages of the request stream into stored requests.
//
// A message is decoded (event.go), checked (check.go), stored by the outbox and
// then acked, with a confirmation: an ack that is lost costs a redelivery, which
// the outbox recognises. Whatever arrives is stored, as a request or as
// malformed, so nothing needs to be refused to the stream and one bad event
// never holds up a good one.
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
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"flexworker/internal/crash"
	"flexworker/internal/group"
	"flexworker/internal/outbox"
)

const (
	// ackLimit bounds the wait for the confirmation of acks.
	ackLimit = 5 * time.Second
	// giveBack is the delay after which a message that could not be stored
	// comes again.
	giveBack = 2 * time.Second
	// retryEvery is the time between two tries to attach to the stream, or to
	// reach Postgres.
	retryEvery = time.Second
)

// Store is what the consumer needs of the outbox.
type Store interface {
	Add(context.Context, outbox.Event) (outbox.Added, error)
	AddMalformed(context.Context, outbox.Malformed) error
	Ready(context.Context) error
	Knows(ctx context.Context, requestID string) (bool, error)
}

// Consumer reads the request stream into the outbox. Set the exported fields
// before Run.
type Consumer struct {
	Stream    jetstream.JetStream
	Names     Names
	Store     Store
	Attribute string // LOOKUP_ATTRIBUTE; "": no lookup key
	Prefetch  int    // messages in hand, at most
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
	unwatch := func() {}
	defer func() { unwatch() }()
	for watching := false; ctx.Err() == nil; {
		if !watching {
			if stop, err := c.watchLost(ctx); err == nil {
				watching, unwatch = true, stop
			}
		}
		if err := c.attach(ctx); err != nil && ctx.Err() == nil {
			c.Log.Warn("not consuming; trying again", "stream", c.Names.Stream, "consumer", c.Names.Consumer, "error", err)
		}
		rest(ctx, retryEvery)
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
		jetstream.PullMaxMessages(c.Prefetch),
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
		err = errors.New("the database is away; what was in hand is given back to the stream")
	case <-consuming.Closed():
		err = errors.New("the stream ended the consuming; looking the consumer up again")
	}
	// Drain hands over what was prefetched. While ctx has ended or Postgres is
	// away it is given back at once, instead of waiting for AckWait.
	in.closing.Store(true)
	consuming.Drain()
	select {
	case <-consuming.Closed():
	case <-time.After(ackLimit):
	}
	in.handling.Wait()
	return err
}

// An intake is what one attachment has in hand.
type intake struct {
	*Consumer
	ctx      context.Context // of the stores and acks: it outlives the stop
	stopping context.Context
	slots    chan struct{}
	handling sync.WaitGroup
	closing  atomic.Bool
	away     chan struct{} // closed when Postgres is away
	once     sync.Once
	acks     *group.Group[jetstream.Msg, struct{}]
}

func (c *Consumer) newIntake(ctx context.Context) *intake {
	in := &intake{Consumer: c, ctx: context.WithoutCancel(ctx), stopping: ctx, slots: make(chan struct{}, c.Prefetch), away: make(chan struct{})}
	in.acks = group.New(c.Prefetch, in.ack)
	return in
}

// take starts one message. It blocks while the most are in hand, and so keeps
// the client from pulling more.
func (in *intake) take(m jetstream.Msg) {
	in.slots <- struct{}{}
	in.handling.Go(func() {
		defer func() { <-in.slots }()
		in.handle(m)
	})
}

// handle stores one message and then acks it.
func (in *intake) handle(m jetstream.Msg) {
	if in.closing.Load() {
		in.giveBack(m)
		return
	}
	message, err := in.Names.message(m)
	if err != nil {
		// Only a message that is not JetStream's has no metadata: not ours to ack.
		in.Log.Warn("a message without JetStream's metadata was ignored", "subject", m.Subject(), "error", err)
		return
	}
	crash.At("received")
	if !in.keep(m, message) {
		in.giveBack(m)
		return
	}
	// A crash here is healed by redelivery: the outbox knows the message.
	crash.At("added")
	if _, err := in.acks.Do(in.ctx, m); err != nil {
		in.Log.Debug("an ack was not confirmed; redelivery will be recognised", "sequence", message.Sequence, "error", err)
	}
}

// ack acks what is stored and waits for the confirmation of the last: the server
// takes the acks of one connection in their order, so that it is that of all.
func (in *intake) ack(ctx context.Context, stored []jetstream.Msg) ([]struct{}, error) {
	ctx, cancel := context.WithTimeout(ctx, ackLimit)
	defer cancel()
	last := len(stored) - 1
	for _, m := range stored[:last] {
		if err := m.Ack(); err != nil && !errors.Is(err, jetstream.ErrMsgAlreadyAckd) {
			return nil, err
		}
	}
	if err := stored[last].DoubleAck(ctx); err != nil && !errors.Is(err, jetstream.ErrMsgAlreadyAckd) {
		return nil, err
	}
	return make([]struct{}, len(stored)), nil
}

// keep stores a message, again and again while Postgres does not take it. The
// stream is told that the message is in work, which costs no delivery, and
// nothing more is pulled until it is stored: so an outage costs a message one
// delivery, however long it is and whatever else of Postgres still answers. It
// returns false when the worker is to stop.
func (in *intake) keep(m jetstream.Msg, message outbox.Message) bool {
	for {
		err := in.store(message)
		if err == nil {
			return true
		}
		in.once.Do(func() {
			in.Log.Warn("a message cannot be stored; nothing more is taken until it can", "sequence", message.Sequence, "error", err)
			close(in.away)
		})
		rest(in.stopping, giveBack)
		if in.stopping.Err() != nil {
			return false
		}
		if err := m.InProgress(); err != nil {
			in.Log.Debug("the stream could not be told; it may deliver the message again, which is recognised", "error", err)
		}
	}
}

// store makes a row of the message. What Postgres refuses for its data, though
// it passed our checks, is kept as malformed with its bytes.
func (in *intake) store(message outbox.Message) error {
	event, bad := decode(message, in.Attribute)
	if bad == "" && in.Retention > 0 && time.Since(message.Time) > in.Retention {
		known, err := in.Store.Knows(in.ctx, event.RequestID)
		if err != nil {
			return err
		}
		if !known {
			bad = fmt.Sprintf("the message is older than %v, after which requests are forgotten: whether it was answered is not known; publish it again if it is still wanted", in.Retention)
		}
	}
	if bad == "" {
		added, err := in.Store.Add(in.ctx, event)
		if err == nil {
			in.Counters.Added[added].Add(1)
			return nil
		}
		if outbox.Away(err) {
			return err
		}
		bad = "the database does not take it: " + err.Error()
	}
	if err := in.Store.AddMalformed(in.ctx, outbox.Malformed{Message: message, Err: bad}); err != nil {
		return err
	}
	in.Counters.Malformed.Add(1)
	in.Log.Warn("malformed message kept", "subject", message.Subject, "sequence", message.Sequence, "error", bad)
	return nil
}

// giveBack lets the message come again soon. If that is lost it comes again
// after AckWait.
func (in *intake) giveBack(m jetstream.Msg) {
	in.Counters.GivenBack.Add(1)
	delay := giveBack
	if in.stopping.Err() != nil {
		delay = 0 // another replica may have it now
	}
	if err := m.NakWithDelay(delay); err != nil && !errors.Is(err, jetstream.ErrMsgAlreadyAckd) {
		in.Log.Debug("a message could not be given back; it comes again after AckWait", "error", err)
	}
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

// message reads what names a message and what it carries.
func (n Names) message(m jetstream.Msg) (outbox.Message, error) {
	meta, err := m.Metadata()
	if err != nil {
		return outbox.Message{}, err
	}
	out := outbox.Message{
		Stream: meta.Stream, Subject: m.Subject(), Sequence: meta.Sequence.Stream, Time: meta.Timestamp,
		Headers: m.Headers(), Raw: m.Data(), Source: strings.TrimPrefix(m.Subject(), n.Subject+"."),
	}
	out.Traceparent = header(out, "traceparent")
	return out, nil
}

func rest(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
