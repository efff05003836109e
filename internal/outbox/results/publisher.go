package results

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"flexworker/internal/crash"
	"flexworker/internal/loop"
	"flexworker/internal/outbox/request"
	"flexworker/internal/trouble"
)

const (
	// UnpublishedAge is how long a result waits until any replica may publish it:
	// long enough for the one that settled it to have done so.
	UnpublishedAge = 3 * time.Second
	// publishRest is the pause after a batch that was not all published: while
	// NATS is away each try is a log line.
	publishRest = time.Second
	// ackLimit bounds the wait for the stream's acknowledgements of a batch.
	ackLimit = 5 * time.Second
	// headerRoom is what is kept free of the server's message limit for headers.
	headerRoom = 4096
)

// Publisher puts every result on the result stream and marks it only when the
// stream has acknowledged it. A repeat is harmless: its message id is the same.
type Publisher struct {
	Outgoing *Outgoing
	Stream   jetstream.Publisher
	Subject  string       // RESULTS_SUBJECT
	Largest  func() int64 // the server's largest message in bytes; 0: unknown
	// Missing is asked when no stream has answered a publish. It says what is wrong and
	// what to do, or is nil where it knows nothing or has made the stream anew. nil: nobody
	// is asked.
	Missing  func(context.Context) error
	Log      *slog.Logger
	Counters *Counters

	From   Cursor                 // where the next read of the table begins
	failed atomic.Int64           // when the stream last did not take a result, in unix nanoseconds; 0: never
	reason atomic.Pointer[string] // why

	reading, putting, marking trouble.Trouble
}

// failingFor is how long after a failure publishing counts as failing: what is not
// published is tried again sooner.
const failingFor = 10 * time.Second

// Failing says whether the result stream does not take results at present, and why not.
func (p *Publisher) Failing() (why string, failing bool) {
	if reason := p.reason.Load(); reason != nil {
		why = *reason
	}
	return why, time.Since(time.Unix(0, p.failed.Load())) < failingFor
}

// An Answer is one message that somebody waits for.
type Answer struct {
	Kind        AnswerKind
	ID          int64 // row in the kind's table
	Number      int   // what the mark is fenced by
	Outcome     string
	Source      string
	MessageID   string
	Traceparent *string // nil: none came with the message
	Tracestate  *string // nil: none
	Body        Result
	short       bool // body is reduced
}

// AnswerKind says in which table an answer is marked as published.
type AnswerKind int

// The kinds of answer, by the column that marks them.
const (
	Final        AnswerKind = iota // a settled request: outbox.published_at
	Announcement                   // a request that waits for a person: outbox.announced_at
	Repetition                     // a known request asked again: outbox_repeats.published_at
	Malformation                   // malformed or conflict: outbox_malformed.published_at
	SetupWord                      // whether the channel was set up: outbox_setups.published_at

	answerKinds // keep it last
)

// Run publishes until ctx ends, and then what this process has settled so far.
// Stop the loops that settle requests first: what they offer later stays in the tables.
func (p *Publisher) Run(ctx context.Context) {
	// What came through the queue is marked while the next is published. What was read from the
	// table is marked before the next read, which would find it again.
	marks := make(chan []Answer, 1)
	var marking sync.WaitGroup
	defer marking.Wait()
	defer close(marks)
	marking.Go(func() {
		for acked := range marks {
			p.mark(context.WithoutCancel(ctx), acked)
		}
	})
	for {
		var answers []Answer
		var err error
		var read bool // from the table
		select {
		case <-ctx.Done():
			p.last(context.WithoutCancel(ctx))
			return
		case first := <-p.Outgoing.Queue.Queue:
			acked, all := p.put(p.Outgoing.Queue.take(first))
			marks <- acked
			if !all {
				loop.Rest(ctx, loop.Jittered(publishRest), nil) // what the stream did not take is read from the table later
			}
			continue
		case <-p.Outgoing.Queue.more:
			answers, err = p.Outgoing.byID(ctx, p.Outgoing.Queue.takeIDs())
		case <-p.Outgoing.Asked:
			read = true
			answers, err = p.Outgoing.Asking(ctx, &p.From)
		case <-p.Outgoing.Words:
			read = true
			answers, err = p.Outgoing.Found(ctx, &p.From)
		case <-p.Outgoing.Left:
			read = true
			answers, err = p.Outgoing.Unpublished(ctx, &p.From)
		}
		p.reading.Tell(p.Log, "results cannot be read; they stay in the table and are tried again", err)
		switch {
		case !p.Publish(ctx, answers), err != nil: // what could be read goes out all the same
			loop.Rest(ctx, loop.Jittered(publishRest), nil)
		case read && len(answers) >= batchMost:
			p.Outgoing.Left.Raise() // there may be more where these came from
		}
	}
}

