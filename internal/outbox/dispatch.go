package outbox

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"flexworker/internal/batch"
	"flexworker/internal/flex"
	"flexworker/internal/loop"
	"flexworker/internal/outbox/attempt"
	"flexworker/internal/outbox/gate"
	"flexworker/internal/outbox/limiter"
	"flexworker/internal/outbox/request"
	"flexworker/internal/trouble"
)

const (
	// busyPoll and longestRest bound the rest between two claims that found less
	// than they asked for. The poll of package upkeep ends it when something is due all the same. While all that
	// is due is held locked the rest doubles, from busyPoll to idlePoll.
	busyPoll    = 20 * time.Millisecond
	longestRest = time.Minute
	// idlePoll bounds the rest while the gate is shut, Postgres is away, or all that is due is held locked.
	idlePoll = time.Second

	// permitWait and backlogWait bound how long an event is held before it is added; room says why.
	permitWait  = 50 * time.Millisecond
	backlogWait = 100 * time.Millisecond
)

// cannotClaim is what the log says of a claim that failed.
const cannotClaim = "nothing can be claimed; trying again"

// tooLate is what the log says of a lease that does not cover its call.
const tooLate = "no call is made under a lease that came too late; it is given back, and claimed again"

// creator is *flex.Client; tests put another in its place.
type creator interface {
	Create(context.Context, flex.Interaction) flex.Outcome
	Check(context.Context) flex.Outcome
}

// A Dispatcher adds the events that are handed to its Store, claims what is due, and makes one call for each
// lease. The goroutine of Run owns what waits to be added, takes the permits for calls, and knows whether rows
// that are due wait in the table.
//
// An event that comes while a permit is free and nothing that is due waits is leased by its very insert: an
// eager start. The two arrows add and claim are one statement then, and one write less. It is how nearly every
// request goes. What waits in the table comes before what is added now, by a claim.
type Dispatcher struct {
	Store       *Store
	Fleet       *gate.Registry // what is known of the other replicas; nil: this one is alone
	Flex        creator
	Policy      request.Policy
	Concurrency int           // calls in flight, at most
	Limit       time.Duration // the longest time one call may take: FLEX_TIMEOUT
	Log         *slog.Logger
	Counters    *Counters
	// Attempted is told of every attempt when it is noted: before its record or, where the answer has an
	// interaction without the request's key, after it; nil: nobody.
	Attempted func(Attempt)

	permits  *limiter.Limiter
	workers  *workers
	breaker  gate.Breaker
	changing sync.Mutex // one change of the breaker at a time leads to what follows
	creates  gate.Progress
	stops    stopLog      // of the breaker
	gate     atomic.Value // gate.State of the latest claim
	created  atomic.Int64 // when an interaction was last created: Unix time in ns; 0: never

	claimTrouble trouble.Trouble
	lateTrouble  trouble.Trouble // of leases
	heldRest     time.Duration   // the rest after the latest claim that was held; only claim uses it

	quiet loop.Signal // tests: nothing is under way and no backlog is known; nil: nobody is told
	dispatching
}

// dispatching is what the goroutine of Run knows, and nobody else reads.
type dispatching struct {
	// backlog: requests that are due may wait in the table. True until a claim has found none left; what
	// other replicas add, or falls due, after that is not known before the next claim.
	backlog bool

	// heldSince is since when the first of the events that wait could have been added; zero: none waits.
	heldSince   time.Time
	inserting   bool
	inserts     chan insertion
	insertEnded chan insertEnd

	// No claim begins before restsUntil. What is due earlier ends the rest, unless the rest is deaf.
	restsUntil time.Time
	deaf       bool
	claiming   bool     // a claim, or a read in its place, is under way
	missed     bool     // an insert has left due requests meanwhile, which the claim may not have seen
	claims     chan int // with so many permits; 0: a read in its place
	claimEnded chan claimEnd
}

// An insertion is events to add, and how many of them may be leased.
type insertion struct {
	events  batch.Batch[request.Event, Added]
	permits int
}

// insertEnd is what an insert leaves to the loop.
type insertEnd struct {
	dueLeft bool // requests that are due were added without a lease
}

// claimEnd is what a claim leaves to the loop.
type claimEnd struct {
	unread  bool // no claim was made, or it failed: nothing is known of a backlog
	backlog bool
	rest    time.Duration
	deaf    bool
}

// Attempt is what is told about one attempt, in metrics and in a trace.
type Attempt struct {
	Lease   attempt.Lease
	Outcome flex.Outcome
}

