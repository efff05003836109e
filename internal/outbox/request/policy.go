package request

import (
	"time"

	"github.com/cenkalti/backoff/v4"

	"flexworker/internal/flex"
)

// Policy decides where an outcome leads. It does no I/O: what it decides is
// stored once, by the record of an attempt or of a lookup.
type Policy struct {
	MinDelay    time.Duration // before the first repeat; > 0
	MaxDelay    time.Duration // the longest time between two attempts; >= MinDelay
	MaxAttempts int           // counted attempts until a request is abandoned; >= 1
	// Settle is how long after an attempt absence proves nothing (LOOKUP_SETTLE).
	Settle time.Duration
	// Undecided is what becomes of a request that no lookup can decide. The zero
	// value is the safe one: a person decides.
	Undecided Undecided
}

// Undecided is UNCERTAIN_POLICY.
type Undecided string

// The policies for what cannot be found out.
const (
	Hold  Undecided = "hold"  // a person decides; also the zero value
	Retry Undecided = "retry" // sent again: at least once
	Fail  Undecided = "fail"  // abandoned: at most once
)

// MaxRetryAfter bounds what an answer may ask us to wait.
const MaxRetryAfter = time.Hour

// A Move is what the policy decided.
type Move struct {
	To        State
	Delay     time.Duration // until due_at, where to is Pending or Uncertain
	Uncounted bool          // the attempt is not held against RETRY_MAX_ATTEMPTS
	Person    bool          // where to is Uncertain: a person has to look; lookups go on, more seldom
	// Undecided: nothing was proved. The policy's Undecided has decided, or a person is asked.
	Undecided bool
	// EndsAs is set where to is Uncertain: the final state that the request gets once
	// its earlier attempts are proved absent. It is never sent again. "": it is.
	EndsAs State
}

// After decides where the outcome of the attempt with this number leads. Only
// what surely was not created leads back to pending. random is in [0, 1).
func (p Policy) After(attempt int, o flex.Outcome, random float64) Move {
	switch o.Kind {
	case flex.Created:
		return Move{To: Created}
	case flex.Rejected:
		return Move{To: Rejected}
	case flex.Refused:
		return Move{To: Pending, Delay: max(p.Delay(attempt, random), RetryAfter(o.RetryAfter, random)), Uncounted: true}
	case flex.Blocked:
		// Its replica stops, or will if others fare the same.
		return Move{To: Pending, Delay: p.Delay(attempt, random), Uncounted: true}
	default:
		return Move{To: Uncertain, Delay: FirstLookup}
	}
}

// AfterOthers decides about an attempt that Flex answered with the interaction of another request, owner: somebody on the
// way repeated the answer to that one. It says what the answer is worth, and where that leads. Nobody knows whether this
// attempt created an interaction of its own, so it is uncertain, and that no task is found does not lead it back to pending.
func (p Policy) AfterOthers(attempt int, o flex.Outcome, owner string, random float64) (flex.Outcome, Move) {
	o = o.OfAnother("the answer names interaction " + o.InteractionSID + ", which is that of request " + owner)
	return o, p.After(attempt, o, random)
}

// BlockedAlone decides about a request that is blocked, which is m, while that has
// not stopped its replica. At first the attempt is not counted: the others may fare the same. But where it stays
// the only one, the fault is its own tenant's: its attempts count then, so that they
// are used up and it is answered.
func (p Policy) BlockedAlone(attempt, uncounted int, m Move) Move {
	if uncounted < p.MaxAttempts {
		return m
	}
	if attempt-uncounted >= p.MaxAttempts {
		return Move{To: Abandoned}
	}
	m.Uncounted = false
	return m
}

// LeaseMargin is what a lease lasts beyond the longest call: time to start the call after the claim and to record its outcome.
const LeaseMargin = 5 * time.Second

// Waits between lookups. The first comes soon, since most tasks are listed at
// once; while absence proves nothing they double, and the one that can prove it
// comes when the settle time is over. After that an unclear answer is asked
// again with growing waits until patience is used up. Then a person is asked, and
// lookups go on: each comes after as long a time as the person has had until then.
const (
	FirstLookup     = time.Second
	MaxLookup       = 30 * time.Second
	PatienceOver    = 10 // settle times, and
	patienceLookups = 6  // lookups, without a clear answer until a person is asked

	firstBesidePerson = time.Minute
	MaxBesidePerson   = 10 * time.Minute
)

