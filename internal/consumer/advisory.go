package consumer

import (
	"context"
	"encoding/json"
	"errors"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"flexworker/internal/outbox/request"
)

// watchLost stores what the server has given up delivering: a message whose
// deliveries are used up, above all one that the client library takes for a
// word of the server. The server says so once, to who listens then; what is
// said while no replica runs is found by comparing the stream with the table.
// The watch ends with ctx; the returned function waits for that.
func (c *Consumer) watchLost(ctx context.Context) (func(), error) {
	subject := "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES." + c.Names.Stream + "." + c.Names.Consumer
	advisories := make(chan *nats.Msg, 512) // more at once are dropped, and the client says so
	sub, err := c.Stream.Conn().ChanQueueSubscribe(subject, c.Names.Consumer, advisories)
	if err != nil {
		return nil, err
	}
	var watch sync.WaitGroup
	watch.Go(func() {
		for {
			select {
			case <-ctx.Done():
				// An error on the way out changes nothing: the connection is closed next.
				_ = sub.Unsubscribe()
				return
			case m := <-advisories:
				c.lost(ctx, m.Data)
			}
		}
	})
	return watch.Wait, nil
}

// lost stores the message that an advisory names, however often it takes.
func (c *Consumer) lost(ctx context.Context, advisory []byte) {
	var named struct {
		Sequence uint64 `json:"stream_seq"`
	}
	if err := json.Unmarshal(advisory, &named); err != nil {
		c.Log.Warn("an advisory about lost messages cannot be read", "error", err)
		return
	}
	for {
		err := c.storeLost(ctx, named.Sequence)
		switch {
		case err == nil:
			c.Log.Warn("the stream had given up delivering a message; it is stored", "stream", c.Names.Stream, "sequence", named.Sequence)
			return
		case errors.Is(err, jetstream.ErrMsgNotFound):
			c.Log.Error("a message is no longer delivered, nor in the stream: if it was not stored before, nobody has it",
				"stream", c.Names.Stream, "sequence", named.Sequence)
			return
		}
		c.Log.Error("a message is no longer delivered and could not be stored; trying again, or publish it again",
			"stream", c.Names.Stream, "sequence", named.Sequence, "error", away(c.Stream, err))
		rest(ctx, lostEvery)
		if ctx.Err() != nil {
			return
		}
	}
}

// storeLost reads one message from the stream and stores it as any other. It
// stays unacked; nobody delivers it any more.
func (c *Consumer) storeLost(ctx context.Context, sequence uint64) error {
	ctx, cancel := context.WithTimeout(ctx, lostLimit)
	defer cancel()
	stream, err := c.Stream.Stream(ctx, c.Names.Stream)
	if err != nil {
		return err
	}
	raw, err := stream.GetMsg(ctx, sequence)
	if err != nil {
		return err
	}
	return c.store(context.WithoutCancel(ctx), c.Names.complete(request.Message{
		Stream: c.Names.Stream, Subject: raw.Subject, Sequence: raw.Sequence, Time: raw.Time, Headers: raw.Header, Raw: raw.Data,
	}))
}
