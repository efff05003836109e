package outbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"flexworker/internal/crash"
	"flexworker/internal/flex"
	"flexworker/internal/outbox/attempt"
	"flexworker/internal/outbox/gate"
	"flexworker/internal/outbox/request"
	"flexworker/internal/rawjson"
)

// sendMargin is what must be left of a lease beyond the longest call when the
// call starts.
const sendMargin = time.Second

// deliver makes the attempt that a lease allows and records what came of it.
// The permit is given back as soon as the call is over.
func (d *Dispatcher) deliver(ctx context.Context, l attempt.Lease) {
	if ctx.Err() != nil || d.breaker.IsOpen() || !d.covered(l, time.Now()) {
		d.permits.Give(1)
		d.release(ctx, l)
		return
	}
	// Work that has begun is not cut by a shutdown: a POST that was cut would
	// be uncertain. The client's own timeout bounds it.
	crash.At("sending")
	outcome := d.Flex.Create(context.WithoutCancel(ctx), interactionOf(l))
	r := attempt.Decide(d.Policy, l, outcome, rand.Float64())
	d.permits.Observe(outcome, time.Now())
	d.changed(d.breaker.Observe(callOf(l), outcome, time.Now()))
	d.seen(outcome, time.Now())
	d.permits.Ended()
	if r.Unproved() { // after a crash no lookup could tie the interaction to the request: a person can, by this line
		d.Log.Info("answered", "request_id", l.RequestID, "source", l.Source, "attempt", l.Attempt, "interaction_sid", outcome.InteractionSID)
	} else {
		d.note(r)
	}
	// A crash here leaves the request sending; it lapses and is looked up.
	crash.At("answered")
	d.record(ctx, r)
	d.permits.Recorded()
}

// covered says whether the lease covers a call that begins now, and notes whether it came in time for that. Where each commit
// takes longer than leases have beyond the longest call, every claim succeeds, every lease is released, and nothing else tells.
func (d *Dispatcher) covered(l attempt.Lease, now time.Time) bool {
	if l.Lasts(d.Limit+sendMargin, now) {
		d.lateTrouble.Tell(d.Log, tooLate, nil)
		d.Store.leaseStall.GoesOn(now)
		return l.Covers(d.Limit+sendMargin, now)
	}
	asked := l.Until.Add(-d.Store.leaseFor)
	err := fmt.Errorf("a lease was there %v after it was asked for; for its call that may be at most %v: Postgres takes long to commit, or this process stood still",
		now.Sub(asked).Round(time.Millisecond), d.Store.leaseFor-d.Limit-sendMargin)
	d.lateTrouble.Tell(d.Log, tooLate, err)
	d.Store.leaseStall.Failed(asked, err)
	return false
}

// note writes the one log line of an attempt. The line stands before the record, so that an outcome which can never be
// recorded is in the log all the same. The exception is an interaction without the request's key in the answer: only the
// record shows whether it is this request's, so the line follows the record. What does not apply is left out.
func (d *Dispatcher) note(r attempt.Record) {
	d.Counters.Attempts[r.Told.Kind].Add(1)
	if r.Move.Uncounted {
		d.Counters.Uncounted.Add(1)
	}
	attrs := []slog.Attr{slog.String("request_id", r.Lease.RequestID), slog.String("source", r.Lease.Source), slog.Int("attempt", r.Lease.Attempt),
		slog.String("outcome", r.Outcome), slog.Int64("took_ms", r.Told.Took.Milliseconds()), slog.String("to", string(r.Move.To))}
	for _, field := range []struct{ name, value string }{
		{"interaction_sid", r.Told.InteractionSID}, {"twilio_request_id", r.Told.RequestID}, {"error_kind", r.Told.ErrorKind}, {"error", r.Told.Message},
		{"stream", r.Lease.Stream}, {"trace_id", request.TraceID(r.Lease.Traceparent)},
	} {
		if field.value != "" {
			attrs = append(attrs, slog.String(field.name, field.value))
		}
	}
	for _, number := range []struct {
		name  string
		value int64
	}{
		{"http_status", int64(r.Told.HTTPStatus)}, {"twilio_code", int64(r.Told.TwilioCode)}, {"delay_ms", r.Move.Delay.Milliseconds()}, {"sequence", r.Lease.Sequence},
	} {
		if number.value != 0 {
			attrs = append(attrs, slog.Int64(number.name, number.value))
		}
	}
	d.Log.LogAttrs(context.Background(), slog.LevelInfo, "attempt", attrs...)
	if d.Attempted != nil {
		d.Attempted(Attempt{Lease: r.Lease, Outcome: r.Told})
	}
}

// record has the outcome stored, and tells those who wait for what it changed.
func (d *Dispatcher) record(ctx context.Context, r attempt.Record) {
	unproved := r.Unproved()
	r, done, err := d.Store.completer.Complete(ctx, d.Log, d.Policy, r)
	if unproved {
		d.note(r)
	}
	switch {
	case errors.Is(err, attempt.ErrLeaseLost):
		d.late(ctx, r)
	case err != nil:
		d.Log.Error("the outcome could not be recorded; the lease lapses and the request becomes uncertain",
			"request_id", r.Lease.RequestID, "attempt", r.Lease.Attempt, "outcome", r.Outcome, "interaction_sid", r.Told.InteractionSID, "error", err)
	case r.Move.To == request.Pending:
		d.Store.Due.Raise() // it may be the next that is due
	case done != nil:
		if done.State == request.Created {
			d.Store.Lookups.CanaryKeys.Saw(r.Lease.LookupKey, r.Lease.Request, time.Now())
		}
		d.Store.Results.Offer(done)
	}
}

// late reports an outcome that was recorded and not obeyed. An interaction that the
// request does not have is the one thing that must not happen: it may have another,
// or get one.
func (d *Dispatcher) late(ctx context.Context, r attempt.Record) {
	log := d.Log.With("request_id", r.Lease.RequestID, "attempt", r.Lease.Attempt, "outcome", r.Outcome, "interaction_sid", r.Told.InteractionSID)
	if r.Told.Kind == flex.Created {
		switch has, err := d.Store.completer.HasInteraction(context.WithoutCancel(ctx), r.Lease.ID, r.Told.InteractionSID); {
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
func (d *Dispatcher) release(ctx context.Context, l attempt.Lease) {
	d.Counters.Released.Add(1)
	d.record(ctx, attempt.Unsent(l))
}

// interactionOf reads from the request what Flex is to get, text as it came.
func interactionOf(l attempt.Lease) flex.Interaction {
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
func callOf(l attempt.Lease) gate.Call {
	return gate.Call{RequestID: l.RequestID, Source: l.Source, Request: l.Request}
}
