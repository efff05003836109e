package main

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// serve runs the loops until ctx ends and stops them along the journey: taking
// events and claiming first, the Publisher last, when nobody settles any more.
// What is not over within SHUTDOWN_GRACE is left; its leases lapse and another
// worker finds them.
func (a *app) serve(ctx context.Context) {
	var taking, publishing sync.WaitGroup
	publish, endPublishing := context.WithCancel(context.WithoutCancel(ctx))
	defer endPublishing()
	taking.Go(func() { a.consumer.Run(ctx) })
	taking.Go(func() { a.dispatcher.Run(ctx) })
	taking.Go(func() { a.resolver.Run(ctx) })
	taking.Go(func() { a.upkeep.Sweep(ctx) })
	taking.Go(func() { a.upkeep.Prune(ctx) })
	taking.Go(func() { a.upkeep.Count(ctx) })
	taking.Go(func() { a.watchStream(ctx) })
	if a.senders != nil {
		taking.Go(func() { a.senders.Run(ctx) })
	}
	if a.confirmer != nil {
		taking.Go(func() { a.confirmer.Run(ctx) })
	}
	publishing.Go(func() { a.publisher.Run(publish) })

	<-ctx.Done()
	a.state.draining.Store(true)
	if err := unasked(ctx); err != nil {
		a.log.Error("this worker can do nothing more; it ends with an error, to be started anew", "error", err)
	}
	a.log.Info("stopping: no more is taken, attempts in flight are finished", "grace", a.cfg.ShutdownGrace.String())
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), a.cfg.ShutdownGrace)
	defer cancel()
	if !within(grace, &taking) {
		a.log.Warn("SHUTDOWN_GRACE is over; what is still in flight is found by another worker as leases that ran out")
	}
	endPublishing()
	// Publishing what is settled gets a moment even when the grace is used up.
	last, cancelLast := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancelLast()
	if !within(grace, &publishing) && !within(last, &publishing) {
		a.log.Warn("some results are not published yet; another worker does it")
	}
}

// within waits for the group until ctx ends and says whether it was done.
func within(ctx context.Context, group *sync.WaitGroup) bool {
	done := make(chan struct{})
	go func() { // ends with the group, at the latest with the process
		group.Wait()
		close(done)
	}()
	select {
	case <-done:
		return true
	case <-ctx.Done():
		return false
	}
}

// close gives the connections back. Acks on their way are flushed first.
func (a *app) close() {
	if a.nats != nil {
		_ = a.nats.FlushTimeout(time.Second) // NATS may be away: then nothing is left to say
		a.nats.Close()
	}
	closed := make(chan struct{})
	go func() { // waits for connections in use, which a cut-off loop may hold
		for _, pool := range []*pgxpool.Pool{a.looks, a.acts, a.asked, a.pool} {
			if pool != nil {
				pool.Close()
			}
		}
		close(closed)
	}()
	select {
	case <-closed:
	case <-time.After(time.Second):
	}
}
