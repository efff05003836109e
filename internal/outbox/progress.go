package outbox

import (
	"context"
	"fmt"
	"sync"
	"time"

	"flexworker/internal/flex"
)

const (
	// failingAfter is how long nothing may have succeeded, although calls are made,
	// until this replica says that it is failing.
	failingAfter = time.Minute
	// lookupsFailing is how many searches in a row TaskRouter must have left without
	// an answer until this replica says so.
	lookupsFailing = 3
	// forgottenAfter is how long after the latest call its failure is still told: what
	// waits for a person is looked up every ten minutes.
	forgottenAfter = 15 * time.Minute
)

// stalledAfter is how long Postgres may let nothing through of what this replica wants to write
// until the replica says so: longer than one wait for a lock, or one statement that is cut off.
const stalledAfter = 10 * time.Second

// A stall follows whether Postgres lets through what is tried again and again until it does. The
// zero value is ready.
type stall struct {
	mu     sync.Mutex
	passed time.Time // when a try last succeeded, or there was nothing to try
	begun  time.Time // when the first try after that began, of those that failed; zero: none has
	why    string    // of the latest
}

// failed notes a try that failed.
func (s *stall) failed(began time.Time, why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.begun.IsZero() {
		s.begun = began
		if s.begun.Before(s.passed) { // several are tried at once
			s.begun = s.passed
		}
	}
	s.why = why
}

// goesOn notes that a try succeeded, or that there is nothing to try.
func (s *stall) goesOn(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.passed, s.begun = now, time.Time{}
}

// lasts says for how long nothing has got through, and why; 0: it does.
func (s *stall) lasts(now time.Time) (d time.Duration, why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.begun.IsZero() {
		return 0, ""
	}
	return now.Sub(s.begun), s.why
}

// progress follows whether calls of one kind succeed. The zero value is ready.
type progress struct {
	mu      sync.Mutex
	success time.Time // of the latest call that succeeded; zero: none
	since   time.Time // when the first call after it failed; zero: none has
	latest  time.Time // when the latest call failed
	n       int       // failures since then
	why     string
}

func (p *progress) succeeded(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.success, p.since, p.n = now, time.Time{}, 0
}

func (p *progress) failed(why string, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.n == 0 {
		p.since = now
	}
	p.latest, p.why = now, why
	p.n++
}

// last is when a call last succeeded; zero: never.
func (p *progress) last() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.success
}

// failing says why nothing succeeds: there were at least least failures in a row, the
// first of them longer ago than after and the latest within recent. "": it does, or
// nothing was tried.
func (p *progress) failing(least int, after, recent time.Duration, now time.Time) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.n < least || now.Sub(p.since) < after || now.Sub(p.latest) > recent {
		return ""
	}
	return fmt.Sprintf("%d in a row since %s; the latest: %s", p.n, p.since.UTC().Format("15:04:05 UTC"), p.why)
}

// seen takes what a create call has brought. A refusal that may be one tenant's says
// nothing about the others.
func (d *Deliverer) seen(o flex.Outcome, now time.Time) {
	switch {
	case o.Kind == flex.Created:
		d.creates.succeeded(now)
		d.created.Store(now.UnixNano())
	case o.Kind == flex.Rejected: // Flex has decided
		d.creates.succeeded(now)
	case oneTenants(o):
	case o.ErrorKind == "timeout":
		d.creates.failed(fmt.Sprintf("no answer within FLEX_TIMEOUT, %v: %s", d.Limit, o.Message), now)
	default:
		d.creates.failed(o.Message, now)
	}
}

// Failing says why nothing succeeds although calls are made; "": it does, or none is made.
func (d *Deliverer) Failing() string {
	if why := d.breaker.failing(); why != "" {
		return "creates fail, though Flex can be read: " + why
	}
	if why := d.creates.failing(2, failingAfter, 2*failingAfter, time.Now()); why != "" {
		return "no create call succeeds: " + why
	}
	return ""
}

// Stalled says why Postgres, which may answer every read, does not let this replica work; "": it
// does, or nothing is tried.
func (d *Deliverer) Stalled() string { return d.stalled(stalledAfter) }

func (d *Deliverer) stalled(after time.Duration) string {
	now := time.Now()
	if lasts, why := d.Store.claims.lasts(now); lasts >= after {
		return fmt.Sprintf("nothing could be claimed for %v: %s", lasts.Round(time.Second), why)
	}
	if lasts, why := d.Store.stores.lasts(now); lasts >= after {
		return fmt.Sprintf("no message could be stored for %v: %s", lasts.Round(time.Second), why)
	}
	return ""
}

// claimFailed notes that nothing could be claimed, and says it. Where nothing is due nobody misses it.
func (d *Deliverer) claimFailed(ctx context.Context, began time.Time, err error) {
	why, more := err.Error(), []any(nil)
	if held := Named(d.Store.heldFor(ctx, time.Since(began), err)); held != "" {
		why, more = held, []any{"held_by", held}
	}
	d.claiming.Tell(d.Log, claimTrouble, err, more...)
	if d.Store.anyDue(ctx) {
		d.Store.claims.failed(began, why)
	} else {
		d.Store.claims.goesOn(time.Now())
	}
}

// Failing says why TaskRouter cannot be asked; "": it can, or nothing is asked.
func (r *Resolver) Failing() string {
	if why := r.searches.failing(lookupsFailing, 0, forgottenAfter, time.Now()); why != "" {
		return "TaskRouter cannot be asked: " + why
	}
	return ""
}

// LastAnswered is when TaskRouter last answered a search; zero: never.
func (r *Resolver) LastAnswered() time.Time { return r.searches.last() }
