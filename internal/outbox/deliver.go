package outbox

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"flexworker/internal/database"
	"flexworker/internal/flex"
	"flexworker/internal/loop"
	"flexworker/internal/outbox/gate"
	"flexworker/internal/outbox/request"
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

// claimTrouble is said of a claim that failed.
const claimTrouble = "nothing can be claimed; trying again"

// creator is *flex.Client; tests put another in its place.
type creator interface {
	Create(context.Context, flex.Interaction) flex.Outcome
	Check(context.Context) flex.Outcome
}

// Deliverer claims what is due and makes one call for each lease.
type Deliverer struct {
	Store    *Store
	Fleet    *gate.Registry // what is known of the other replicas; nil: this one is alone
	Flex     creator
	Policy   request.Policy
	Slots    int           // calls in flight, at most
	Limit    time.Duration // the longest time one call may take: FLEX_TIMEOUT
	Log      *slog.Logger
	Counters *Counters
	// Attempted is told of every attempt once its outcome is known, before it
	// is recorded; nil: nobody.
	Attempted func(Attempt)

	slots    *slots
	breaker  gate.Breaker
	creates  gate.Progress
	said     time.Time    // when it was last logged that this replica is stopped; of the loop alone
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
	d.slots.barred = func() bool { return !d.breaker.IsClosed() }
	d.breaker.PeerStopped = d.Fleet.PeerUnreachable
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
	if in, stopped := d.breaker.AsksIn(time.Now()); stopped {
		d.Store.claims.GoesOn(time.Now()) // nothing is claimed, and the breaker says why
		if in > 0 {
			loop.Rest(ctx, min(in, idlePoll), nil) // and takes back meanwhile
		} else {
			d.ask(ctx)
		}
		return
	}
	free := d.slots.takeFree()
	if free == 0 {
		loop.Rest(ctx, loop.Jittered(idlePoll), d.slots.freed)
		return
	}
	avoid, one := d.breaker.Avoid()
	began := time.Now()
	c, err := d.Store.claim(ctx, free, avoid...)
	for range free - len(c.leases) {
		d.slots.give()
	}
	if err != nil {
		d.claimFailed(ctx, began, err)
		if one {
			d.turned(d.breaker.ClaimFailed(time.Now()))
		}
		loop.Rest(ctx, loop.Jittered(idlePoll), nil)
		return
	}
	d.claiming.Tell(d.Log, claimTrouble, nil)
	d.gate.Store(c.gate)
	for _, l := range c.leases {
		begin(l)
	}
	d.slots.setBacklog(!c.drained || len(avoid) > 0)
	switch {
	case c.gate == gate.Held || c.gate == gate.Paused:
		d.turned(d.breaker.GateShut(time.Now()))
		loop.Rest(ctx, loop.Jittered(c.rest), nil)
	case one && c.drained && len(c.leases) == 0:
		d.turned(d.breaker.NothingDue(time.Now()))
	case len(c.leases) == free:
		// There may be more; the next turn waits for a slot.
	case c.gate == gate.Limited:
		loop.Rest(ctx, c.rest, nil)
	default:
		if d.Store.untold.any() {
			c.rest = min(c.rest, idlePoll)
		}
		loop.Rest(ctx, c.rest, d.Store.Due)
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
func (d *Deliverer) Gate() gate.State {
	if g, ok := d.gate.Load().(gate.State); ok {
		return g
	}
	return gate.Open
}

// AskFirst has Run begin stopped, until a read has succeeded: a new replica with a bad
// secret is never ready, so that a rollout stops at it.
func (d *Deliverer) AskFirst() { d.breaker.AskFirst() }

// ask finds out, by a read that creates nothing, whether this replica can go on.
func (d *Deliverer) ask(ctx context.Context) {
	o := d.Flex.Check(ctx)
	switch {
	case ctx.Err() != nil: // it was cut, and says nothing
	case d.breaker.Asked(o, time.Now()):
		if !d.breaker.IsClosed() {
			d.slots.restart()
			d.Log.Info("Flex can be read again; one call is tried")
		}
	case time.Since(d.said) >= time.Minute: // the trouble goes on: a line a minute
		d.said = time.Now()
		word, reason, _ := d.breaker.Stopped()
		d.Log.Warn("this replica is stopped: Flex cannot be read", "state", string(word), "reason", reason)
	}
}

// turned does what follows when the breaker has turned from one state to another.
func (d *Deliverer) turned(was, is gate.BreakerState) {
	if was == is {
		return
	}
	switch word, reason, _ := d.breaker.Stopped(); {
	case is == gate.BreakerOpen:
		d.slots.restart()
		d.Log.Warn("this replica is stopped; it asks every two seconds, by a read, whether it can go on", "state", string(word), "reason", reason)
	case is == gate.BreakerChoosing:
		d.slots.choose()
		d.Log.Info("calls of one source and workspace have failed in a row; another's is tried before this replica stops")
	case is == gate.BreakerClosed && was == gate.BreakerTrying:
		d.Log.Info("this replica goes on")
	case was == gate.BreakerChoosing:
		d.slots.chosen()
	}
	d.Store.Due.Raise()
}

// Stopped is why this replica makes no calls but one to try; ok is false when it does.
func (d *Deliverer) Stopped() (word gate.Word, reason string, ok bool) { return d.breaker.Stopped() }

// Yields says whether this replica leaves messages to the others: it is stopped, and
// another is not. When all are stopped each still stores what comes.
func (d *Deliverer) Yields() bool { return !d.breaker.Works() && d.Fleet.PeerWorks() }

// MayLookUp says whether this replica may ask TaskRouter: not without credentials, and
// not when it is stopped while another is not. A lookup that fails postpones the next.
func (d *Deliverer) MayLookUp() bool {
	word, _, stopped := d.breaker.Stopped()
	return d.breaker.Works() || (!stopped || word != gate.WordUnauthorized) && !d.Fleet.PeerWorks()
}

// seen takes what a create call has brought. A refusal that may be one tenant's says
// nothing about the others.
func (d *Deliverer) seen(o flex.Outcome, now time.Time) {
	switch {
	case o.Kind == flex.Created:
		d.creates.Succeeded(now)
		d.created.Store(now.UnixNano())
	case o.Kind == flex.Rejected: // Flex has decided
		d.creates.Succeeded(now)
	case flex.MayBeOneTenants(o):
	case o.ErrorKind == "timeout":
		d.creates.Failed(fmt.Sprintf("no answer within FLEX_TIMEOUT, %v: %s", d.Limit, o.Message), now)
	default:
		d.creates.Failed(o.Message, now)
	}
}

// Failing says why nothing succeeds although calls are made; "": it does, or none is made.
func (d *Deliverer) Failing() string {
	if why := d.breaker.Failing(); why != "" {
		return "creates fail, though Flex can be read: " + why
	}
	if why := d.creates.Failing(2, gate.FailingAfter, 2*gate.FailingAfter, time.Now()); why != "" {
		return "no create call succeeds: " + why
	}
	return ""
}

// Stalled says why Postgres, which may answer every read, does not let this replica work; "": it
// does, or nothing is tried.
func (d *Deliverer) Stalled() string { return d.stalled(gate.StalledAfter) }

func (d *Deliverer) stalled(after time.Duration) string {
	now := time.Now()
	if lasts, why := d.Store.claims.Lasts(now); lasts >= after {
		return fmt.Sprintf("nothing could be claimed for %v: %s", lasts.Round(time.Second), why)
	}
	if lasts, why := d.Store.stores.Lasts(now); lasts >= after {
		return fmt.Sprintf("no message could be stored for %v: %s", lasts.Round(time.Second), why)
	}
	return ""
}

// claimFailed notes that nothing could be claimed, and says it. Where nothing is due nobody misses it.
func (d *Deliverer) claimFailed(ctx context.Context, began time.Time, err error) {
	why, more := err.Error(), []any(nil)
	if held := database.WhoHolds(ctx, d.Store.pool, time.Since(began), err); held != "" {
		why, more = held, []any{"held_by", held}
	}
	d.claiming.Tell(d.Log, claimTrouble, err, more...)
	if d.Store.anyDue(ctx) {
		d.Store.claims.Failed(began, why)
	} else {
		d.Store.claims.GoesOn(time.Now())
	}
}