// A LookupInput is what an uncertain request brings to the policy.
type LookupInput struct {
	Attempt  int
	Counted  int           // attempts that count
	Lookups  int           // made since it became uncertain, this one included
	Age      time.Duration // since the attempt could last have been under way
	Answered bool          // finding nothing proves nothing: Flex answered with a 2xx that had no readable sid
	Askable  bool          // it has a task to look for
	// Waits: a person was asked, that long ago. What a person was asked stays theirs,
	// whatever Undecided says now; what is proved still counts.
	Waits  bool
	Waited time.Duration
	EndsAs State // as in move
	// Theirs: whatever Undecided says, a person decides. What wrote it down was lost (recheck),
	// or a person holds the fleet: while nobody creates anything, the event log alone cannot
	// prove absence, and the hold would have the policy decide.
	Theirs bool
}

// AfterLookup decides where a finding leads. Nothing but what was found is decided
// before the settle time is over. Only proven absence leads back to pending by itself;
// what nothing can prove is for the Undecided policy.
func (p Policy) AfterLookup(d LookupInput, f Finding, random float64) Move {
	switch {
	case f.Kind == Found:
		return Move{To: Created}
	case d.Age < p.Settle && !d.Askable:
		return Move{To: Uncertain, Delay: p.Settle - d.Age} // its holder may still record what it knows
	case d.Age < p.Settle:
		return p.lookAgain(d, f, random)
	case f.Kind == Absent && d.Askable && !d.Answered:
		return p.again(d, random)
	case f.Foreign:
		return p.forPerson(d, random)
	case !d.Askable, f.Kind == Absent, f.Hopeless, d.Age >= PatienceOver*p.Settle && d.Lookups >= patienceLookups:
		return p.undecided(d, random)
	default:
		return p.lookAgain(d, f, random)
	}
}

// lookAgain leaves a request as it is until the next lookup.
func (p Policy) lookAgain(d LookupInput, f Finding, random float64) Move {
	switch {
	case f.Alone:
		return Move{To: Uncertain, Person: d.Waits}
	case d.Waits:
		return p.forPerson(d, random)
	default:
		return Move{To: Uncertain, Delay: p.lookupWait(d)}
	}
}

// lookupWait grows with the number of lookups and does not pass the moment from
// which absence counts.
func (p Policy) lookupWait(d LookupInput) time.Duration {
	wait := min(FirstLookup<<min(d.Lookups, 10), MaxLookup)
	if left := p.Settle - d.Age; left > 0 {
		return min(wait, left)
	}
	return wait
}

// forPerson asks a person. Up to a quarter is taken off the wait until the next lookup,
// so that what came to a person together is not looked up together.
func (p Policy) forPerson(d LookupInput, random float64) Move {
	wait := min(max(d.Waited, firstBesidePerson), MaxBesidePerson)
	return Move{To: Uncertain, Person: true, Undecided: true, Delay: wait - time.Duration(random*float64(wait/4))}
}

func (p Policy) undecided(d LookupInput, random float64) Move {
	m := p.forPerson(d, random)
	switch {
	case d.Waits, d.Theirs, p.Undecided != Retry && p.Undecided != Fail: // Hold, the zero value, and anything else
	case p.Undecided == Retry && d.EndsAs == "":
		m = p.again(d, random)
	default:
		m = Move{To: Abandoned}
	}
	m.Undecided = true
	return m
}

// again leads back to pending, or ends where the attempts are used up, or where it has
// an end that only had to wait for the proof.
func (p Policy) again(d LookupInput, random float64) Move {
	switch {
	case d.EndsAs != "":
		return Move{To: d.EndsAs}
	case d.Counted >= p.MaxAttempts:
		return Move{To: Abandoned}
	default:
		return Move{To: Pending, Delay: p.Delay(d.Attempt, random)}
	}
}

// Delay is the wait before the attempt after this one: it doubles from MinDelay
// up to MaxDelay, and jitter takes up to three quarters of it off, so that what
// failed together does not come back together. Within [MinDelay/4, MaxDelay].
func (p Policy) Delay(attempt int, random float64) time.Duration {
	// backoff's own jitter is applied after its cap and may exceed it (10 s
	// gave 14.998 s), so it is turned off and ours is used.
	b := backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(p.MinDelay),
		backoff.WithMultiplier(2),
		backoff.WithRandomizationFactor(0),
		backoff.WithMaxInterval(p.MaxDelay),
		backoff.WithMaxElapsedTime(0), // the default ends after 15 min with -1 ns
	)
	delay := p.MinDelay
	for n := 0; n < attempt; n++ {
		delay = b.NextBackOff()
		if delay >= p.MaxDelay {
			break
		}
	}
	return delay/4 + time.Duration(random*float64(delay-delay/4))
}

// RetryAfter is the wait that an answer asked for, plus up to a quarter of it
// (30 s at most), so that the fleet does not return at one instant.
func RetryAfter(asked time.Duration, random float64) time.Duration {
	asked = min(max(asked, 0), MaxRetryAfter)
	return asked + time.Duration(random*float64(min(asked/4, 30*time.Second)))
}
