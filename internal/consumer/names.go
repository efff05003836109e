package consumer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"flexworker/internal/outbox/request"
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
	// maxDeliver ends the deliveries of what never reaches a handler. Of a message that
	// does, an outage of Postgres costs one or two, and each return because of a lock costs
	// one (lockedDelay): a lock that lasts for more than two hours and a half uses up all of them.
	// The watch for lost messages stores both kinds.
	maxDeliver = 20
	// duplicates is the shortest window in which a stream can be made to drop a message
	// whose Nats-Msg-Id it has seen: a question that it drops is not answered again, nor
	// is another that has the same id. mostDuplicates is one that is not warned of.
	duplicates     = 100 * time.Millisecond
	mostDuplicates = 5 * time.Second
	// askLimit bounds a question whose answer is good to have. Without the permission to
	// ask it there is no answer.
	askLimit = 2 * time.Second
	// maxAckPending is what all replicas together may have in hand.
	maxAckPending = 10000
)

// ErrDrift is returned by Open when the consumer that is there was made with
// settings under which the promises do not hold.
var ErrDrift = errors.New("consumer: the consumer on the server is not the one this worker needs")

// makeAnew is what to do about a consumer that differs.
const makeAnew = "delete it so that the worker makes it anew (what is stored already is recognised), or set REQUESTS_CONSUMER to another name"

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
		consumer, err = n.createConsumer(ctx, js)
	}
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, fmt.Errorf("stream %s does not exist: create it with subjects %s, or start with CREATE_STREAMS=true: %w", n.Stream, n.filter(), err)
	}
	if errors.Is(err, jetstream.ErrNotPullConsumer) {
		return nil, fmt.Errorf("%w: consumer %s on stream %s is a push consumer, needed is one that is pulled from; %s", ErrDrift, n.Consumer, n.Stream, makeAnew)
	}
	if err != nil {
		if !errors.Is(err, ErrDrift) {
			err = fmt.Errorf("consumer %s on stream %s: %w", n.Consumer, n.Stream, away(js, err))
		}
		return nil, err
	}
	has := consumer.CachedInfo().Config
	if err := n.compare(has); err != nil {
		return consumer, n.inherited(ctx, js, has, err)
	}
	return consumer, nil
}

// Inspect finds the consumer and makes nothing. It fails as Open does; with jetstream.ErrStreamNotFound or
// jetstream.ErrConsumerNotFound, where Open may make what is missing.
func (n Names) Inspect(ctx context.Context, js jetstream.JetStream) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	consumer, err := js.Consumer(ctx, n.Stream, n.Consumer)
	switch {
	case errors.Is(err, jetstream.ErrNotPullConsumer):
		return fmt.Errorf("%w: it is a push consumer, needed is one that is pulled from; %s", ErrDrift, makeAnew)
	case err != nil:
		return away(js, err)
	}
	has := consumer.CachedInfo().Config
	if err := n.compare(has); err != nil {
		return n.inherited(ctx, js, has, err)
	}
	return nil
}

// away says what an error means that came without a connection; else it is err.
func away(js jetstream.JetStream, err error) error {
	if !js.Conn().IsConnected() {
		return errors.New("NATS is not connected")
	}
	return err
}

// createConsumer makes the consumer, unless the stream would give it what it must not have.
func (n Names) createConsumer(ctx context.Context, js jetstream.JetStream) (jetstream.Consumer, error) {
	config := n.config()
	if limits, err := n.limits(ctx, js); err == nil && limits.InactiveThreshold > 0 {
		config.InactiveThreshold = limits.InactiveThreshold
		return nil, n.inherited(ctx, js, config, n.compare(config))
	}
	consumer, err := js.CreateConsumer(ctx, n.Stream, config)
	const maxAckPendingExceeds = 10121 // what the stream, the account or the server allows
	if api := (*jetstream.APIError)(nil); errors.As(err, &api) && api.ErrorCode == maxAckPendingExceeds {
		config.MaxAckPending = 0 // the server takes the most that it allows, or 1,000
		consumer, err = js.CreateConsumer(ctx, n.Stream, config)
	}
	return consumer, err
}

// limits are those that the stream has for its consumers. Not every worker may ask.
func (n Names) limits(ctx context.Context, js jetstream.JetStream) (jetstream.StreamConsumerLimits, error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	stream, err := js.Stream(ctx, n.Stream)
	if err != nil {
		return jetstream.StreamConsumerLimits{}, err
	}
	return stream.CachedInfo().Config.ConsumerLimits, nil
}

