package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	paceRate = 200 // requests a second
	paceFor  = 10 * time.Second
)

// measurePace is the time from a request's publishing to its result.
func (w *world) measurePace(ctx context.Context) ([]row, error) {
	p50 := row{name: "request to result at 200/s against the loop, p50", least: 3.5, aim: 2.5}
	p99 := row{name: "request to result at 200/s against the loop, p99", least: 6, aim: 3}
	for range w.rounds {
		if err := w.streams(ctx, 0); err != nil {
			return nil, err
		}
		p, err := w.loop(ctx, roleLoop)
		if err != nil {
			return nil, err
		}
		l, err := w.pace(ctx, p)
		if err != nil {
			return nil, fmt.Errorf("loop: %w", err)
		}
		k, err := w.paceWorker(ctx)
		if err != nil {
			return nil, fmt.Errorf("worker: %w", err)
		}
		for _, q := range []struct {
			row *row
			at  float64
		}{{&p50, 0.5}, {&p99, 0.99}} {
			ours, theirs := quantile(k, q.at), quantile(l, q.at)
			q.row.add(ours.Seconds()/theirs.Seconds(), fmt.Sprintf("%.1f/%.1f ms", ours.Seconds()*1e3, theirs.Seconds()*1e3))
		}
	}
	return []row{p50, p99}, nil
}

func (w *world) paceWorker(ctx context.Context) ([]time.Duration, error) {
	dsn, drop, err := w.fresh(ctx)
	if err != nil {
		return nil, err
	}
	defer drop()
	if err := w.streams(ctx, 0); err != nil {
		return nil, err
	}
	p, err := w.worker(ctx, dsn)
	if err != nil {
		return nil, err
	}
	return w.pace(ctx, p)
}

// pace publishes at an even pace and takes the time of each request.
func (w *world) pace(ctx context.Context, p *process) (took []time.Duration, err error) {
	defer func() { err = errors.Join(err, p.end()) }()
	if err := w.waits(ctx, 1); err != nil {
		return nil, err
	}
	if err := w.resume(ctx); err != nil {
		return nil, err
	}
	n := int(paceRate * paceFor.Seconds())
	if w.small {
		n = 200
	}
	sent := make([]time.Time, n)
	var mu sync.Mutex
	done := make(chan struct{})
	sub, err := w.conn.Subscribe("interactions.results.>", func(m *nats.Msg) {
		at := time.Now()
		mu.Lock()
		defer mu.Unlock()
		var i int
		if _, err := fmt.Sscanf(string(between(m.Data, `"request_id":"bench-`, `"`)), "%d", &i); err != nil || i >= n {
			return
		}
		if took = append(took, at.Sub(sent[i])); len(took) == n {
			close(done)
		}
	})
	if err != nil {
		return nil, err
	}
	defer sub.Unsubscribe() //nolint:errcheck // the connection ends with us
	if err := w.conn.Flush(); err != nil {
		return nil, err
	}
	tick := time.NewTicker(time.Second / paceRate)
	defer tick.Stop()
	for i := range n {
		<-tick.C
		mu.Lock()
		sent[i] = time.Now()
		mu.Unlock()
		if _, err := w.js.PublishAsync(requestsSubject, request(i), jetstream.WithStallWait(10*time.Second)); err != nil {
			return nil, err
		}
	}
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		return nil, fmt.Errorf("after 10 s not every one of %d requests had its result", n)
	}
	return took[n/10:], nil // the first have found everything cold
}

// between is what stands between two marks; empty when they are not there.
func between(text []byte, from, to string) []byte {
	_, rest, _ := bytes.Cut(text, []byte(from))
	inner, _, _ := bytes.Cut(rest, []byte(to))
	return inner
}

func quantile(took []time.Duration, q float64) time.Duration {
	if len(took) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(took))
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}
