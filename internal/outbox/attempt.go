package outbox

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"

	"flexworker/internal/crash"
	"flexworker/internal/flex"
	"flexworker/internal/outbox/gate"
	"flexworker/internal/outbox/request"
	"flexworker/internal/rawjson"
)

// sendMargin is what must be left of a lease beyond the longest call when the
// call starts.
const sendMargin = time.Second

// Lease is the right to make one attempt: (ID, Attempt) names it.
type Lease struct {
	ID         int64
	RequestID  string
	Source     string
	Request    json.RawMessage
	LookupKey  string
	Attempt    int
	Uncounted  int
	ReceivedAt time.Time
	// Undecided: whether an earlier attempt created it was never found out.
	Undecided bool
	// Traceparent is the trace that the request belongs to, Tracestate what its
	// vendors say of it; "" for none.
	Traceparent, Tracestate string
	// Stream and Sequence name the message that the request came by.
	Stream   string
	Sequence int64
	Warnings json.RawMessage // outbox.warnings; nil: none

	// until is the end of the lease on this process's monotonic clock, counted
	// from before the claim: never later than the stored end.
	until time.Time
	// deadline is expires_at on that clock, likewise never later; zero: none.
	deadline time.Time
}

// deliver makes the attempt that a lease allows and records what came of it.
// The permit is given back as soon as the call is over.
func (d *Dispatcher) deliver(ctx context.Context, l Lease) {
	if ctx.Err() != nil || d.breaker.IsOpen() || !l.covers(d.Limit+sendMargin, time.Now()) {
		d.permits.Give(1)
		d.release(ctx, l)
		return
	}
	// Work that has begun is not cut by a shutdown: a POST that was cut would
	// be uncertain. The client's own timeout bounds it.
	crash.At("sending")
	outcome := d.Flex.Create(context.WithoutCancel(ctx), interactionOf(l))
	r := decide(d.Policy, l, outcome, rand.Float64())
	d.permits.Observe(outcome, time.Now())
	d.turned(d.breaker.Observe(callOf(l), outcome, time.Now()))
	d.seen(outcome, time.Now())
	d.permits.Ended()
	if r.unproved() { // after a crash no lookup could tie the interaction to the request: a person can, by this line
		d.Log.Info("answered", "request_id", l.RequestID, "source", l.Source, "attempt", l.Attempt, "interaction_sid", outcome.InteractionSID)
	} else {
		d.note(r)
	}
	// A crash here leaves the request sending; it lapses and is looked up.
	crash.At("answered")
	d.record(ctx, r)
	d.permits.Recorded()
}

// covers says whether a call that may take limit can begin now. A deadline that has passed
// stops it too; the request is released, and expires.
func (l Lease) covers(limit time.Duration, now time.Time) bool {
	return left(l.until, now) >= limit && (l.deadline.IsZero() || left(l.deadline, now) > 0)
}

// left is the time until a moment by that clock of the process which has gone further: the
// monotonic one may stand still while a machine is suspended.
func left(until, now time.Time) time.Duration {
	return min(until.Sub(now), until.Round(0).Sub(now.Round(0)))
}

// decide is what becomes of a lease under which a call was made.
func decide(p request.Policy, l Lease, o flex.Outcome, random float64) record {
	r := record{lease: l, outcome: o.Kind.String(), told: o, move: p.After(l.Attempt, o, random)}
	if flex.MayBeOneTenants(o) {
		r.move = p.BlockedAlone(l.Attempt, l.Uncounted, r.move)
	}
	if l.Undecided && (r.move.To == request.Rejected || r.move.To == request.Abandoned) {
		// An earlier attempt may have created it: that has to be found out before this is said.
		r.move = request.Move{To: request.Uncertain, Delay: request.FirstLookup, EndsAs: r.move.To}
	}
	if o.Limited {
		r.pause = min(o.RetryAfter, request.MaxRetryAfter)
	}
	return r
}

// disowned is what becomes of a record whose interaction is that of another request, owner.
func disowned(p request.Policy, r record, owner string, random float64) record {
	r.told, r.move = p.AfterOthers(r.lease.Attempt, r.told, owner, random)
	r.outcome = r.told.Kind.String()
	return r
}

