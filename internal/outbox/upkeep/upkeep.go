/*
Package upkeep moves what time alone moves, and removes what is old. Every replica runs all of it; replicas skip each other's
rows.

	Poll    asks in one statement whether anything waits for any loop of this process, and wakes
	        those loops; renews the worker's row of outbox_replicas                               (poll.go)
	Sweep   lapse: sending -> uncertain. expire: pending -> expired, or uncertain where an
	        earlier attempt is undecided                                                          (sweep.go)
	        sets right what the database's clock had said before it went back                     (clock.go)
	Prune   removes requests, malformed messages and conflicts past RETENTION, and idempotency
	        keys after 24 h, one replica of the fleet at a time                                   (prune.go)
	Count   writes what settled in each minute to outbox_minutes, one replica at a time           (count.go)

A worker that starts makes its poll at once. All else here begins later: a new connection costs Postgres more than most of these
statements (docs/benchmarks.md), and by then the pool has one. The poll says which loop has something to do.

The signals between loops are faster than the poll and may be lost with their process. Correctness rests on the poll.
Package upkeep makes no call to Flex and decides nothing about an outcome.
*/
package upkeep

import (
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"flexworker/internal/database"
	"flexworker/internal/loop"
	"flexworker/internal/outbox/gate"
	"flexworker/internal/outbox/results"
	"flexworker/internal/trouble"
)

// Upkeep has four loops, Poll, Sweep, Prune and Count, and their statements. New makes one; the exported fields are set before a
// loop runs.
type Upkeep struct {
	// Retention is RETENTION: settled and published rows older than this are removed; 0: never.
	Retention time.Duration
	// Registry is renewed with each poll; nil: this process is no worker of a fleet.
	Registry *gate.Registry
	// Results is where Lapse and Expire offer the results that they owe, and what Poll wakes when results wait. It must be set.
	Results *results.Outgoing
	// Due is raised when a request may be due, Uncertain when a lookup may be; nil: nobody is woken.
	Due, Uncertain loop.Signal
	Log            *slog.Logger

	// WentBack is raised by whoever notices that the database's clock went back.
	WentBack loop.Signal
	// Overdue is raised by Poll when a lease or a deadline has passed.
	Overdue loop.Signal
	// Counters count what this process moved and removed.
	Counters Counters

	pool     *pgxpool.Pool
	leaseFor time.Duration
	wary     database.Wary // of outbox_malformed, outbox_repeats and outbox_setups

	polls, renewals, lapses, expiries gate.Stall

	polling, renewing, lapsing, expiring, setting, removing, counting trouble.Trouble
}

// Counters count requests since this process started. The zero value is ready.
type Counters struct{ Lapsed, Expired, Pruned atomic.Int64 }

// Stalled says what of the upkeep Postgres has not let through for after or longer; "": all goes on, or nothing is to be done.
func (u *Upkeep) Stalled(after time.Duration) string {
	return gate.Stalled(after,
		gate.Stalling{What: "the table could not be looked at", Stall: &u.polls},
		gate.Stalling{What: "no lease that ran out could be ended", Stall: &u.lapses},
		gate.Stalling{What: "no request could expire", Stall: &u.expiries},
		gate.Stalling{What: "this worker's row of outbox_replicas could not be renewed", Stall: &u.renewals})
}

// New gives an Upkeep of the tables in pool. leaseFor is how long a lease lasts that this process takes.
func New(pool *pgxpool.Pool, leaseFor time.Duration) *Upkeep {
	return &Upkeep{pool: pool, leaseFor: leaseFor, WentBack: loop.NewSignal(), Overdue: loop.NewSignal()}
}
