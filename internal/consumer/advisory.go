package consumer

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"flexworker/internal/outbox/request"
)

// watchLost stores what the server has given up delivering: a message whose
// deliveries are used up, above all one that the client library takes for a
// word of the server, or one whose row somebody holds locked for hours. The server
// says so once, and one replica of those that listen hears it. Nobody stores what is said
// while no replica runs, nor what the replica that heard it has not stored when it stops:
// only `worker audit` finds that, by comparing the stream with the tables.
// The watch ends with ctx; the returned function waits for that.
func (c *Consumer) watchLost(ctx context.Context) (func(), error) {
	subject := "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES." + c.Names.Stream + "." + c.Names.Consumer
	lost := lostMessages{come: make(chan struct{}, 1)}
	sub, err := c.Stream.Conn().QueueSubscribe(subject, c.Names.Consumer, func(m *nats.Msg) {
		var named struct {
			Sequence uint64 `json:"stream_seq"`
		}
		if err := json.Unmarshal(m.Data, &named); err != nil {
			c.Log.Warn("an advisory about lost messages cannot be read", "error", err)
			return
		}
		lost.add(named.Sequence, time.Now())
	})
	if err != nil {
		return nil, err
	}
	var watch sync.WaitGroup
	watch.Go(func() {
		c.storeAll(ctx, &lost)
		// An error on the way out changes nothing: the connection is closed next.
		_ = sub.Unsubscribe()
		if left := lost.left(); len(left) > 0 {
			c.Log.Error("this worker stops before it could store messages that are no longer delivered, and no other worker tries: `worker audit` names them, docs/operating.md says how to have them stored",
				"stream", c.Names.Stream, "messages", len(left), "sequences", left[:min(len(left), mostNamed)])
		}
	})
	return watch.Wait, nil
}

// mostNamed is how many lost messages one line of the log names.
const mostNamed = 100

// lostMessages are those that wait to be stored.
type lostMessages struct {
	mu      sync.Mutex
	waiting []lostMessage // in the order of their times
	come    chan struct{} // has an element where one has come
}

// A lostMessage is tried at a time, and not before.
type lostMessage struct {
	sequence uint64
	at       time.Time
}

func (l *lostMessages) add(sequence uint64, at time.Time) {
	l.mu.Lock()
	behind := sort.Search(len(l.waiting), func(i int) bool { return l.waiting[i].at.After(at) })
	l.waiting = slices.Insert(l.waiting, behind, lostMessage{sequence, at})
	l.mu.Unlock()
	select {
	case l.come <- struct{}{}:
	default: // the watch is told already
	}
}

// next takes the message whose turn it is, or says how long to rest until it is one's.
func (l *lostMessages) next(now time.Time) (sequence uint64, rest time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.waiting) == 0 {
		return 0, time.Hour
	}
	first := l.waiting[0]
	if rest = first.at.Sub(now); rest > 0 {
		return 0, rest
	}
	l.waiting = l.waiting[1:]
	return first.sequence, 0
}

// left are the sequences of those that wait.
func (l *lostMessages) left() (sequences []uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range l.waiting {
		sequences = append(sequences, m.sequence)
	}
	slices.Sort(sequences)
	return slices.Compact(sequences)
}

// storeAll stores lost messages until ctx ends, each however often it takes. One that cannot be stored, as somebody holds
// its row for hours, goes behind the others.
func (c *Consumer) storeAll(ctx context.Context, lost *lostMessages) {
	for ctx.Err() == nil {
		sequence, rest := lost.next(time.Now())
		if rest > 0 {
			t := time.NewTimer(rest)
			select {
			case <-ctx.Done():
			case <-lost.come:
			case <-t.C:
			}
			t.Stop()
			continue
		}
		if !c.lost(ctx, sequence) {
			lost.add(sequence, time.Now().Add(jitter(lostEvery)))
		}
	}
}

// lost stores one message, and says whether that has come to an end.
func (c *Consumer) lost(ctx context.Context, sequence uint64) bool {
	err := c.storeLost(ctx, sequence)
	switch {
	case err == nil:
		c.Log.Warn("the stream had given up delivering a message; it is stored", "stream", c.Names.Stream, "sequence", sequence)
	case errors.Is(err, jetstream.ErrMsgNotFound):
		c.Log.Error("a message is no longer delivered, nor in the stream: if it was not stored before, nobody has it",
			"stream", c.Names.Stream, "sequence", sequence)
	case ctx.Err() != nil: // it was cut, and says nothing
		return false
	default:
		if say, leftOut := c.unstored.Next(); say {
			c.Log.Error("a message is no longer delivered and could not be stored; trying again for as long as this worker runs",
				"stream", c.Names.Stream, "sequence", sequence, "error", away(c.Stream, err), "left_out", leftOut)
		}
		return false
	}
	return true
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
