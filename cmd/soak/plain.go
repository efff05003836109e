package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"flexworker/internal/testing/flextest"
)

// This program starts itself as the plain consumer when these are set.
const (
	plainQueue    = "SOAK_PLAIN_NATS"
	plainEndpoint = "SOAK_PLAIN_FLEX"
)

// plain is a consumer as most teams would write it, with the usual care: durable, explicit acks, redelivery, retries
// with backoff and jitter, never given up, a message id on each result, an ack only after the result is stored. It has no
// memory of its own, so it cannot know what a lost answer said.
type plain struct {
	stream   jetstream.JetStream
	http     *http.Client
	endpoint string
}

func newPlain(stream jetstream.JetStream, endpoint string) *plain {
	return &plain{stream, &http.Client{Timeout: callLimit}, "http://" + endpoint + "/v1/Interactions"}
}

// servePlain consumes until it is told to stop.
func servePlain(queue, endpoint string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	conn, err := nats.Connect("nats://"+queue, nats.MaxReconnects(-1), nats.ReconnectWait(200*time.Millisecond), nats.RetryOnFailedConnect(true))
	if err == nil {
		defer conn.Close()
		var stream jetstream.JetStream
		if stream, err = jetstream.New(conn); err == nil {
			newPlain(stream, endpoint).consume(ctx)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "plain:", err)
		return 1
	}
	return 0
}

// consume handles 16 messages at a time.
func (p *plain) consume(ctx context.Context) {
	var c jetstream.Consumer
	for err := errors.New("not yet"); err != nil; {
		limit, cancel := context.WithTimeout(ctx, 5*time.Second)
		c, err = p.stream.CreateOrUpdateConsumer(limit, plainRequests, jetstream.ConsumerConfig{Durable: "plain",
			AckPolicy: jetstream.AckExplicitPolicy, AckWait: 30 * time.Second, MaxAckPending: 1000})
		cancel()
		if err != nil && !rest(ctx, time.Second) {
			return
		}
	}
	slots := make(chan struct{}, 16)
	var inHand sync.WaitGroup
	consuming, err := c.Consume(func(m jetstream.Msg) {
		slots <- struct{}{}
		inHand.Go(func() { p.handle(ctx, m); <-slots })
	}, jetstream.PullMaxMessages(32))
	if err != nil {
		return // it is started again
	}
	<-ctx.Done()
	consuming.Stop()
	inHand.Wait()
}

// refusedError is an answer that no retry changes.
type refusedError struct{ status int }

func (e refusedError) Error() string { return fmt.Sprintf("refused: HTTP %d", e.status) }

// handle creates the interaction, publishes what became of the request, and acks. What fails comes again.
func (p *plain) handle(ctx context.Context, m jetstream.Msg) {
	var q struct {
		ID      string          `json:"request_id"`
		Channel json.RawMessage `json:"channel"`
		Routing json.RawMessage `json:"routing"`
	}
	if json.Unmarshal(m.Data(), &q) != nil {
		_ = m.Term()
		return
	}
	answer := plainResult{ID: q.ID, Outcome: "created"}
	var refused refusedError
	switch sid, err := p.createWithRetries(ctx, m, q.Channel, q.Routing); {
	case errors.As(err, &refused):
		answer.Outcome = "rejected"
	case err != nil:
		_ = m.NakWithDelay(5 * time.Second) // what is lost here comes again after AckWait
		return
	default:
		answer.SID = sid
	}
	body, _ := json.Marshal(answer) // two texts
	for range 20 {
		limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		_, err := p.stream.Publish(limit, "plain.results", body, jetstream.WithMsgID(q.ID))
		cancel()
		if err == nil {
			_ = m.Ack() // what is lost here comes again after AckWait
			return
		}
		_ = m.InProgress()
		rest(context.WithoutCancel(ctx), 500*time.Millisecond)
	}
}

// createWithRetries tries five times.
func (p *plain) createWithRetries(ctx context.Context, m jetstream.Msg, channel, routing []byte) (sid string, err error) {
	delay := 200 * time.Millisecond
	for try := 0; ; try++ {
		_ = m.InProgress() // so that nobody else is given it meanwhile
		var wait time.Duration
		sid, wait, err = p.create(channel, routing)
		if err == nil || errors.As(err, &refusedError{}) || try == 4 {
			return sid, err
		}
		if !rest(ctx, max(wait, delay/2+rand.N(delay))) {
			return "", err // told to stop: somebody else goes on
		}
		delay = min(2*delay, 2*time.Second)
	}
}

// create makes the call; wait is what Retry-After says.
func (p *plain) create(channel, routing []byte) (sid string, wait time.Duration, err error) {
	form := url.Values{"Channel": {string(channel)}}
	if len(routing) > 0 {
		form.Set("Routing", string(routing))
	}
	r, err := http.NewRequest(http.MethodPost, p.endpoint, strings.NewReader(form.Encode())) //nolint:noctx // the client has a timeout
	if err != nil {
		return "", 0, err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.SetBasicAuth(flextest.AccountSID, flextest.AuthToken)
	answer, err := p.http.Do(r)
	if err != nil {
		return "", 0, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
	switch status := answer.StatusCode; {
	case status == 400 || status == 404 || status == 422: // the request itself is wrong
		return "", 0, refusedError{status}
	case status/100 != 2:
		wait, _ = time.ParseDuration(answer.Header.Get("Retry-After") + "s") // 0 when there is none
		return "", wait, fmt.Errorf("HTTP %d", status)
	case err != nil:
		return "", 0, err
	}
	var created struct {
		SID string `json:"sid"`
	}
	if err := json.NewDecoder(bytes.NewReader(body)).Decode(&created); err != nil || !strings.HasPrefix(created.SID, "KD") {
		return "", 0, fmt.Errorf("an answer without a sid: %w", err)
	}
	return created.SID, 0, nil
}
