package consumer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"flexworker/internal/batch"
	"flexworker/internal/crash"
	"flexworker/internal/outbox"
	"flexworker/internal/outbox/request"
)

// An intake is what one attachment has in hand.
type intake struct {
	*Consumer
	ctx      context.Context // of the stores and acks: it outlives the stop
	stopping context.Context
	slots    chan struct{}
	next     chan jetstream.Msg // to a goroutine that has handled another
	closing  chan struct{}      // closed when no more is taken in hand
	away     chan struct{}      // closed when Postgres is away
	once     sync.Once
	locked   atomic.Int64 // messages in hand whose row or table somebody holds
	acks     *batch.Group[jetstream.Msg, error]

	pull     pull
	word     atomic.Pointer[string] // what the library met last; nil: nothing
	changed  chan struct{}          // closed when the consumer is to be looked up again
	change   error                  // why, once changed is closed
	changing sync.Once
}

func (c *Consumer) newIntake(ctx context.Context) *intake {
	in := &intake{Consumer: c, ctx: context.WithoutCancel(ctx), stopping: ctx,
		slots: make(chan struct{}, c.Prefetch), next: make(chan jetstream.Msg), closing: make(chan struct{}), away: make(chan struct{}), changed: make(chan struct{})}
	in.acks = batch.New(c.Prefetch, in.ack)
	return in
}

// take starts one message. It blocks while the most are in hand, and so keeps
// the client from pulling more. Once the intake is closing it blocks no longer:
// Postgres may be away, and what was prefetched must not wait for it.
func (in *intake) take(m jetstream.Msg) {
	select {
	case <-in.closing: // also when a slot is free: select itself would choose by chance
		in.giveBack(m, returnDelay)
		return
	default:
	}
	select {
	case <-in.closing:
		in.giveBack(m, returnDelay)
	case in.slots <- struct{}{}:
		select {
		case in.next <- m:
		default:
			go in.handleAll(m)
		}
	}
}

// handleAll handles m, and what comes after it until the intake closes. A goroutine
// that stays does not have to grow its stack for each message.
func (in *intake) handleAll(m jetstream.Msg) {
	for {
		in.handle(m)
		<-in.slots
		select {
		case m = <-in.next:
		case <-in.closing:
			return
		}
	}
}

// finish gives back what was only prefetched and waits for what is in hand: with
// Postgres away that is until it is back, or the worker stops.
func (in *intake) finish(consuming jetstream.ConsumeContext) {
	consuming.Drain() // it hands over what was prefetched
	close(in.closing)
	select {
	case <-consuming.Closed():
	case <-time.After(drainLimit):
		// Drain waits 10 s for a word of the server. Without a connection there is none,
		// and what could not be given back comes again after AckWait.
	}
	for range cap(in.slots) { // who has all of them knows that nobody else is or comes
		in.slots <- struct{}{}
	}
}

// handle stores one message and then acks it.
func (in *intake) handle(m jetstream.Msg) {
	message, err := in.Names.message(m)
	if err != nil {
		// Only a message that is not JetStream's has no metadata: not ours to ack.
		in.Log.Warn("a message without JetStream's metadata was ignored", "subject", m.Subject(), "error", err)
		return
	}
	crash.At("received")
	if bodyLeftOut(m) {
		// The consumer was set to headers_only meanwhile: this is not what the sender sent.
		in.giveBack(m, returnDelay)
		in.trouble(errHeadersOnly)
		return
	}
	if later, kept := in.keep(m, message); !kept {
		in.giveBack(m, later)
		return
	}
	// A crash here is healed by redelivery: the outbox knows the message.
	crash.At("added")
	own, err := in.acks.Do(in.ctx, m)
	if err = errors.Join(own, err); err != nil {
		in.Log.Debug("an ack was not confirmed; redelivery will be recognised", "sequence", message.Sequence, "error", err)
	}
}

var errHeadersOnly = errors.New("the consumer gives headers only")

// bodyLeftOut says whether the server left the message's body out, of which it then says
// the size.
func bodyLeftOut(m jetstream.Msg) bool {
	size := m.Headers().Get("Nats-Msg-Size")
	return len(m.Data()) == 0 && size != "" && size != "0"
}

// ack acks what is stored and waits for the confirmation of the last: the server
// takes the acks of one connection in their order, so that it is that of all. One
// that cannot be acked costs the others nothing; the answers say which.
func (in *intake) ack(ctx context.Context, stored []jetstream.Msg) ([]error, error) {
	ctx, cancel := context.WithTimeout(ctx, ackLimit)
	defer cancel()
	last := len(stored) - 1
	failed := make([]error, len(stored))
	for i, m := range stored[:last] {
		failed[i] = unlessAcked(m.Ack())
	}
	err := unlessAcked(stored[last].DoubleAck(ctx))
	if err == nil {
		in.acked.Store(time.Now().UnixNano())
	}
	return failed, err
}

// unlessAcked is err, or nil where the message was acked before.
func unlessAcked(err error) error {
	if errors.Is(err, jetstream.ErrMsgAlreadyAckd) {
		return nil
	}
	return err
}

