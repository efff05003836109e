package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"flexworker/internal/testing/contract"
)

// read follows the result stream and the ledger until the function it returns
// is called; that one returns when both are read to their ends.
func (w *world) read(ctx context.Context) (finish func()) {
	ctx, cancel := context.WithCancel(ctx)
	var reading sync.WaitGroup
	var last atomic.Uint64
	reading.Go(func() { w.readResults(ctx, &last) })
	reading.Go(func() { w.trim(ctx, &last) })
	reading.Go(func() {
		for rest(ctx, time.Second) {
			w.readLedger()
			w.show(ctx)
		}
	})
	return func() {
		end, stop := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer stop()
		w.book.offendIf(w.caughtUp(end), "the result stream can be read to its end")
		cancel()
		reading.Wait()
		w.readLedger()
	}
}

// readResults begins again where it was whenever NATS was away.
func (w *world) readResults(ctx context.Context, last *atomic.Uint64) {
	for ctx.Err() == nil {
		consumer, err := w.stream.OrderedConsumer(ctx, "INTERACTION_RESULTS",
			jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: last.Load() + 1})
		if err != nil {
			rest(ctx, 500*time.Millisecond)
			continue
		}
		messages, err := consumer.Messages(jetstream.PullExpiry(5*time.Second), jetstream.PullHeartbeat(time.Second))
		if err != nil {
			rest(ctx, 500*time.Millisecond)
			continue
		}
		for {
			m, err := messages.Next(jetstream.NextContext(ctx))
			if err != nil {
				break // gone for now, or the end
			}
			meta, err := m.Metadata()
			if err != nil || meta.Sequence.Stream <= last.Load() {
				continue
			}
			w.readResult(m, meta.Timestamp)
			last.Store(meta.Sequence.Stream)
		}
		messages.Stop()
	}
}

func (w *world) readResult(m jetstream.Msg, at time.Time) {
	var r result
	if err := json.Unmarshal(m.Data(), &r); err != nil {
		w.book.offend("every result is readable", m.Subject(), err.Error()+": "+string(m.Data()))
		return
	}
	if err := contract.Result(m.Data()); err != nil {
		w.book.offend("every result is valid by docs/schema/result.json", m.Subject(), err.Error()+": "+string(m.Data()))
	}
	w.book.answered(m.Subject(), m.Headers().Get(jetstream.MsgIDHeader), at, m.Data(), r)
}

const (
	trimEvery = time.Minute
	// trimBehind is for how many turns results stay after they were read: for longer than the stream's duplicate window. When
	// NATS starts again it knows the ids of what is in the stream, and worker audit wants all that was marked since then.
	trimBehind = 40
)

// trim removes results from the stream that were read minutes ago.
func (w *world) trim(ctx context.Context, last *atomic.Uint64) {
	var read []uint64
	for rest(ctx, trimEvery) {
		if read = append(read, last.Load()); len(read) <= trimBehind {
			continue
		}
		limit, cancel := context.WithTimeout(ctx, 5*time.Second)
		if s, err := w.stream.Stream(limit, "INTERACTION_RESULTS"); err == nil {
			_ = s.Purge(limit, jetstream.WithPurgeSequence(read[0])) // what fails now is done by the next round
		}
		cancel()
		read = read[1:]
	}
}

// caughtUp waits until every message of the result stream has been read.
func (w *world) caughtUp(ctx context.Context) error {
	for {
		s, err := w.stream.Stream(ctx, "INTERACTION_RESULTS")
		if err == nil {
			_, _, read, _ := w.book.numbers()
			if n := s.CachedInfo().State.LastSeq; uint64(read) == n {
				return nil
			} else {
				err = fmt.Errorf("%d of %d results are read", read, n)
			}
		}
		if !rest(ctx, 100*time.Millisecond) {
			return err
		}
	}
}

// readLedger takes over what the endpoint has created since. An interaction
// without a task is known by the channel it was attached to.
func (w *world) readLedger() {
	w.reading.Lock() // or two readers take the same entries over
	defer w.reading.Unlock()
	for {
		_, _, _, n := w.book.numbers()
		entries := w.flex.Since(n, 1000)
		for _, e := range entries {
			id := e.TestID
			if id == "" && e.Call != nil {
				id = attachedID(w.seed, e.Call.Channel)
			}
			w.book.made(id, e.InteractionSID, e.At, e.Fate)
		}
		if len(entries) == 0 {
			return
		}
	}
}

// channelSID names the channel of an attached request by its number.
func channelSID(n int) string { return fmt.Sprintf("UO%032x", n) }

func attachedID(seed uint64, channel string) string {
	var c struct {
		SID string `json:"sid"`
	}
	if json.Unmarshal([]byte(channel), &c) != nil {
		return channel
	}
	n, err := strconv.ParseInt(strings.TrimPrefix(c.SID, "UO"), 16, 64)
	if err != nil {
		return channel
	}
	return fmt.Sprintf("soak-%d-%07d-%s", seed, n, kindNames[attached])
}
