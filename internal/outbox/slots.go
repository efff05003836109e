package outbox

import (
	"sync"
	"time"

	"flexworker/internal/flex"
)

// slots is how many calls this process may have in flight. Twilio's 429 counts
// calls in flight, and says neither how many it allows nor always for how long
// to wait; so the number falls when it comes and rises again by itself, as TCP
// does, without the replicas talking to each other.
type slots struct {
	mu       sync.Mutex
	ceiling  int // FLEX_CONCURRENCY
	limit    float64
	inFlight int
	good     int       // calls that were answered since the limit last changed
	cutAt    time.Time // when it last fell
	freed    signal
}

const (
	cutFactor = 0.6
	// cutEvery is the least time between two falls: one wave of 429 is one.
	cutEvery = time.Second
)

func newSlots(ceiling int) *slots {
	return &slots{ceiling: ceiling, limit: float64(ceiling), freed: newSignal()}
}

// free is how many more calls may begin now.
func (s *slots) free() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return max(int(s.limit)-s.inFlight, 0)
}

func (s *slots) take(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inFlight += n
}

func (s *slots) give() {
	s.mu.Lock()
	s.inFlight--
	s.mu.Unlock()
	s.freed.raise()
}

// told changes the limit by what a call brought.
func (s *slots) told(o flex.Outcome, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case o.Limited:
		if now.Sub(s.cutAt) >= cutEvery {
			s.limit, s.good, s.cutAt = max(s.limit*cutFactor, 1), 0, now
		}
	case !noAnswer(o):
		if s.good++; s.good >= int(s.limit) && int(s.limit) < s.ceiling {
			s.limit, s.good = min(s.limit+1, float64(s.ceiling)), 0
		}
	}
}

// restart lets one call try after the gate was shut because Flex was away: each
// that fails may be an uncertain request.
func (s *slots) restart() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limit, s.good = 1, 0
}
