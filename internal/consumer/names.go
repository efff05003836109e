package consumer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"flexworker/internal/outbox"
)

// Names are the stream, the subjects and the consumer that requests come by.
type Names struct {
	Stream   string // REQUESTS_STREAM
	Subject  string // REQUESTS_SUBJECT, the prefix before the source
	Consumer string // REQUESTS_CONSUMER
	Create   bool   // CREATE_STREAMS
	// MaxAge is that of the stream, where it is created; 0: no limit.
	MaxAge time.Duration
}

const (
	// ackWait is when a message that was not acked comes again: it has to cover
	// the worst commit three times over, and nothing else. leastAckWait is what a
	// consumer made by others may have: one commit at its worst (a write is given up
	// after some ten seconds), and redeliveries, which Add recognises, beyond it.
	ackWait      = time.Minute
	leastAckWait = 10 * time.Second
	// maxDeliver ends the deliveries of what never reaches a handler. A message
	// that does is stored, so that the limit is never needed for it; an outage
	// of Postgres costs it one or two.
	maxDeliver = 20
	// maxAckPending is what all replicas together may have in hand.
	maxAckPending = 10000
)

// ErrDrift is returned by Open when the consumer that is there was made with
// settings under which the promises do not hold.
var ErrDrift = errors.New("consumer: the consumer on the server is not the one this worker needs")

// filter is the subject of all requests.
func (n Names) filter() string { return n.Subject + ".>" }

// config is the consumer as the worker creates it.
func (n Names) config() jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{
		Durable:       n.Consumer,
		Description:   "flexworker: interaction requests, shared by all replicas",
		FilterSubject: n.filter(),
		DeliverPolicy: jetstream.DeliverAllPolicy,
		AckPolicy:     jetstream.AckExplicitPolicy,
		AckWait:       ackWait,
		MaxDeliver:    maxDeliver,
		MaxAckPending: maxAckPending,
	}
}

// Open finds the consumer, or creates it when it is missing. A consumer that is
// there is never changed. It is ErrDrift when it differs in a way that matters;
// jetstream.ErrStreamNotFound when the stream is missing and may not be created.
func (n Names) Open(ctx context.Context, js jetstream.JetStream) (jetstream.Consumer, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	consumer, err := js.Consumer(ctx, n.Stream, n.Consumer)
	if errors.Is(err, jetstream.ErrStreamNotFound) && n.Create {
		if err := n.createStream(ctx, js); err != nil {
			return nil, err
		}
		consumer, err = js.Consumer(ctx, n.Stream, n.Consumer)
	}
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		consumer, err = js.CreateConsumer(ctx, n.Stream, n.config())
	}
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, fmt.Errorf("stream %s does not exist: create it with subjects %s, or start with CREATE_STREAMS=true: %w", n.Stream, n.filter(), err)
	}
	if err != nil {
		return nil, fmt.Errorf("consumer %s on stream %s: %w", n.Consumer, n.Stream, err)
	}
	return consumer, n.compare(consumer.CachedInfo().Config)
}

func (n Names) createStream(ctx context.Context, js jetstream.JetStream) error {
	_, err := js.CreateStream(ctx, jetstream.StreamConfig{
		Name: n.Stream, Subjects: []string{n.filter()}, Duplicates: 10 * time.Minute, MaxAge: n.MaxAge,
		Description: "flexworker: interaction requests",
	})
	if err != nil && !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
		return fmt.Errorf("create stream %s: %w", n.Stream, err)
	}
	return nil
}

// compare says where a consumer differs from ours in a way that matters, both
// sides shown. Other differences are the operator's to make.
func (n Names) compare(has jetstream.ConsumerConfig) error {
	want := n.config()
	var faults []string
	differ := func(field string, has, want any) {
		faults = append(faults, fmt.Sprintf("%s is %v, needed is %v", field, has, want))
	}
	if has.AckPolicy != want.AckPolicy {
		differ("ack policy", has.AckPolicy, want.AckPolicy)
	}
	if has.DeliverPolicy != want.DeliverPolicy {
		differ("deliver policy", has.DeliverPolicy, want.DeliverPolicy)
	}
	filters := has.FilterSubjects
	if has.FilterSubject != "" {
		filters = append(slices.Clone(filters), has.FilterSubject)
	}
	if !slices.Equal(filters, []string{want.FilterSubject}) {
		differ("filter", filters, want.FilterSubject)
	}
	if has.AckWait < leastAckWait {
		differ("ack wait", has.AckWait, "at least "+leastAckWait.String()+" (the worker itself would make it "+want.AckWait.String()+")")
	}
	if has.MaxDeliver > 0 && has.MaxDeliver < 10 {
		differ("max deliver", has.MaxDeliver, fmt.Sprintf("at least 10 (the worker itself would make it %d)", want.MaxDeliver))
	}
	if len(has.BackOff) > 0 {
		differ("backoff", has.BackOff, "none: it delays what is given back")
	}
	if has.InactiveThreshold > 0 {
		differ("inactive threshold", has.InactiveThreshold, "none: the consumer would be deleted in an outage")
	}
	if has.HeadersOnly {
		differ("headers only", true, false)
	}
	if len(faults) == 0 {
		return nil
	}
	return fmt.Errorf("%w: consumer %s on stream %s: %s; delete it so that the worker makes it anew (what is stored already is recognised), or set REQUESTS_CONSUMER to another name",
		ErrDrift, n.Consumer, n.Stream, strings.Join(faults, "; "))
}

// message reads what names a message and what it carries.
func (n Names) message(m jetstream.Msg) (outbox.Message, error) {
	meta, err := m.Metadata()
	if err != nil {
		return outbox.Message{}, err
	}
	return n.complete(outbox.Message{
		Stream: meta.Stream, Subject: m.Subject(), Sequence: meta.Sequence.Stream, Time: meta.Timestamp, Headers: m.Headers(), Raw: m.Data(),
	}), nil
}

// complete adds what follows from a message's subject and headers.
func (n Names) complete(m outbox.Message) outbox.Message {
	m.Source = strings.TrimPrefix(m.Subject, n.Subject+".")
	m.Traceparent = header(m, "traceparent")
	return m
}
