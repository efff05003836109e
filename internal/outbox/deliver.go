package outbox

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"flexworker/internal/flex"
	"flexworker/internal/trouble"
)

const (
	// busyPoll and longestRest bound the rest between two claims that found less
	// than they asked for. The Lookout ends it when something is due all the same.
	busyPoll    = 20 * time.Millisecond
	longestRest = time.Minute
	// idlePoll bounds the rest while the gate is shut or Postgres is away.
	idlePoll = time.Second
)

// creator is *flex.Client; tests put another in its place.
type creator interface {
	Create(context.Context, flex.Interaction) flex.Outcome
	Check(context.Context) flex.Outcome
}

// Deliverer claims what is due and makes one call for each lease.
type Deliverer struct {
	Store    *Store
	Flex     creator
	Policy   Policy
	Slots    int           // calls in flight, at most
	Limit    time.Duration // the longest time one call may take: FLEX_TIMEOUT
	Log      *slog.Logger
	Counters *Counters
	// Attempted is told of every attempt once its outcome is known, before it
	// is recorded; nil: nobody.
	Attempted func(Attempt)

	slots    *slots
	streaks  streaks
	gate     atomic.Value // GateState of the latest claim
	claiming trouble.Trouble
	created  atomic.Int64 // when an interaction was last created: Unix time in ns; 0: never
}

// Attempt is what is told about one attempt, in metrics and in a trace.
type Attempt struct {
	Lease   Lease
	Outcome flex.Outcome
}

// Run claims and delivers until ctx ends, and returns when every call that was
// begun has ended and its outcome is recorded, or given up.
func (d *Deliverer) Run(ctx context.Context) {
	d.slots = newSlots(d.Slots)
	crew := newCrew(d.Slots, func(l Lease) { d.deliver(ctx, l) })
	d.Store.shortcut.open(d.slots, crew.begin)
	for ctx.Err() == nil {
		d.turn(ctx, crew.begin)
	}
	d.Store.shortcut.close() // from here on no insert leases
	d.takeBack(ctx, 0)       // once more: what is untold then lapses
	crew.end()
}

// turn claims once, begins what it has leased, and rests for as long as that says.
func (d *Deliverer) turn(ctx context.Context, begin func(Lease)) {
	d.takeBack(ctx, idlePoll)
	free := d.slots.takeFree()
	if free == 0 {
		wait(ctx, idlePoll, d.slots.freed)
		return
	}
	c, err := d.Store.claim(ctx, free)
	for range free - len(c.leases) {
		d.slots.give()
	}
	d.claiming.Tell(d.Log, "nothing can be claimed; trying again", err)
	if err != nil {
		wait(ctx, idlePoll, nil)
		return
	}
	d.gate.Store(c.gate)
	for _, l := range c.leases {
		begin(l)
	}
	d.slots.setBacklog(!c.drained)
	switch {
	case c.gate == GateHeld || c.gate == GatePaused:
		if c.probed {
			d.slots.restart()
			d.probe(ctx)
		}
		wait(ctx, c.rest, nil)
	case len(c.leases) == free:
		// There may be more; the next turn waits for a slot.
	case c.gate == GateLimited:
		wait(ctx, c.rest, nil)
	default:
		if d.Store.untold.any() {
			c.rest = min(c.rest, idlePoll)
		}
		wait(ctx, c.rest, d.Store.due)
	}
}

// takeBack takes back what was leased and not told of: no call was made under it.
// It does nothing when it was tried less than every ago.
func (d *Deliverer) takeBack(ctx context.Context, every time.Duration) {
	asked := d.Store.untold.next(time.Now(), every)
	if len(asked) == 0 {
		return
	}
	moved, done, held, err := d.Store.takeBack(ctx, asked)
	switch {
	case Away(err):
		// As it was for the statement that failed. The next claim says why.
	case err != nil:
		d.Log.Error("what was leased without an answer cannot be taken back; it lapses", "error", err)
		d.Store.untold.forget(asked)
	default:
		d.Store.untold.told(asked, done, held, time.Now())
	}
	if moved > 0 {
		d.Log.Info("what was leased without an answer is taken back", "requests", moved)
		d.Counters.PutBack.Add(int64(moved))
	}
}

// LastCreated is when this process last created an interaction; zero: never.
func (d *Deliverer) LastCreated() time.Time {
	if at := d.created.Load(); at != 0 {
		return time.Unix(0, at)
	}
	return time.Time{}
}

// Gate is why the latest claim brought no more; GateOpen when the gate was not
// the reason.
func (d *Deliverer) Gate() GateState {
	if g, ok := d.gate.Load().(GateState); ok {
		return g
	}
	return GateOpen
}

// probe asks, when it is this replica's turn, whether Flex can be used again.
func (d *Deliverer) probe(ctx context.Context) {
	seen, mine, err := d.Store.takeProbe(ctx)
	if err != nil || !mine {
		return // no turn, or Postgres is away: then the next claim says so
	}
	o := d.Flex.Check(ctx)
	if ctx.Err() != nil {
		return // it was cut, and says nothing
	}
	if o.Kind != flex.Created && o.Kind != flex.Rejected {
		d.Log.Warn("Flex cannot be used yet; nothing is sent", "outcome", o.Kind.String(), "http_status", o.HTTPStatus, "error", o.Message)
		return
	}
	switch opened, err := d.Store.reopen(ctx, seen); {
	case err != nil:
		d.Log.Warn("the gate could not be opened; trying again", "error", err)
	case opened:
		d.Log.Info("Flex can be used again; the gate is open")
	default:
		d.Log.Info("Flex could be used, but the gate was shut or opened by others meanwhile")
	}
}

// wait rests until the time is over, a signal comes or ctx ends.
func wait(ctx context.Context, d time.Duration, s <-chan struct{}) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	case <-s:
	}
}
