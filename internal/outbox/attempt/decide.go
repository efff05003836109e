package attempt

import (
	"time"

	"flexworker/internal/database"
	"flexworker/internal/flex"
	"flexworker/internal/outbox/request"
)

// A Record is what became of one lease.
type Record struct {
	Lease   Lease
	Outcome string // the kind's word, or released
	Told    flex.Outcome
	Move    request.Move
	Pause   time.Duration // of the gate, for the whole fleet; 0: none
}

// Unproved says whether nothing in the answer shows that the interaction which it names is this request's.
func (r *Record) Unproved() bool { return r.Told.Kind == flex.Created && !r.Told.Mine }

// Decide is what becomes of a lease under which a call was made.
func Decide(p request.Policy, l Lease, o flex.Outcome, random float64) Record {
	r := Record{Lease: l, Outcome: o.Kind.String(), Told: o, Move: p.After(l.Attempt, o, random)}
	if flex.MayBeOneTenants(o) {
		r.Move = p.BlockedAlone(l.Attempt, l.Uncounted, r.Move)
	}
	if l.Undecided && (r.Move.To == request.Rejected || r.Move.To == request.Abandoned) {
		// An earlier attempt may have created it: that has to be found out before this is said.
		r.Move = request.Move{To: request.Uncertain, Delay: request.FirstLookup, EndsAs: r.Move.To}
	}
	if o.Limited {
		r.Pause = min(o.RetryAfter, request.MaxRetryAfter)
	}
	return r
}

// disowned is what becomes of a record whose interaction is that of another request, owner.
func disowned(p request.Policy, r Record, owner string, random float64) Record {
	r.Told, r.Move = p.AfterOthers(r.Lease.Attempt, r.Told, owner, random)
	r.Outcome = r.Told.Kind.String()
	return r
}

// Unsent is the record of a lease under which no call was made: sending -> pending. It is
// written as an outcome of its own, so that every lease leaves a row.
func Unsent(l Lease) Record {
	return Record{Lease: l, Outcome: "released", Move: request.Move{To: request.Pending, Uncounted: true}}
}

// reason is why the request is not created, in one word. There is always one:
// the schema refuses a request that stands still for no reason.
func reason(r *Record) *string {
	if o := &r.Told; o.ErrorKind != "" || o.Kind == flex.Created || r.Outcome == "released" {
		return database.OrNull(request.Text(o.ErrorKind))
	}
	return database.OrNull("unknown")
}
