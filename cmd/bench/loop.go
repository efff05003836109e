package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"flexworker/internal/testing/flextest"
)

// loopURL is where the loop finds the endpoint.
const loopURL = "BENCH_LOOP_FLEX_URL"

// loop is the toy: it takes a message, posts it, publishes what came and acks.
// It keeps nothing, knows no limits and calls people twice. It is written as
// fast as that can be written without being strange: one client, connections
// kept, as many calls in flight as the worker may have, results published
// without waiting for each.
func loop(ctx context.Context) error {
	c, err := newCaller()
	if err != nil {
		return err
	}
	defer c.conn.Close()
	return c.consume(ctx, c.most, c.carry)
}

// A caller does with a message what everybody has to.
type caller struct {
	conn   *nats.Conn
	js     jetstream.JetStream
	client *http.Client
	most   int // calls in flight
}

func newCaller() (c caller, err error) {
	if c.most, err = strconv.Atoi(os.Getenv("FLEX_CONCURRENCY")); err != nil {
		return c, err
	}
	c.client = &http.Client{Timeout: 15 * time.Second,
		Transport: &http.Transport{MaxIdleConnsPerHost: c.most, MaxConnsPerHost: c.most, DisableCompression: true}}
	if c.conn, err = nats.Connect(os.Getenv("NATS_URL")); err != nil {
		return c, err
	}
	c.js, err = jetstream.New(c.conn)
	return c, err
}

// consume carries messages out, so many at once, until the process is to end.
func (c caller) consume(ctx context.Context, hands int, carry func(context.Context, jetstream.Msg) error) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM)
	defer stop()
	consumer, err := c.js.Consumer(ctx, requestsStream, consumerName)
	if err != nil {
		return err
	}
	busy := make(chan struct{}, hands)
	consuming, err := consumer.Consume(func(m jetstream.Msg) {
		busy <- struct{}{}
		go func() {
			defer func() { <-busy }()
			if err := carry(ctx, m); err != nil {
				fmt.Fprintln(os.Stderr, os.Getenv(role)+":", err)
			}
		}()
	}, jetstream.PullMaxMessages(4*c.most))
	if err != nil {
		return err
	}
	<-ctx.Done()
	consuming.Stop()
	return nil
}

// carry makes one interaction and one result of a message.
func (c caller) carry(ctx context.Context, m jetstream.Msg) error {
	in, err := read(m)
	if err != nil {
		return err
	}
	_, out, err := c.post(ctx, in)
	if err != nil {
		return err
	}
	if _, err := c.publish(in, out); err != nil {
		return err
	}
	return m.Ack()
}

// incoming is a request as the loops read it.
type incoming struct {
	text      []byte
	RequestID string          `json:"request_id"`
	Channel   json.RawMessage `json:"channel"`
	Routing   json.RawMessage `json:"routing"`
	Metadata  json.RawMessage `json:"metadata"`
}

func read(m jetstream.Msg) (incoming, error) {
	in := incoming{text: m.Data()}
	err := json.Unmarshal(in.text, &in)
	return in, err
}

// created is an answer as the loops read it.
type created struct {
	SID     string          `json:"sid"`
	Channel json.RawMessage `json:"channel"`
	Routing struct {
		Properties struct {
			SID              string `json:"sid"`
			AssignmentStatus string `json:"assignment_status"`
			QueueName        string `json:"queue_name"`
		} `json:"properties"`
	} `json:"routing"`
}

// post makes the interaction and returns the answer, as it came and as it is read.
func (c caller) post(ctx context.Context, in incoming) (answer []byte, out created, err error) {
	form := url.Values{"Channel": {string(in.Channel)}, "Routing": {string(in.Routing)}}.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, os.Getenv(loopURL)+"/v1/Interactions", strings.NewReader(form))
	if err != nil {
		return nil, out, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth(flextest.AccountSID, flextest.AuthToken)
	res, err := c.client.Do(req)
	if err != nil {
		return nil, out, err
	}
	defer res.Body.Close()
	var body bytes.Buffer
	if _, err := body.ReadFrom(io.LimitReader(res.Body, 1<<20)); err != nil {
		return nil, out, err
	}
	if err := json.Unmarshal(body.Bytes(), &out); err != nil {
		return nil, out, err
	}
	if out.SID == "" {
		return nil, out, errors.New("no sid")
	}
	return body.Bytes(), out, nil
}

// publish sends the result without waiting for its acknowledgement.
func (c caller) publish(in incoming, out created) (jetstream.PubAckFuture, error) {
	result, err := json.Marshal(map[string]any{
		"request_id": in.RequestID, "outcome": "created", "interaction_sid": out.SID, "channel": out.Channel,
		"routing": out.Routing.Properties, "metadata": in.Metadata,
	})
	if err != nil {
		return nil, err
	}
	return c.js.PublishMsgAsync(&nats.Msg{Subject: "interactions.results.created.bench", Data: result,
		Header: nats.Header{jetstream.MsgIDHeader: {in.RequestID}}}, jetstream.WithStallWait(10*time.Second))
}
