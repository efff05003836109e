package outbox

import (
	"context"
	"fmt"
	"time"

	"flexworker/internal/database"
	"flexworker/internal/flex"
	"flexworker/internal/outbox/gate"
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
	case d.breaker.Asked(o, time.Now()):
		if !d.breaker.IsClosed() {
			d.permits.Restart()
			d.Log.Info("Flex can be read again; one call is tried")
		}
	case time.Since(d.said) >= time.Minute: // the trouble goes on: a line a minute
		d.said = time.Now()
		word, reason, _ := d.breaker.Stopped()
		d.Log.Warn("this replica is stopped: Flex cannot be read", "state", string(word), "reason", reason)
	}
}

// turned does what follows when the breaker has turned from one state to another.
func (d *Dispatcher) turned(was, is gate.BreakerState) {
	if was == is {
		return
	}
	switch word, reason, _ := d.breaker.Stopped(); {
	case is == gate.BreakerOpen:
		d.permits.Restart()
		d.Log.Warn("this replica is stopped; it asks every two seconds, by a read, whether it can go on", "state", string(word), "reason", reason)
	case is == gate.BreakerChoosing:
		d.permits.Choose()
		d.Log.Info("calls of one source and workspace have failed in a row; another's is tried before this replica stops")
	case is == gate.BreakerClosed && was == gate.BreakerTrying:
		d.Log.Info("this replica goes on")
	case was == gate.BreakerChoosing:
		d.permits.Chosen()
	}
	d.Store.Due.Raise()
}

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
		return "creates fail, though Flex can be read: " + why
	}
	if why := d.creates.Failing(2, gate.FailingAfter, 2*gate.FailingAfter, time.Now()); why != "" {
		return "no create call succeeds: " + why
	}
	return ""
}

// Stalled says why Postgres, which may answer every read, does not let this replica work; "": it
// does, or nothing is tried.
func (d *Dispatcher) Stalled() string { return d.stalled(gate.StalledAfter) }

func (d *Dispatcher) stalled(after time.Duration) string {
	now := time.Now()
	for _, s := range []struct {
		what  string
		stall *gate.Stall
	}{
		{"nothing could be claimed", &d.Store.claims},
		{"no message could be stored", &d.Store.stores},
		{"no outcome could be recorded", &d.Store.outcomes},
	} {
		if lasts, why := s.stall.Lasts(now); lasts >= after {
			return fmt.Sprintf("%s for %v: %s", s.what, lasts.Round(time.Second), why)
		}
	}
	return ""
}

// claimFailed notes that nothing could be claimed, and says it. Where nothing is due nobody misses it.
func (d *Dispatcher) claimFailed(ctx context.Context, began time.Time, err error) {
	err = database.WithHolders(ctx, d.Store.pool, began, err)
	d.claimTrouble.Tell(d.Log, cannotClaim, err)
	if d.Store.anyDue(ctx) {
		d.Store.claims.Failed(began, err)
	} else {
		d.Store.claims.GoesOn(time.Now())
	}
}