// last publishes what this process has settled and not published yet.
func (p *Publisher) last(ctx context.Context) {
	settled := p.Outgoing.Queue
	for answers := settled.take(nil); len(answers) > 0; answers = settled.take(nil) {
		if !p.Publish(ctx, answers) {
			return
		}
	}
	for ids := settled.takeIDs(); len(ids) > 0; ids = settled.takeIDs() {
		if answers, err := p.Outgoing.byID(ctx, ids); err != nil || !p.Publish(ctx, answers) {
			return // both stay unpublished: for another replica, or for the next start
		}
	}
}

// Publish puts all answers on the stream and marks those that it took. It returns
// whether that was all of them.
func (p *Publisher) Publish(ctx context.Context, answers []Answer) bool {
	acked, all := p.put(answers)
	return p.mark(ctx, acked) && all
}

// put sends all answers and waits for the stream to acknowledge them. It returns
// those that it did, and whether that was all of them.
func (p *Publisher) put(answers []Answer) (acked []Answer, all bool) {
	if len(answers) == 0 {
		return nil, true // which says nothing of the stream
	}
	futures := make([]jetstream.PubAckFuture, len(answers))
	var failed error
	for i, a := range answers {
		var err error
		if futures[i], err = p.Send(a); err != nil {
			failed = err
		}
	}
	acked, large, err := await(answers, futures)
	if err != nil {
		failed = err
	}
	// A crash here publishes again, under the same message id.
	crash.At("published")
	if failed == nil {
		p.failed.Store(0)
	} else {
		failed = p.why(failed)
		reason := failed.Error()
		p.reason.Store(&reason)
		p.failed.Store(time.Now().UnixNano())
		rest := len(answers) - len(acked) - len(large)
		p.Counters.Failed.Add(int64(rest))
	}
	p.putting.Tell(p.Log, "the result stream did not take all results; the rest is tried again", failed)
	all = failed == nil
	if len(large) > 0 {
		short, took := p.put(large)
		acked, all = append(acked, short...), all && took
	}
	return acked, all
}

// why is err in words of what to do about it.
func (p *Publisher) why(err error) error {
	switch {
	case errors.Is(err, nats.ErrReconnectBufExceeded), errors.Is(err, nats.ErrDisconnected), errors.Is(err, nats.ErrConnectionReconnecting):
		return errors.New("NATS is not connected")
	case errors.Is(err, jetstream.ErrNoStreamResponse):
		ctx, cancel := context.WithTimeout(context.Background(), ackLimit)
		defer cancel()
		if p.Missing != nil {
			if missing := p.Missing(ctx); missing != nil {
				return missing
			}
		}
		return fmt.Errorf("no stream has answered on %s.>: it has no leader at the moment, or it was missing and has been made anew (CREATE_STREAMS)", p.Subject)
	case errors.Is(err, jetstream.ErrAsyncPublishTimeout), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("the stream on %s.> has not acknowledged within %v", p.Subject, ackLimit)
	}
	return err
}