// note writes the one log line of an attempt. The line stands before the record, so that an outcome which can never be
// recorded is in the log all the same. The exception is an interaction without the request's key in the answer: only the
// record shows whether it is this request's, so the line follows the record. What does not apply is left out.
func (d *Dispatcher) note(r record) {
	d.Counters.attempted(r)
	attrs := []slog.Attr{slog.String("request_id", r.lease.RequestID), slog.String("source", r.lease.Source), slog.Int("attempt", r.lease.Attempt),
		slog.String("outcome", r.outcome), slog.Int64("took_ms", r.told.Took.Milliseconds()), slog.String("to", string(r.move.To))}
	for _, field := range []struct{ name, value string }{
		{"interaction_sid", r.told.InteractionSID}, {"twilio_request_id", r.told.RequestID}, {"error_kind", r.told.ErrorKind}, {"error", r.told.Message},
		{"stream", r.lease.Stream}, {"trace_id", request.TraceID(r.lease.Traceparent)},
	} {
		if field.value != "" {
			attrs = append(attrs, slog.String(field.name, field.value))
		}
	}
	for _, number := range []struct {
		name  string
		value int64
	}{
		{"http_status", int64(r.told.HTTPStatus)}, {"twilio_code", int64(r.told.TwilioCode)}, {"delay_ms", r.move.Delay.Milliseconds()}, {"sequence", r.lease.Sequence},
	} {
		if number.value != 0 {
			attrs = append(attrs, slog.Int64(number.name, number.value))
		}
	}
	d.Log.LogAttrs(context.Background(), slog.LevelInfo, "attempt", attrs...)
	if d.Attempted != nil {
		d.Attempted(Attempt{Lease: r.lease, Outcome: r.told})
	}
}

// record has the outcome stored, and tells those who wait for what it changed.
func (d *Dispatcher) record(ctx context.Context, r record) {
	done, err := d.Store.completer.complete(ctx, d.Log, r)
	if r.unproved() {
		if others := (*othersError)(nil); errors.As(err, &others) {
			r = disowned(d.Policy, r, others.owner, rand.Float64())
			done, err = d.Store.completer.complete(ctx, d.Log, r)
		}
		d.note(r)
	}
	switch {
	case errors.Is(err, ErrLeaseLost):
		d.late(ctx, r)
	case err != nil:
		d.Log.Error("the outcome could not be recorded; the lease lapses and the request becomes uncertain",
			"request_id", r.lease.RequestID, "attempt", r.lease.Attempt, "outcome", r.outcome, "interaction_sid", r.told.InteractionSID, "error", err)
	case r.move.To == request.Pending:
		d.Store.Due.Raise() // it may be the next that is due
	case done != nil:
		if done.State == request.Created {
			d.Store.Lookups.CanaryKeys.Saw(r.lease.LookupKey, r.lease.Request, time.Now())
		}
		d.Store.Results.Offer(done)
	}
}

// late reports an outcome that was recorded and not obeyed. An interaction that the
// request does not have is the one thing that must not happen: it may have another,
// or get one.
func (d *Dispatcher) late(ctx context.Context, r record) {
	log := d.Log.With("request_id", r.lease.RequestID, "attempt", r.lease.Attempt, "outcome", r.outcome, "interaction_sid", r.told.InteractionSID)
	if r.told.Kind == flex.Created {
		switch has, err := d.Store.completer.hasInteraction(context.WithoutCancel(ctx), r.lease.ID, r.told.InteractionSID); {
		case has: // a lookup was faster
		case err != nil:
			log.Error("an interaction was created too late for its request, and whether that has it cannot be read: see `worker explain`", "error", err)
			return
		default:
			d.Counters.Duplicates.Add(1)
			log.Error("an interaction was created that its request does not have: it was given up, or is called twice; see `worker explain`, and close it in Flex")
			return
		}
	}
	log.Warn("the outcome came too late: the request was resolved or leased again meanwhile")
}

// release gives a lease back under which no call was made, as persistently as an
// outcome: only this process can tell it from one under which a call was made. It
// would lapse, into lookups or, without a task, to a person.
func (d *Dispatcher) release(ctx context.Context, l Lease) {
	d.Counters.Released.Add(1)
	d.record(ctx, unsent(l))
}

// unsent: sending -> pending, for a lease under which no call was made. It is
// written as an outcome of its own, so that every lease leaves a row.
func unsent(l Lease) record {
	return record{lease: l, outcome: "released", move: request.Move{To: request.Pending, Uncounted: true}}
}

// interactionOf reads from the request what Flex is to get, text as it came.
func interactionOf(l Lease) flex.Interaction {
	var room [16]rawjson.Pair
	members := rawjson.AppendMembers(room[:0], l.Request)
	return flex.Interaction{
		Channel: members.Get("channel"), Routing: members.Get("routing"), LookupKey: l.LookupKey,
		ContextSID:  stringMember(members, "interaction_context_sid"),
		WebhookTTID: stringMember(members, "webhook_ttid"),
	}
}

// stringMember is a member that was checked to be a string, or null, when it came in.
func stringMember(members rawjson.Object, name string) string {
	text, _ := rawjson.Text(members.Get(name))
	return string(text)
}

// callOf is what the breaker is told of a lease.
func callOf(l Lease) gate.Call {
	return gate.Call{RequestID: l.RequestID, Source: l.Source, Request: l.Request}
}
