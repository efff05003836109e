package outbox

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v4"

	"flexworker/internal/crash"
	"flexworker/internal/flex"
	"flexworker/internal/rawjson"
)

const (
	// busyPoll and longestRest bound the rest between two claims that found less
	// than they asked for. The Lookout ends it when something is due all the same.
	busyPoll    = 20 * time.Millisecond
	longestRest = time.Minute
	// idlePoll bounds the rest while the gate is shut or Postgres is away.
	idlePoll = time.Second
	// recordLimit is how long a known outcome is tried to be recorded while
	// Postgres is away. What is given up then is in the log, and lapses.
	recordLimit = 10 * time.Minute
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

	slots   *slots
	streaks streaks
	gate    atomic.Value // GateState of the latest claim
}

// Attempt is what is told about one attempt: in the log, in metrics, in a trace.
type Attempt struct {
	Lease   Lease
	Outcome flex.Outcome
	To      State
	Delay   time.Duration
}

// Run claims and delivers until ctx ends, and returns when every call that was
// begun has ended and its outcome is recorded, or given up.
func (d *Deliverer) Run(ctx context.Context) {
	d.slots = newSlots(d.Slots)
	var calls sync.WaitGroup
	defer calls.Wait()
	// A goroutine that has made a call takes the next lease: its stack has grown
	// already, which was a twentieth of the worker's CPU time.
	next, over := make(chan Lease), make(chan struct{})
	idle := make(chan struct{}, d.Slots)
	defer close(over)
	begin := func(l Lease) {
		select {
		case next <- l:
		default:
			calls.Go(func() { d.deliverAll(ctx, l, next, idle, over) })
		}
	}
	d.Store.shortcut.open(d.slots, begin)
	defer d.takeBack(ctx, 0) // once more: what is untold then lapses
	defer d.Store.shortcut.close()
	for ctx.Err() == nil {
		d.takeBack(ctx, idlePoll)
		free := d.slots.takeFree()
		if free == 0 {
			wait(ctx, idlePoll, d.slots.freed)
			continue
		}
		c, err := d.Store.claim(ctx, free)
		for range free - len(c.leases) {
			d.slots.give()
		}
		if err != nil {
			d.Log.Warn("nothing can be claimed; trying again", "error", err)
			wait(ctx, idlePoll, nil)
			continue
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
			}
			d.probe(ctx)
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
}

// takeBack takes back what was leased and not told of: no call was made under it.
// It does nothing when it was tried less than every ago.
func (d *Deliverer) takeBack(ctx context.Context, every time.Duration) {
	asked := d.Store.untold.next(time.Now(), every)
	if len(asked) == 0 {
		return
	}
	found, err := d.Store.takeBack(ctx, asked)
	switch {
	case Away(err):
		// As it was for the statement that failed. The next claim says why.
	case err != nil:
		d.Log.Error("what was leased without an answer cannot be taken back; it lapses", "error", err)
		d.Store.untold.forget(asked)
	default:
		d.Store.untold.told(asked, found, time.Now())
	}
	if len(found) > 0 {
		d.Log.Info("what was leased without an answer is taken back", "requests", len(found))
		d.Counters.PutBack.Add(int64(len(found)))
	}
}

// Gate is why the latest claim brought no more; GateOpen when the gate was not
// the reason.
func (d *Deliverer) Gate() GateState {
	if g, ok := d.gate.Load().(GateState); ok {
		return g
	}
	return GateOpen
}

// deliverAll delivers l, and what comes after it until it is over, or until as many
// are idle as there are calls in flight at most.
func (d *Deliverer) deliverAll(ctx context.Context, l Lease, next <-chan Lease, idle chan struct{}, over <-chan struct{}) {
	for {
		d.deliver(ctx, l)
		select {
		case idle <- struct{}{}:
		default:
			return
		}
		select {
		case l = <-next:
			<-idle
		case <-over:
			return
		}
	}
}

// deliver makes the attempt that a lease allows and records what came of it.
// The slot is given back as soon as the call is over.
func (d *Deliverer) deliver(ctx context.Context, l Lease) {
	if ctx.Err() != nil || !l.covers(d.Limit+sendMargin, time.Now()) {
		d.slots.give()
		d.putBack(ctx, l)
		return
	}
	// Work that has begun is not cut by a shutdown: a POST that was cut would
	// be uncertain. The client's own timeout bounds it.
	crash.At("sending")
	outcome := d.Flex.Create(context.WithoutCancel(ctx), interactionOf(l))
	r := d.decide(l, outcome)
	if r.alarm.hold {
		d.Log.Error("the fleet is held: nothing is sent until this is put right", "why", r.alarm.why)
	}
	if d.slots.told(outcome, time.Now()); r.alarm.away {
		d.slots.restart() // the gate shuts only when this is recorded
	}
	d.slots.give()
	d.note(r)
	// A crash here leaves the request sending; it lapses and is looked up.
	crash.At("answered")
	d.record(ctx, r)
}

// covers says whether a call that may take limit can begin now. Two clocks are
// asked, since the monotonic one may stand still while a machine is suspended:
// the sooner stops the send. A deadline that has passed stops it too; the
// request is put back, and expires.
func (l Lease) covers(limit time.Duration, now time.Time) bool {
	monotonic, wall := l.until.Sub(now), l.until.Round(0).Sub(now.Round(0))
	return min(monotonic, wall) >= limit && (l.deadline.IsZero() || now.Before(l.deadline))
}

// decide asks the policy and counts the fleet's bad luck.
func (d *Deliverer) decide(l Lease, o flex.Outcome) record {
	return record{lease: l, outcome: o.Kind.String(), told: o,
		move: d.Policy.after(l.Attempt, o, rand.Float64()), alarm: d.streaks.alarm(l.RequestID, o)}
}

// note writes the one log line of an attempt. It stands before the record, so
// that an outcome which can never be recorded is in the log all the same.
func (d *Deliverer) note(r record) {
	d.Counters.attempted(r)
	text, number := slog.String, slog.Int
	d.Log.LogAttrs(context.Background(), slog.LevelInfo, "attempt",
		text("request_id", r.lease.RequestID), text("source", r.lease.Source), number("attempt", r.lease.Attempt), text("outcome", r.outcome),
		text("interaction_sid", r.told.InteractionSID), number("http_status", r.told.HTTPStatus), number("twilio_code", r.told.TwilioCode),
		text("twilio_request_id", r.told.RequestID), text("error_kind", r.told.ErrorKind), text("error", r.told.Message),
		slog.Int64("took_ms", r.told.Took.Milliseconds()), text("to", string(r.move.to)), slog.Int64("delay_ms", r.move.delay.Milliseconds()))
	if d.Attempted != nil {
		d.Attempted(Attempt{Lease: r.lease, Outcome: r.told, To: r.move.to, Delay: r.move.delay})
	}
}

// record stores the outcome, again and again while Postgres is away: what Flex
// said is worth more than what a lookup can find.
func (d *Deliverer) record(ctx context.Context, r record) {
	done, err := d.Store.record(ctx, r)
	if notRecorded(err) {
		done, err = d.recordAgain(ctx, r)
	}
	switch {
	case errors.Is(err, ErrLeaseLost):
		d.Log.Warn("the outcome came too late: the request was resolved or leased again meanwhile",
			"request_id", r.lease.RequestID, "attempt", r.lease.Attempt, "outcome", r.outcome, "interaction_sid", r.told.InteractionSID)
	case err != nil:
		d.Log.Error("the outcome could not be recorded; the lease lapses and the request becomes uncertain",
			"request_id", r.lease.RequestID, "attempt", r.lease.Attempt, "outcome", r.outcome, "interaction_sid", r.told.InteractionSID, "error", err)
	case r.move.to == Pending:
		d.Store.due.raise() // it may be the next that is due
	case done != nil:
		if done.state == Created {
			d.Store.witnesses.saw(r.lease, time.Now())
		}
		d.Store.settled.offer(done)
	}
}

// recordAgain tries for as long as Postgres is away.
func (d *Deliverer) recordAgain(ctx context.Context, r record) (done *settlement, err error) {
	err = backoff.Retry(func() (err error) {
		if done, err = d.Store.recordAgain(ctx, r); err != nil && !notRecorded(err) {
			return backoff.Permanent(err)
		}
		return err
	}, backoff.NewExponentialBackOff(backoff.WithInitialInterval(50*time.Millisecond),
		backoff.WithMaxInterval(2*time.Second), backoff.WithMaxElapsedTime(recordLimit)))
	return done, err
}

// notRecorded says whether an error leaves open if the outcome is recorded.
func notRecorded(err error) bool { return Away(err) && !errors.Is(err, ErrLeaseLost) }

// putBack gives a lease back under which no call was made, as persistently as an
// outcome: only this process can tell it from one under which a call was made. It
// would lapse, into lookups or, without a task, to a person.
func (d *Deliverer) putBack(ctx context.Context, l Lease) {
	d.Counters.PutBack.Add(1)
	d.record(ctx, unsent(l))
}

// unsent: sending -> pending, for a lease under which no call was made. It is
// written as an outcome of its own, so that every lease leaves a row.
func unsent(l Lease) record {
	return record{lease: l, outcome: "put_back", move: move{to: Pending, spared: true}}
}

// probe asks, when it is this replica's turn, whether Flex can be used again.
func (d *Deliverer) probe(ctx context.Context) {
	seen, mine, err := d.Store.takeProbe(ctx)
	if err != nil || !mine {
		return // no turn, or Postgres is away: then the next claim says so
	}
	o := d.Flex.Check(ctx)
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

// interactionOf reads from the request what Flex is to get, text as it came.
func interactionOf(l Lease) flex.Interaction {
	var room [16]rawjson.Pair
	request := rawjson.AppendMembers(room[:0], l.Request)
	return flex.Interaction{
		Channel: request.Get("channel"), Routing: request.Get("routing"), LookupKey: l.LookupKey,
		ContextSID:  stringMember(request, "interaction_context_sid"),
		WebhookTTID: stringMember(request, "webhook_ttid"),
	}
}

// stringMember is a member that was checked to be a string, or null, when it came in.
func stringMember(request rawjson.Object, name string) string {
	text, _ := rawjson.Text(request.Get(name))
	return string(text)
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
