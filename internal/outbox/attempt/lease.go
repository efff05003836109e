package attempt

import (
	"encoding/json"
	"time"
)

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

	// Until is the end of the lease on this process's monotonic clock, counted
	// from before the claim: never later than the stored end.
	Until time.Time
	// Deadline is expires_at on that clock, likewise never later; zero: none.
	Deadline time.Time
}

// Covers says whether a call that may take limit can begin now. A deadline that has passed
// stops it too; the request is released, and expires.
func (l Lease) Covers(limit time.Duration, now time.Time) bool {
	return l.Lasts(limit, now) && (l.Deadline.IsZero() || left(l.Deadline, now) > 0)
}

// Lasts is Covers, whatever the deadline.
func (l Lease) Lasts(limit time.Duration, now time.Time) bool { return left(l.Until, now) >= limit }

// left is the time until a moment by that clock of the process which has gone further: the
// monotonic one may stand still while a machine is suspended.
func left(until, now time.Time) time.Duration {
	return min(until.Sub(now), until.Round(0).Sub(now.Round(0)))
}
