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

	"flexworker/internal/flex/flextest"
)

// loopURL is where the loop finds the endpoint.
const loopURL = "BENCH_LOOP_FLEX_URL"

// loop is the toy: it takes a message, posts it, publishes what came and acks.
// It keeps nothing, knows no limits and calls people twice. It is written as
// fast as that can be written without being strange: one client, connections
// kept, as many calls in flight as the worker may have, results published
// without waiting for each.
func loop(ctx context.Context) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM)
	defer stop()
	n, err := strconv.Atoi(os.Getenv("FLEX_CONCURRENCY"))
	if err != nil {
		return err
	}
	conn, err := nats.Connect(os.Getenv("NATS_URL"))
	if err != nil {
		return err
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		return err
	}
	consumer, err := js.Consumer(ctx, requestsStream, consumerName)
	if err != nil {
		return err
	}
	transport := &http.Transport{MaxIdleConnsPerHost: n, MaxConnsPerHost: n, DisableCompression: true}
	client := &http.Client{Transport: transport, Timeout: 15 * time.Second}
	slots := make(chan struct{}, n)
	consuming, err := consumer.Consume(func(m jetstream.Msg) {
		slots <- struct{}{}
		go func() {
			defer func() { <-slots }()
			if err := carry(ctx, client, js, m); err != nil {
				fmt.Fprintln(os.Stderr, "loop:", err)
			}
		}()
	}, jetstream.PullMaxMessages(4*n))
	if err != nil {
		return err
	}
	<-ctx.Done()
	consuming.Stop()
	return nil
}

// carry makes one interaction and one result of a message.
func carry(ctx context.Context, client *http.Client, js jetstream.JetStream, m jetstream.Msg) error {
	var in struct {
		RequestID string          `json:"request_id"`
		Channel   json.RawMessage `json:"channel"`
		Routing   json.RawMessage `json:"routing"`
		Metadata  json.RawMessage `json:"metadata"`
	}
	if err := json.Unmarshal(m.Data(), &in); err != nil {
		return err
	}
	form := url.Values{"Channel": {string(in.Channel)}, "Routing": {string(in.Routing)}}.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, os.Getenv(loopURL)+"/v1/Interactions", strings.NewReader(form))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth(flextest.AccountSID, flextest.AuthToken)
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	var body bytes.Buffer
	if _, err := body.ReadFrom(io.LimitReader(res.Body, 1<<20)); err != nil {
		return err
	}
	var out struct {
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
	if err := json.Unmarshal(body.Bytes(), &out); err != nil {
		return err
	}
	if out.SID == "" {
		return errors.New("no sid")
	}
	result, err := json.Marshal(map[string]any{
		"request_id": in.RequestID, "outcome": "created", "interaction_sid": out.SID, "channel": out.Channel,
		"routing": out.Routing.Properties, "metadata": in.Metadata,
	})
	if err != nil {
		return err
	}
	if _, err := js.PublishMsgAsync(&nats.Msg{Subject: "interactions.results.created.bench", Data: result,
		Header: nats.Header{jetstream.MsgIDHeader: {in.RequestID}}}, jetstream.WithStallWait(10*time.Second)); err != nil {
		return err
	}
	return m.Ack()
}
