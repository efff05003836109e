package outbox

import (
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

// Failing says why TaskRouter cannot be asked; "": it can, or nothing is asked.
func (r *Resolver) Failing() string {
	if why := r.searches.failing(lookupsFailing, 0, forgottenAfter, time.Now()); why != "" {
		return "TaskRouter cannot be asked: " + why
	}
	return ""
}

// LastAnswered is when TaskRouter last answered a search; zero: never.
func (r *Resolver) LastAnswered() time.Time { return r.searches.last() }