// Run dispatches until ctx ends, and returns when every call that was begun has ended and its outcome
// is recorded, or given up. From then on what is added is pending.
func (d *Dispatcher) Run(ctx context.Context) {
	d.prepare(ctx)
	var running sync.WaitGroup
	running.Go(func() {
		for i := range d.inserts {
			d.insertEnded <- d.insert(context.WithoutCancel(ctx), i)
		}
	})
	running.Go(func() {
		for permits := range d.claims {
			d.claimEnded <- d.claim(ctx, permits)
		}
	})
	running.Go(func() { d.reclaiming(ctx) })

	d.loop(ctx)

	close(d.inserts)
	close(d.claims)
	running.Wait()    // from here on nothing leases
	d.reclaim(ctx, 0) // once more: what is in doubt then lapses
	d.workers.end()
}

// prepare makes what Run needs. Tests that play a part of Run begin with it.
func (d *Dispatcher) prepare(ctx context.Context) {
	d.permits = limiter.New(d.Concurrency)
	d.workers = newWorkers(d.Concurrency, func(l attempt.Lease) { d.deliver(ctx, l) })
	d.breaker.PeerStopped = d.Fleet.PeerUnreachable
	d.dispatching = dispatching{
		backlog: true,
		inserts: make(chan insertion), insertEnded: make(chan insertEnd, 1),
		claims: make(chan int), claimEnded: make(chan claimEnd, 1),
	}
}

// loop starts what can be started, and waits until that may be more.
func (d *Dispatcher) loop(ctx context.Context) {
	adds := d.Store.adds.Attend()
	defer d.Store.adds.Leave()
	alarm := time.NewTimer(0)
	defer alarm.Stop()
	for ctx.Err() == nil {
		if now := time.Now(); d.backlog {
			d.startClaim(now)
			d.startInsert(now)
		} else {
			d.startInsert(now)
			d.startClaim(now)
		}
		if d.quiet != nil && !d.backlog && !d.claiming && !d.inserting && !d.claimWaits() {
			d.quiet.Raise()
		}
		alarm.Reset(d.wakesIn(time.Now()))
		select {
		case <-when(!d.inserting && !d.holds(), adds):
		case <-when(d.holds() || d.claimWaits(), d.permits.Freed):
		case <-when(!d.claiming && !d.deaf, d.Store.Due):
			d.restsUntil = time.Time{}
		case i := <-d.insertEnded:
			d.insertEnds(i)
		case c := <-d.claimEnded:
			d.claimEnds(c, time.Now())
		case <-alarm.C:
		case <-ctx.Done():
		}
	}
}

// when is s while ready, else a signal that is never raised.
func when(ready bool, s <-chan struct{}) <-chan struct{} {
	if ready {
		return s
	}
	return nil
}

// holds says whether events wait for a permit or a claim.
func (d *Dispatcher) holds() bool { return !d.heldSince.IsZero() }

// claimWaits says whether a claim waits for a permit.
func (d *Dispatcher) claimWaits() bool { return !d.claiming && !time.Now().Before(d.restsUntil) }

// wakesIn is how long the loop may wait for a signal.
func (d *Dispatcher) wakesIn(now time.Time) time.Duration {
	in := longestRest
	if !d.claiming && now.Before(d.restsUntil) {
		in = min(in, d.restsUntil.Sub(now))
	}
	if d.holds() {
		most := permitWait
		if d.backlog {
			most = backlogWait
		}
		in = min(in, d.heldSince.Add(most).Sub(now))
	}
	return max(in, 0)
}

// startInsert starts to add those who wait, as many as there is room for. One insert is under way at a time:
// what comes meanwhile is the next.
func (d *Dispatcher) startInsert(now time.Time) {
	waiting := min(d.Store.adds.Waiting(), batchSize)
	if d.inserting || waiting == 0 {
		d.heldSince = time.Time{} // nothing waits, or an insert is under way
		return
	}
	if !d.holds() {
		d.heldSince = now
	}
	n, permits := d.room(waiting, now.Sub(d.heldSince))
	if n == 0 {
		return
	}
	d.heldSince, d.inserting = time.Time{}, true
	events := d.Store.adds.Take(n)
	d.inserts <- insertion{events, d.permits.Take(min(permits, events.Len()))}
}