// mark notes what the stream has acknowledged, and returns whether it could.
func (p *Publisher) mark(ctx context.Context, acked []Answer) bool {
	if len(acked) == 0 {
		return true // which says nothing of the table
	}
	err := p.Outgoing.MarkPublished(ctx, acked)
	p.marking.Tell(p.Log, "published results cannot be marked; they will be published again under the same id", err, "results", len(acked))
	if err != nil {
		return false
	}
	crash.At("marked")
	p.Counters.Published.Add(int64(len(acked)))
	p.note(ctx, acked)
	return true
}

// note writes one line at debug of each answer that the stream has taken.
func (p *Publisher) note(ctx context.Context, acked []Answer) {
	if !p.Log.Enabled(ctx, slog.LevelDebug) {
		return
	}
	for _, a := range acked {
		attrs := []slog.Attr{slog.String("outcome", a.Outcome), slog.String("source", a.Source), slog.String("message_id", a.MessageID),
			slog.String("stream", a.Body.Stream), slog.Int64("sequence", a.Body.Sequence)}
		if a.Body.RequestID != nil {
			attrs = append(attrs, slog.String("request_id", *a.Body.RequestID))
		}
		if a.Traceparent != nil && request.TraceID(*a.Traceparent) != "" {
			attrs = append(attrs, slog.String("trace_id", request.TraceID(*a.Traceparent)))
		}
		p.Log.LogAttrs(ctx, slog.LevelDebug, "published", attrs...)
	}
}

// tooLarge says whether a stream refused a message for its size: its own limit
// may be lower than the server's (max_msg_size).
func tooLarge(err error) bool {
	const messageSizeExceedsMaximum = 10054
	var api *jetstream.APIError
	return errors.As(err, &api) && api.ErrorCode == messageSizeExceedsMaximum
}

// await waits for the stream's acknowledgements: which answers it took, which
// are too large for it and have to be sent in short, and why others failed.
func await(answers []Answer, futures []jetstream.PubAckFuture) (acked, large []Answer, failed error) {
	ctx, cancel := context.WithTimeout(context.Background(), ackLimit)
	defer cancel()
	for i, f := range futures {
		if f == nil {
			continue
		}
		switch err, a := acknowledged(ctx, f), answers[i]; {
		case err == nil:
			acked = append(acked, a)
		case tooLarge(err) && !a.short:
			a.Body, a.short = Reduced(a.Body), true
			large = append(large, a)
		default:
			failed = err
		}
	}
	return acked, large, failed
}

// acknowledged waits for one of them. What has come counts, also when the time is over.
func acknowledged(ctx context.Context, f jetstream.PubAckFuture) error {
	select {
	case <-f.Ok():
		return nil
	case err := <-f.Err():
		return err
	default:
	}
	select {
	case <-f.Ok():
		return nil
	case err := <-f.Err():
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Send hands one answer to the stream; a body that no stream would take is
// reduced first, since an answer in short is better than none.
func (p *Publisher) Send(a Answer) (jetstream.PubAckFuture, error) {
	body, err := Encode(a.Body)
	if err != nil {
		return nil, err
	}
	if most := p.Largest(); most > 0 && int64(len(body)) > most-headerRoom {
		if body, err = Encode(Reduced(a.Body)); err != nil {
			return nil, err
		}
	}
	m := nats.NewMsg(Subject(p.Subject, a.Outcome, a.Source))
	m.Data = body
	m.Header.Set("Content-Type", "application/json")
	m.Header.Set(jetstream.MsgIDHeader, a.MessageID)
	for name, value := range map[string]*string{"traceparent": a.Traceparent, "tracestate": a.Tracestate} {
		if value != nil {
			m.Header.Set(name, *value)
		}
	}
	future, err := p.Stream.PublishMsgAsync(m)
	if errors.Is(err, nats.ErrMaxPayload) {
		if m.Data, err = Encode(Reduced(a.Body)); err == nil {
			future, err = p.Stream.PublishMsgAsync(m)
		}
	}
	return future, err
}

// batchMost is how many answers are read, published or marked together.
const batchMost = 256

// Counters count what a Publisher did since it started. The zero value is ready.
type Counters struct {
	Published atomic.Int64
	Failed    atomic.Int64 // publishes that the stream did not acknowledge
}
