// Package limiter holds the permits of create calls: how many of them this process may have in flight.
//
// Twilio's 429 counts calls in flight. It says neither how many it allows nor always for how long to wait.
// So the number of permits falls when a 429 comes and rises again by itself, as TCP's window does, and the
// replicas need not talk to each other. Outcomes that are not recorded yet bound the permits, too.
//
// The package knows no table, and not who asks for a call: the Dispatcher takes permits for what it leases,
// and a call gives its permit back.
package limiter

import (
	"sync"
	"time"

	"flexworker/internal/flex"
	"flexworker/internal/loop"
)

const (
	// unrecordedMost is how many outcomes may be in hand for each permit, in flight or not
	// yet recorded: a crash makes them uncertain, and they take memory. While Postgres
	// records as fast as Flex answers there are fewer.
	unrecordedMost = 4
	cutFactor      = 0.6
	// cutEvery is the least time between two falls: one wave of 429 is one.
	cutEvery = time.Second
)

// A Limiter holds permits. Make one with New. It is safe for concurrent use.
type Limiter struct {
	// Freed is raised when a permit may have become free.
	Freed loop.Signal

	mu         sync.Mutex
	ceiling    int
	limit      float64
	kept       float64 // the limit from before Choose; 0: the breaker does not choose
	inFlight   int     // permits that are taken
	earlier    int     // those of them that were taken before Choose
	unrecorded int     // calls that have ended, whose outcomes are not recorded yet
	good       int     // calls that were answered since the limit last changed
	cutAt      time.Time
}

// New gives a Limiter of so many permits, which is also the most that it ever has.
func New(ceiling int) *Limiter {
	return &Limiter{Freed: loop.NewSignal(), ceiling: ceiling, limit: float64(ceiling)}
}

// Take takes up to n permits of those that are free, and returns how many it took.
func (l *Limiter) Take(n int) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n = min(n, l.left())
	l.inFlight += n
	return n
}

// Free is how many permits are free, of how many.
func (l *Limiter) Free() (free, of int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.left(), int(l.limit)
}

// left is how many permits are free; l.mu is held.
func (l *Limiter) left() int {
	limit := min(int(l.limit)+l.earlier, l.ceiling)
	return max(min(limit, unrecordedMost*l.ceiling-l.unrecorded)-l.inFlight, 0)
}

// Give gives back permits under which no call was made.
func (l *Limiter) Give(n int) {
	if n == 0 {
		return
	}
	l.mu.Lock()
	l.inFlight -= n
	l.earlier = min(l.earlier, l.inFlight) // mostly a claim took it a moment ago
	l.mu.Unlock()
	l.Freed.Raise()
}

// Ended gives back the permit of a call that has ended. Its outcome is in hand until Recorded.
func (l *Limiter) Ended() {
	l.mu.Lock()
	l.inFlight--
	l.earlier = max(l.earlier-1, 0) // whose it was is not known; this leaves a permit too few, if anything
	l.unrecorded++
	l.mu.Unlock()
	l.Freed.Raise()
}

// Recorded follows Ended once the outcome is recorded, or given up.
func (l *Limiter) Recorded() {
	l.mu.Lock()
	l.unrecorded--
	l.mu.Unlock()
	l.Freed.Raise()
}

// Observe changes the number of permits by what a call brought: a 429 cuts it, at most once in
// cutEvery; as many answers as there are permits earn one more. A call without an answer, or
// that could not be made, changes nothing: the breaker is for outages.
func (l *Limiter) Observe(o flex.Outcome, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case o.Limited:
		if now.Sub(l.cutAt) >= cutEvery {
			l.limit, l.good, l.cutAt = max(l.limit*cutFactor, 1), 0, now
			l.kept *= cutFactor
		}
	case !flex.Unanswered(o) && !flex.Unsendable(o):
		if l.good++; l.good >= int(l.limit) && int(l.limit) < l.ceiling {
			l.limit, l.good = min(l.limit+1, float64(l.ceiling)), 0
		}
	}
}

// Restart leaves one permit, after the breaker was open: each call that fails may be an
// uncertain request, or one 401 more.
func (l *Limiter) Restart() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.limit, l.good, l.kept, l.earlier = 1, 0, 0, 0
}

// Choose leaves one permit while the breaker chooses, beside those that are taken: calls that hang may
// hold them for long, and what is tried then must not wait for their end.
func (l *Limiter) Choose() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.kept = max(l.kept, l.limit)
	l.limit, l.good, l.earlier = 1, 0, l.inFlight
}

// Chosen gives back the limit from before Choose: one tenant's failures, or one timeout while a
// peer is stopped, slow nobody else down.
func (l *Limiter) Chosen() {
	l.mu.Lock()
	l.limit, l.kept, l.earlier = max(l.limit, l.kept), 0, 0
	l.mu.Unlock()
	l.Freed.Raise()
}
