package gate

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"flexworker/internal/database"
)

const (
	// FailingAfter is how long nothing may have succeeded, although calls are made,
	// until this replica says that it is failing.
	FailingAfter = time.Minute
	// LookupsFailing is how many searches in a row TaskRouter must have left without
	// an answer until this replica says so.
	LookupsFailing = 3
	// ForgottenAfter is how long after the latest call its failure is still told: what
	// waits for a person is looked up every ten minutes.
	ForgottenAfter = 15 * time.Minute
)

// StalledAfter is how long Postgres may let nothing through of what this replica wants to write
// until the replica says so: longer than one wait for a lock, or one statement that is cut off.
const StalledAfter = 10 * time.Second

// stallForgotten is how long after the latest try that failed a Stall is over: nobody tries any more, as
// where an outcome was given up or a message went to another replica. Who tries does so every few seconds.
const stallForgotten = time.Minute

// A Stall follows whether Postgres lets through what is tried again and again until it does. The
// zero value is ready.
type Stall struct {
	// Seldom: another replica may make the next try, and this one none. So the stall has lasted from the first failed try
	// to the latest one, not until now, and one failure alone is no stall.
	Seldom bool

	mu     sync.Mutex
	passed time.Time // when a try last succeeded, or there was nothing to try
	begun  time.Time // when the first try after that began, of those that failed; zero: none has
	latest time.Time // when the latest of them began
	why    string    // of the latest
}

// Failed notes a try that failed, and why: the sessions behind it, where err knows them.
func (s *Stall) Failed(began time.Time, err error) {
	why := cmp.Or(database.HeldBy(err), err.Error())
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.begun.IsZero() || began.Sub(s.latest) > stallForgotten {
		s.begun = began
		if s.begun.Before(s.passed) { // several are tried at once
			s.begun = s.passed
		}
	}
	s.latest, s.why = began, why
}

// Tried notes how a try went that began then, and gives its error, with the sessions that hold what it has waited
// for. What Postgres refuses for its data says nothing of the others.
func (s *Stall) Tried(ctx context.Context, pool *pgxpool.Pool, began time.Time, err error) error {
	switch {
	case err == nil:
		s.GoesOn(time.Now())
	case !database.IsDataError(err):
		err = database.WithHolders(ctx, pool, began, err)
		s.Failed(began, err)
	}
	return err
}

// GoesOn notes that a try succeeded, or that there is nothing to try.
func (s *Stall) GoesOn(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.passed, s.begun = now, time.Time{}
}

// Lasts says for how long nothing has got through, and why; 0: it does, or nobody tries.
func (s *Stall) Lasts(now time.Time) (d time.Duration, why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.begun.IsZero() || now.Sub(s.latest) > stallForgotten {
		return 0, ""
	}
	if s.Seldom {
		now = s.latest
	}
	return now.Sub(s.begun), s.why
}

// A Stalling is a Stall with what it keeps from being done, as in "nothing could be claimed".
type Stalling struct {
	What  string
	Stall *Stall
}

// Stalled says what has not got through for after or longer, the first of these; "": all goes on, or nobody tries.
func Stalled(after time.Duration, all ...Stalling) string {
	now := time.Now()
	for _, s := range all {
		if lasts, why := s.Stall.Lasts(now); lasts >= after {
			return fmt.Sprintf("%s for %v: %s", s.What, lasts.Round(time.Second), why)
		}
	}
	return ""
}

// Progress follows whether calls of one kind succeed. The zero value is ready.
type Progress struct {
	mu      sync.Mutex
	success time.Time // of the latest call that succeeded; zero: none
	since   time.Time // when the first call after it failed; zero: none has
	latest  time.Time // when the latest call failed
	n       int       // failures since then
	why     string
}

// Succeeded notes a call that succeeded.
func (p *Progress) Succeeded(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.success, p.since, p.n = now, time.Time{}, 0
}

// Failed notes a call that failed, and why.
func (p *Progress) Failed(why string, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.n == 0 {
		p.since = now
	}
	p.latest, p.why = now, why
	p.n++
}

// Last is when a call last succeeded; zero: never.
func (p *Progress) Last() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.success
}

// Failing says why nothing succeeds: there were at least least failures in a row, the
// first of them longer ago than after and the latest within recent. "": it does, or
// nothing was tried.
func (p *Progress) Failing(least int, after, recent time.Duration, now time.Time) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.n < least || now.Sub(p.since) < after || now.Sub(p.latest) > recent {
		return ""
	}
	return fmt.Sprintf("%d in a row since %s; the latest: %s", p.n, p.since.UTC().Format("15:04:05 UTC"), p.why)
}
