package outbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"flexworker/internal/database"
	"flexworker/internal/flex"
	"flexworker/internal/outbox/gate"
	"flexworker/internal/trouble"
)

// Whether this replica works: its breaker, what its calls bring, whether Postgres lets it work.

// LastCreated is when this process last created an interaction; zero: never.
func (d *Dispatcher) LastCreated() time.Time {
	if at := d.created.Load(); at != 0 {
		return time.Unix(0, at)
	}
	return time.Time{}
}

// Gate is why the latest claim brought no more; gate.Open when the gate was not
// the reason.
func (d *Dispatcher) Gate() gate.State {
	if g, ok := d.gate.Load().(gate.State); ok {
		return g
	}
	return gate.Open
}

// AskFirst has Run begin stopped, until a read has succeeded: a new replica with a bad
// secret is never ready, so that a rollout stops at it.
func (d *Dispatcher) AskFirst() { d.breaker.AskFirst() }

// ask finds out, by a read that creates nothing, whether this replica can go on.
func (d *Dispatcher) ask(ctx context.Context) {
	o := d.Flex.Check(ctx)
	switch {
	case ctx.Err() != nil: // it was cut, and says nothing
	case !d.breaker.Asked(o, time.Now()):
		d.stops.goesOn(d.Log, &d.breaker)
	case d.breaker.IsClosed(): // it was the first read of all
		d.stops.ended(d.Log)
	default:
		d.permits.Restart()
		d.Log.Debug("Flex can be read; one call is tried")
	}
}

// changed does what follows when the breaker has changed from one state to another. Several calls may change it at
// about the same time, and get here in another order than they did. A change that is over by now leads to nothing:
// who has changed the breaker since does what follows.
func (d *Dispatcher) changed(was, is gate.BreakerState) {
	if was == is {
		return
	}
	d.changing.Lock()
	defer d.changing.Unlock()
	if !d.breaker.Is(is) {
		return
	}
	switch {
	case is == gate.BreakerOpen:
		d.permits.Restart()
		d.stops.goesOn(d.Log, &d.breaker)
	case is == gate.BreakerChoosing:
		d.permits.Choose()
		d.Log.Info("calls of one source and workspace have failed in a row; another's is tried before this replica stops")
	case is == gate.BreakerClosed && was == gate.BreakerTrying:
		d.stops.ended(d.Log)
	case was == gate.BreakerChoosing:
		d.permits.Chosen()
	}
	d.Store.Due.Raise()
}

// A stopLog is what the log says of a replica that is stopped. Such a replica opens its breaker again after each call
// that it tries, which may be every two seconds. So each word of /readyz is a trouble of its own: another word is said
// at once, the same word once a minute, and that the replica works again once for each.
type stopLog struct{ unreachable, unauthorized, failing trouble.Trouble }

// goesOn notes that the breaker is open, after a call or a read.
func (s *stopLog) goesOn(log *slog.Logger, b *gate.Breaker) {
	word, reason, stopped := b.Stopped()
	told := &s.unreachable
	switch failing := b.Failing(); {
	case stopped && word == gate.WordUnauthorized:
		told = &s.unauthorized
	case stopped:
	case failing == "": // another call has closed it meanwhile
		return
	default:
		told, word, reason = &s.failing, gate.WordFailing, failingCreates+failing
	}
	told.Tell(log, stopIs(word), errors.New(reason), "state", string(word))
}

// ended notes that the breaker is closed.
func (s *stopLog) ended(log *slog.Logger) {
	s.unreachable.Tell(log, stopIs(gate.WordUnreachable), nil)
	s.unauthorized.Tell(log, stopIs(gate.WordUnauthorized), nil)
	s.failing.Tell(log, stopIs(gate.WordFailing), nil)
}

func stopIs(word gate.Word) string {
	return "this replica is stopped (" + string(word) + "); it asks every two seconds, by a read, whether it can go on"
}

// failingCreates begins what is said of a replica whose reads succeed and whose creates do not.
const failingCreates = "creates fail, though Flex can be read: "

// Stopped is why this replica makes no calls but one to try; ok is false when it does.
func (d *Dispatcher) Stopped() (word gate.Word, reason string, ok bool) { return d.breaker.Stopped() }

// Yields says whether this replica leaves messages to the others: it is stopped, and
// another is not. When all are stopped each still stores what comes.
func (d *Dispatcher) Yields() bool { return !d.breaker.Works() && d.Fleet.PeerWorks() }

// MayLookUp says whether this replica may ask TaskRouter: not without credentials, and
// not when it is stopped while another is not. A lookup that fails postpones the next.
func (d *Dispatcher) MayLookUp() bool {
	word, _, stopped := d.breaker.Stopped()
	return d.breaker.Works() || (!stopped || word != gate.WordUnauthorized) && !d.Fleet.PeerWorks()
}

// seen takes what a create call has brought. A refusal that may be one tenant's says
// nothing about the others.
func (d *Dispatcher) seen(o flex.Outcome, now time.Time) {
	switch {
	case flex.Unsendable(o): // Flex was not asked
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
func (d *Dispatcher) Failing() string {
	if why := d.breaker.Failing(); why != "" {
		return failingCreates + why
	}
	if why := d.creates.Failing(2, gate.FailingAfter, 2*gate.FailingAfter, time.Now()); why != "" {
		return "no create call succeeds: " + why
	}
	return ""
}

// Stalled says what Postgres, which may answer every read, has not let this replica do for after or longer; "": it
// lets it do all, or nothing is tried.
func (d *Dispatcher) Stalled(after time.Duration) string {
	return gate.Stalled(after,
		gate.Stalling{What: "nothing could be claimed", Stall: &d.Store.claimStall},
		gate.Stalling{What: "no lease came in time for its call", Stall: &d.Store.leaseStall},
		gate.Stalling{What: "no message could be stored", Stall: &d.Store.storeStall},
		gate.Stalling{What: "no outcome could be recorded", Stall: &d.Store.completer.Stall},
		gate.Stalling{What: "no malformed message or conflict could be kept", Stall: &d.Store.Messages.MalformedStall},
		gate.Stalling{What: "no repeat could be kept", Stall: &d.Store.Messages.RepeatsStall})
}

// claimFailed notes that nothing could be claimed, and says it. Where nothing is due nobody misses it.
func (d *Dispatcher) claimFailed(ctx context.Context, began time.Time, err error) {
	err = database.WithHolders(ctx, d.Store.pool, began, err)
	d.claimTrouble.Tell(d.Log, cannotClaim, err)
	if d.Store.anyDue(ctx) {
		d.Store.claimStall.Failed(began, err)
	} else {
		d.Store.claimStall.GoesOn(time.Now())
	}
}