// inherited is drift, a consumer's difference, or says that it comes from the stream:
// then a consumer that is made anew has it again.
func (n Names) inherited(ctx context.Context, js jetstream.JetStream, has jetstream.ConsumerConfig, drift error) error {
	if has.InactiveThreshold == 0 {
		return drift
	}
	limits, err := n.limits(ctx, js)
	if err != nil || limits.InactiveThreshold == 0 {
		return drift
	}
	has.InactiveThreshold = 0
	err = fmt.Errorf("%w: stream %s gives every consumer an inactive threshold (its consumer_limits.inactive_threshold is %v), needed is none: "+
		"consumer %s would be deleted in an outage; set that limit of the stream to 0 and start the worker again",
		ErrDrift, n.Stream, limits.InactiveThreshold, n.Consumer)
	if more := n.compare(has); more != nil {
		err = fmt.Errorf("%w; and %w", err, more)
	}
	return err
}

func (n Names) createStream(ctx context.Context, js jetstream.JetStream) error {
	_, err := js.CreateStream(ctx, jetstream.StreamConfig{
		Name: n.Stream, Subjects: []string{n.filter()}, Duplicates: duplicates, MaxAge: n.MaxAge,
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
	if has.ReplayPolicy != want.ReplayPolicy {
		differ("replay policy", has.ReplayPolicy, want.ReplayPolicy)
	}
	if most := has.MaxRequestExpires; most > 0 && most < leastPullFor {
		differ("max expires", most, "none, or at least "+leastPullFor.String())
	}
	if len(faults) == 0 {
		return nil
	}
	return fmt.Errorf("%w: consumer %s on stream %s: %s; %s",
		ErrDrift, n.Consumer, n.Stream, strings.Join(faults, "; "), makeAnew)
}

// Advice says what about the request stream and its consumer will surprise somebody,
// though the worker can work with it, and what to do. What the worker may not ask is
// passed over.
func (c *Consumer) Advice(ctx context.Context) []string {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	var advice []string
	if consumer, err := c.Stream.Consumer(ctx, c.Names.Stream, c.Names.Consumer); err == nil {
		for _, a := range slow(consumer.CachedInfo().Config, c.largest()) {
			advice = append(advice, fmt.Sprintf("consumer %s on stream %s: %s", c.Names.Consumer, c.Names.Stream, a))
		}
	}
	stream, err := c.Stream.Stream(ctx, c.Names.Stream)
	if err != nil {
		c.Log.Debug("the request stream's settings could not be looked at", "stream", c.Names.Stream, "error", err)
		return advice
	}
	name, has := c.Names.Stream, stream.CachedInfo().Config
	if has.Duplicates > mostDuplicates {
		advice = append(advice, fmt.Sprintf("stream %s drops a message whose Nats-Msg-Id it has seen within %v: a question that is asked again in that time is not answered, "+
			"nor is another one that has the same id; nats stream edit %s --dupe-window 100ms. Until then senders put the id into the body alone, or look at the field duplicate of the PubAck",
			name, has.Duplicates, name))
	}
	if c.Retention > 0 && (has.MaxAge == 0 || has.MaxAge > c.Retention) {
		age := "for ever"
		if has.MaxAge > 0 {
			age = fmt.Sprintf("for %v", has.MaxAge)
		}
		advice = append(advice, fmt.Sprintf("stream %s keeps messages %s (max_age), longer than requests are remembered (RETENTION, %v): what waits in it for longer than that, in an outage or because it is replayed, "+
			"is answered as malformed and not carried out; make RETENTION longer than max_age, or max_age shorter: nats stream edit %s --max-age %v",
			name, age, c.Retention, name, c.Retention/2))
	}
	return advice
}

// message reads what names a message and what it carries.
func (n Names) message(m jetstream.Msg) (request.Message, error) {
	meta, err := m.Metadata()
	if err != nil {
		return request.Message{}, err
	}
	return n.complete(request.Message{
		Stream: meta.Stream, Subject: m.Subject(), Sequence: meta.Sequence.Stream, Time: meta.Timestamp, Headers: m.Headers(), Raw: m.Data(),
	}), nil
}

// complete adds what follows from a message's subject and headers.
func (n Names) complete(m request.Message) request.Message {
	m.Source = strings.TrimPrefix(m.Subject, n.Subject+".")
	if m.Traceparent = header(m, "traceparent"); m.Traceparent != "" {
		m.Tracestate = header(m, "tracestate")
	}
	return m
}