// keep stores a message, again and again while Postgres does not take it. The
// stream is told that the message is in work, which costs no delivery, and
// nothing more is pulled until Postgres takes it: so an outage costs a message one
// delivery, however long it is and whatever else of Postgres still answers. A message
// whose row or table is locked does not stop the others. Where more than half of what is in hand waits so, or the
// intake closes, the message is given back, and comes again after later.
func (in *intake) keep(m jetstream.Msg, message request.Message) (later time.Duration, kept bool) {
	waits := false
	for {
		err := in.store(in.ctx, message)
		switch {
		case err == nil:
			return 0, true
		case errors.Is(err, outbox.ErrRemoved):
			in.Log.Debug("a message is decided anew", "sequence", message.Sequence, "error", err)
		case errors.Is(err, outbox.ErrLocked), errors.Is(err, outbox.ErrTableLocked):
			if !waits {
				waits = true
				in.locked.Add(1)
				defer in.locked.Add(-1)
				if say, leftOut := in.waiting.Next(); say {
					in.Log.Info("a message waits for somebody who holds its row or table locked", "sequence", message.Sequence, "error", err, "left_out", leftOut)
				}
			}
			if int(in.locked.Load()) > cap(in.slots)/2 || in.closes() {
				return comesAgain(m), false
			}
		default:
			in.once.Do(func() {
				in.Log.Warn("a message cannot be stored; nothing more is taken until it can", "sequence", message.Sequence, "error", err)
				close(in.away)
			})
		}
		rest(in.stopping, storeEvery)
		if in.stopping.Err() != nil {
			return 0, false
		}
		if err := m.InProgress(); err != nil {
			in.Log.Debug("the stream could not be told; it may deliver the message again, which is recognised", "error", err)
		}
	}
}

// closes says whether no more is taken in hand.
func (in *intake) closes() bool {
	select {
	case <-in.closing:
		return true
	default:
		return false
	}
}

// comesAgain is the delay after which a message comes again whose row or table somebody holds: the longer, the more
// often it came, so that its deliveries last for more than two hours and a half. What a longer lock keeps waiting is stored
// by the watch for lost messages.
func comesAgain(m jetstream.Msg) time.Duration {
	delay := lockedDelay
	if meta, err := m.Metadata(); err == nil {
		for n := uint64(1); n < meta.NumDelivered && delay < lockedMost; n++ {
			delay *= 2
		}
	}
	return min(delay, lockedMost)
}

// store makes a row of the message. What Postgres refuses for its data, though
// it passed our checks, is kept as malformed with its bytes.
func (c *Consumer) store(ctx context.Context, message request.Message) error {
	if marker(message) {
		c.Counters.Markers.Add(1)
		return nil
	}
	event, bad := decode(message, c.Attribute)
	if bad != "" {
		bad += "; no request_id was used up: correct it and send it again"
	} else {
		added, err := c.Store.Add(ctx, event)
		switch {
		case err == nil:
			c.Counters.Added[added].Add(1)
			c.note(ctx, event, added)
			return nil
		case errors.Is(err, outbox.ErrOld):
			bad = fmt.Sprintf("the message is older than %v, after which requests are forgotten: whether it was answered is not known; publish it again if it is still wanted", c.Retention)
		case outbox.Away(err) || errors.Is(err, outbox.ErrRemoved) || errors.Is(err, outbox.ErrLocked) || errors.Is(err, outbox.ErrTableLocked): // all but the first are the message's own
			return err
		default:
			bad = "the database does not take it: " + err.Error()
		}
	}
	if err := c.Store.AddMalformed(ctx, request.Malformed{Message: event.Message, Err: bad}); err != nil {
		return err
	}
	c.Counters.Malformed.Add(1)
	if say, leftOut := c.malformed.Next(); say {
		c.Log.Warn("malformed message kept", "subject", message.Subject, "stream", message.Stream, "sequence", message.Sequence, "error", bad, "left_out", leftOut)
	}
	return nil
}

// note writes what became of an event: one line of each at debug, and a few of the
// rejected at info, since a service that is wrong is wrong thousands of times.
func (c *Consumer) note(ctx context.Context, e request.Event, added outbox.Added) {
	level := slog.LevelDebug
	var more []slog.Attr
	if added == outbox.Rejected {
		if say, leftOut := c.rejected.Next(); say {
			level = slog.LevelInfo
			more = append(more, slog.Int("left_out", leftOut))
		}
		if len(e.Faults) > 0 {
			more = append(more, slog.String("fault", e.Faults[0].String()), slog.Int("faults", len(e.Faults)))
		}
	}
	if !c.Log.Enabled(ctx, level) {
		return
	}
	attrs := append([]slog.Attr{slog.String("request_id", e.RequestID), slog.String("source", e.Source), slog.String("became", added.String()),
		slog.String("stream", e.Stream), slog.Uint64("sequence", e.Sequence)}, more...)
	if id := request.TraceID(e.Traceparent); id != "" {
		attrs = append(attrs, slog.String("trace_id", id))
	}
	c.Log.LogAttrs(ctx, level, "received", attrs...)
}

// marker says whether a message is the server's own note that it has deleted others
// (subject_delete_marker_ttl): nobody asked for anything, and nobody waits for an answer.
func marker(m request.Message) bool {
	return len(m.Raw) == 0 && header(m, jetstream.MarkerReasonHeader) != ""
}

// giveBack lets the message come again after a delay. If that is lost it comes again
// after AckWait.
func (in *intake) giveBack(m jetstream.Msg, delay time.Duration) {
	in.Counters.GivenBack.Add(1)
	if in.stopping.Err() != nil || in.yields() {
		delay = 0 // another replica may have it now
	}
	if err := unlessAcked(m.NakWithDelay(delay)); err != nil {
		in.Log.Debug("a message could not be given back; it comes again after AckWait", "error", err)
	}
}