// room is how many of those who wait, and were held for so long, are added now, and how many permits
// the insert may have. It is the one place where an event is held:
//
//   - For a permit, up to permitWait: what is leased by its insert costs a write less. One alone never
//     waits while a permit is free. Where many wait, half of all permits have to be free, since a
//     statement costs as much as ten of its rows. Where a permit is further away all of them are added, and
//     wait in the table.
//   - Behind a backlog, up to backlogWait, so that a backlog which can be worked off is, before it grows.
//     Each second a replica still takes ten batches, or ten times what it may have in hand where that is less.
//
// A replica that is stopped, or tries one call, adds all at once and leases nothing by it.
func (d *Dispatcher) room(waiting int, held time.Duration) (n, permits int) {
	if !d.breaker.IsClosed() {
		return waiting, 0
	}
	free, of := d.permits.Free()
	enough := min(waiting, max(of/2, 1))
	switch {
	case d.backlog && held < backlogWait, !d.backlog && free < enough && held < permitWait:
		return 0, 0
	case d.backlog || free == 0:
		return waiting, 0
	default:
		n = min(waiting, free)
		return n, n
	}
}

// insert adds events and begins the calls of those that it has leased. It never waits for the gate's row.
func (d *Dispatcher) insert(ctx context.Context, i insertion) (end insertEnd) {
	permits, unwritten := i.permits, i.events.Len()
	i.events.Write(ctx, func(ctx context.Context, some []request.Event) ([]Added, error) {
		return d.Store.addLeasing(ctx, some, permits, func(leases []attempt.Lease, dueLeft bool) {
			for _, l := range leases {
				d.workers.begin(l)
			}
			end.dueLeft = end.dueLeft || dueLeft
			// Where one event's data is at fault the batch is written in parts: the next may have what is left.
			unwritten -= len(some)
			left := permits - len(leases)
			permits = max(min(left, unwritten), 0)
			d.permits.Give(left - permits)
		})
	})
	d.permits.Give(permits)
	return end
}

func (d *Dispatcher) insertEnds(i insertEnd) {
	d.inserting = false
	if i.dueLeft {
		d.backlog, d.missed = true, true
	}
}

// startClaim starts a claim with all permits that are free, before it is known how many it needs. While this
// replica is stopped a read takes its place. Both may wait for long: for the gate's row, for Flex. So they have
// a goroutine of their own, and no insert waits for it.
func (d *Dispatcher) startClaim(now time.Time) {
	if !d.claimWaits() {
		return
	}
	if in, stopped := d.breaker.AsksIn(now); stopped {
		d.Store.claimStall.GoesOn(now) // nothing is claimed, and the breaker says why
		d.Store.leaseStall.GoesOn(now)
		if in > 0 {
			d.restsUntil, d.deaf = now.Add(in), true
			return
		}
		d.claiming = true
		d.claims <- 0
		return
	}
	permits := d.permits.Take(d.Concurrency)
	if permits == 0 {
		d.deaf = true // Due changes nothing
		return
	}
	d.claiming, d.missed = true, false
	d.claims <- permits
}

// claim claims what is due and begins its calls. Without permits it asks Flex whether this replica can go on.
func (d *Dispatcher) claim(ctx context.Context, permits int) claimEnd {
	if permits == 0 {
		d.ask(ctx)
		return claimEnd{unread: true}
	}
	avoid, one := d.breaker.Avoid()
	began := time.Now()
	c, err := d.Store.claim(ctx, permits, avoid...)
	d.permits.Give(permits - len(c.leases))
	if err != nil {
		d.claimFailed(ctx, began, err)
		if one {
			d.changed(d.breaker.ClaimFailed(time.Now()))
		}
		return claimEnd{unread: true, rest: loop.Jittered(idlePoll), deaf: true}
	}
	d.claimTrouble.Tell(d.Log, cannotClaim, nil)
	d.gate.Store(c.gate)
	for _, l := range c.leases {
		d.workers.begin(l)
	}
	switch {
	case c.held: // for a moment, or for hours: each claim locks the gate's row where there is a rate
		d.heldRest = min(max(2*d.heldRest, busyPoll), idlePoll)
	case c.drained || len(c.leases) > 0:
		d.heldRest = 0
	}
	end := claimEnd{backlog: !c.drained || len(avoid) > 0}
	switch {
	case c.gate == gate.Held || c.gate == gate.Paused:
		d.changed(d.breaker.GateShut(time.Now()))
		end.rest, end.deaf = loop.Jittered(c.rest), true
	case one && c.drained && len(c.leases) == 0:
		d.changed(d.breaker.NothingDue(time.Now()))
	case len(c.leases) == permits:
		// There may be more; the next claim waits for a permit.
	case c.gate == gate.Limited:
		end.rest, end.deaf = c.rest, true
	case c.held:
		end.rest = d.heldRest
	default:
		end.rest = c.rest
	}
	return end
}

func (d *Dispatcher) claimEnds(c claimEnd, now time.Time) {
	d.claiming, d.restsUntil, d.deaf = false, now.Add(c.rest), c.deaf
	if !c.unread {
		d.backlog = c.backlog || d.missed
	}
}
