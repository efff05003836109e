package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"flexworker/internal/testing/flextest"
)

// Of several replicas, each with the default concurrency.
const (
	fleetSlots   = 16
	fleetLatency = 100 * time.Millisecond
)

// burnFleet burns down with so many replicas against a slow endpoint. The
// backlog grows with the fleet, so that each run takes about as long.
func (w *world) burnFleet(ctx context.Context, replicas int) (_ burn, err error) {
	dsn, drop, err := w.fresh(ctx)
	if err != nil {
		return burn{}, err
	}
	defer drop()
	if err := w.flex.Set(ctx, flextest.Settings{Latency: fleetLatency}); err != nil {
		return burn{}, err
	}
	defer func() {
		if at := w.flex.Set(context.WithoutCancel(ctx), flextest.Settings{}); err == nil {
			err = at
		}
	}()
	each := 1600
	if w.small {
		each = 100
	}
	return w.burnWorkers(ctx, dsn, replicas, each*replicas, fmt.Sprintf("FLEX_CONCURRENCY=%d", fleetSlots))
}

func (w *world) measureFleet(ctx context.Context) ([]row, error) {
	r := row{name: "four replicas against one, 100 ms endpoint, a backlog", least: 3.6, aim: 3.9, more: true}
	for range w.rounds {
		one, err := w.burnFleet(ctx, 1)
		if err != nil {
			return nil, err
		}
		four, err := w.burnFleet(ctx, 4)
		if err != nil {
			return nil, err
		}
		r.add(four.rate()/one.rate(), fmt.Sprintf("%.0f/%.0f a second", four.rate(), one.rate()))
	}
	return []row{r}, nil
}

const (
	gateRate  = 50
	gateBurst = 1 + gateRate/10 // what outbox_gate lets through at once: README
)

// measureRate lets four replicas work under one rate and reads at the endpoint
// what came of it.
func (w *world) measureRate(ctx context.Context) ([]row, error) {
	used := row{name: "FLEX_RATE=50, four replicas: share of the rate used", least: 0.97, aim: 0.99, more: true}
	over := row{name: "the same: calls over the rate and its burst, any second"}
	for range w.rounds {
		share, most, err := w.rate(ctx)
		if err != nil {
			return nil, err
		}
		used.add(share, "")
		over.add(float64(max(0, most-gateRate-gateBurst)), fmt.Sprintf("at most %d in a second", most))
	}
	return []row{used, over}, nil
}

func (w *world) rate(ctx context.Context) (share float64, most int, err error) {
	dsn, drop, err := w.fresh(ctx)
	if err != nil {
		return 0, 0, err
	}
	defer drop()
	seconds := 20
	if w.small {
		seconds = 3
	}
	before, err := w.created(ctx)
	if err != nil {
		return 0, 0, err
	}
	if _, err := w.burnWorkers(ctx, dsn, 4, (seconds+2)*gateRate, fmt.Sprintf("FLEX_RATE=%d", gateRate), fmt.Sprintf("FLEX_CONCURRENCY=%d", fleetSlots)); err != nil {
		return 0, 0, err
	}
	var seen []time.Time
	if err := w.flex.Ledger(ctx, before, func(e flextest.Entry) error {
		seen = append(seen, e.At)
		return nil
	}); err != nil {
		return 0, 0, err
	}
	if len(seen) == 0 {
		return 0, 0, errors.New("the endpoint has seen no call")
	}
	from := seen[0].Add(time.Second)
	to := from.Add(time.Duration(seconds) * time.Second)
	calls := 0
	for i, at := range seen {
		if at.After(from) && !at.After(to) {
			calls++
		}
		window := 0
		for _, later := range seen[i:] {
			if later.Sub(at) < time.Second {
				window++
			}
		}
		most = max(most, window)
	}
	return float64(calls) / float64(seconds*gateRate), most, nil
}
