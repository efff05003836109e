package consumer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"flexworker/internal/trouble"
)

const (
	// lookEvery is the time between two looks at the consumer on the server. That
	// messages waited at two of them in a row, and none was delivered to anybody between
	// these two, is a standstill.
	lookEvery = 2 * time.Second
	lookLimit = 2 * time.Second
)

// Stalled says whether messages do not come although the database would take them, and
// why not: the stream or the consumer is missing, is not what the worker needs, or is
// paused, or messages wait and the server delivers none. Without a connection to NATS
// nothing new is known: what was known before stays.
func (c *Consumer) Stalled() (why string, stalled bool) {
	if why = c.unopened.now(); why == "" {
		why = c.standing.now()
	}
	return why, why != ""
}

// watch looks at the consumer now and then until ctx ends, and at once after the server
// refused a pull. A consumer that was changed is opened anew, with pulls that it allows.
func (c *Consumer) watch(ctx context.Context) {
	var at *intake
	var before *jetstream.ConsumerInfo // at the look before, of the same attachment
	unanswered := 0                    // looks in a row
	for ctx.Err() == nil {
		refused := false
		select {
		case <-ctx.Done():
			return
		case <-c.lookNow:
			refused = true
		case <-time.After(jitter(lookEvery)):
		}
		in := c.attached.Load()
		if in != at {
			at, before, unanswered = in, nil, 0
			if !refused {
				continue // it may have begun just now
			}
		}
		if in == nil || !c.Stream.Conn().IsConnected() {
			before = nil
			continue
		}
		if !refused {
			c.unopened.set(c.Log, "") // it has consumed for some time
		}
		now, err := in.look(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, jetstream.ErrConsumerNotFound), errors.Is(err, jetstream.ErrStreamNotFound):
			in.reopen(err) // Open says which is missing, or makes it anew
		case err != nil:
			if before, unanswered = nil, unanswered+1; unanswered > 1 {
				c.standing.set(c.Log, fmt.Sprintf("the server does not answer when it is asked for consumer %s on stream %s: %v", c.Names.Consumer, c.Names.Stream, err))
			}
		case c.Names.compare(now.Config) != nil:
			in.reopen(errors.New("the consumer was changed")) // Open says how
		case pullOf(now.Config, c.Prefetch, c.largest()) != in.pull:
			in.reopen(errors.New("the consumer's limits on pulls were changed"))
		default:
			if refused {
				continue // it comes between two looks, of which each takes its time
			}
			if before != nil && before.Delivered.Consumer != now.Delivered.Consumer {
				in.word.Store(nil) // whatever it was, messages come
				c.told.Store(nil)
			}
			c.standing.set(c.Log, in.standstill(before, now))
			if before, unanswered = now, 0; in.full() {
				before = nil // what does not come until the next look may be our own doing
			}
		}
	}
}

// Pending asks the server how many messages of the request stream are not stored yet, as far as it knows: those that it has
// not delivered, and those that nobody has acked.
func (c *Consumer) Pending(ctx context.Context) (int, error) {
	now, err := c.look(ctx)
	if err != nil {
		return 0, fmt.Errorf("consumer %s on stream %s: %w", c.Names.Consumer, c.Names.Stream, err)
	}
	return int(now.NumPending) + now.NumAckPending, nil
}

// look asks the server for the consumer as it is now.
func (c *Consumer) look(ctx context.Context) (*jetstream.ConsumerInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	// The consumer that is consumed from has the same method, but changes what it
	// knows of itself.
	consumer, err := c.Stream.Consumer(ctx, c.Names.Stream, c.Names.Consumer)
	if err != nil {
		return nil, err
	}
	return consumer.CachedInfo(), nil
}

// standstill says why messages that wait do not come, from two looks; "": they come, or
// none waits, or this replica has no room for one.
func (in *intake) standstill(before, now *jetstream.ConsumerInfo) string {
	stream, consumer := in.Names.Stream, in.Names.Consumer
	if now.Paused {
		until := "an unknown time"
		if at := now.Config.PauseUntil; at != nil {
			until = at.UTC().Format(time.RFC3339)
		}
		return fmt.Sprintf("consumer %s on stream %s is paused until %s: nats consumer resume %s %s", consumer, stream, until, stream, consumer)
	}
	if before == nil || before.Paused || before.NumPending == 0 || now.NumPending == 0 ||
		now.Delivered.Consumer != before.Delivered.Consumer || in.full() {
		return ""
	}
	wait := fmt.Sprintf("messages wait for consumer %s on stream %s and none is delivered: ", consumer, stream)
	if most := now.Config.MaxAckPending; most > 0 && now.NumAckPending >= most {
		return fmt.Sprintf("%sits max_ack_pending of %d is used up by messages that were delivered and not acked; they come again %v after their delivery", wait, most, now.Config.AckWait)
	}
	if word := in.word.Load(); word != nil {
		return wait + "the server says: " + *word
	}
	if most := now.Config.MaxWaiting; most > 0 && now.NumWaiting >= most {
		return fmt.Sprintf("%sits max_waiting of %d is used up by pulls of others", wait, most)
	}
	if p := now.Config.PriorityPolicy; p != jetstream.PriorityPolicyNone {
		return wait + "its priority policy may keep them for another client"
	}
	return wait + "the server does not say why; look at it with: nats consumer info " + stream + " " + consumer
}

// full says whether there is no room for another message in hand.
func (in *intake) full() bool { return len(in.slots) == cap(in.slots) }

// reopen ends the attachment, so that the consumer is looked up anew. What Prefetch holds
// of it is given back.
func (in *intake) reopen(why error) {
	in.changing.Do(func() {
		in.change = why
		close(in.changed)
	})
}

// ongoing is why messages do not come. The zero value is that they do.
type ongoing struct {
	mu   sync.Mutex
	why  string // "": all is well
	told string // the latest that was said
	log  *trouble.Trouble
}

func (o *ongoing) now() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.why
}

// set notes how things are: "" is well. Another reason is another trouble, of which the
// log says that it began.
func (o *ongoing) set(log *slog.Logger, why string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.why = why
	if o.log == nil || why != "" && why != o.told {
		o.log, o.told = &trouble.Trouble{}, why
	}
	var err error
	if why != "" {
		err = errors.New(why)
	}
	o.log.Tell(log, "no messages come", err)
}
