package main

import (
	"context"
	"time"

	"flexworker/internal/loop"
	"flexworker/internal/outbox/operator"
	"flexworker/internal/trouble"
)

// What a scrape shows is read here, so that no scrape waits for a server, and none reads a table.
const (
	// countEvery is the time between two counts of the backlog, and of the messages that wait in the stream. A count
	// older than countLimit is not shown.
	countEvery = 15 * time.Second
	countLimit = 3 * countEvery
	// standingEvery is how old this replica's word may become until it is asked for the metrics' sake. Usually the poll
	// asks for it, far more often. standingLimit is how old the word, the gate, and what is known of the fleet may be to
	// be shown: as long as a worker counts as living after it was last seen.
	standingEvery = 5 * time.Second
	standingLimit = 15 * time.Second
	// watchFirst is how long after the start all of this begins. At once, each would open a connection to Postgres of its own; by
	// then the pool has one.
	watchFirst = 2 * time.Second
)

// watchStanding keeps this replica's word fresh until ctx ends, also while nobody else asks for it: before the poll has begun,
// while Postgres is away and the poll fails, and while the worker drains.
func (a *app) watchStanding(ctx context.Context) {
	every(ctx, standingEvery, func() {
		if _, fresh := a.state.word.fresh(time.Now(), standingEvery); !fresh {
			a.standing(ctx)
		}
	})
}

// watchBacklog counts the backlog now and then until ctx ends.
func (a *app) watchBacklog(ctx context.Context) {
	var counting trouble.Trouble
	every(ctx, countEvery, func() {
		backlog, err := operator.NewDesk(a.pool, operator.Caller{Right: operator.MayLook}, nil).Backlog(ctx)
		if ctx.Err() == nil {
			counting.Tell(a.log, "the backlog cannot be counted; its metrics are left out until it can", err)
		}
		if err == nil {
			a.state.metrics.backlog.set(backlog)
		}
	})
}

// watchStream counts the messages that wait in the request stream, now and then until ctx ends. Why NATS cannot be asked is said
// by those who need it more.
func (a *app) watchStream(ctx context.Context) {
	every(ctx, countEvery, func() {
		pending, err := a.consumer.Pending(ctx)
		if err != nil {
			a.log.Debug("what waits in the request stream cannot be counted; its metric is left out until it can", "error", err)
			return
		}
		a.state.metrics.pending.set(pending)
	})
}

// every calls do after watchFirst, and then with this time between two beginnings, until ctx ends.
func every(ctx context.Context, d time.Duration, do func()) {
	loop.Rest(ctx, loop.Jittered(watchFirst), nil)
	if ctx.Err() != nil {
		return
	}
	tick := time.NewTicker(d)
	defer tick.Stop()
	for {
		do()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
