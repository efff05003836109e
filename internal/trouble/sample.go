package trouble

import (
	"sync"
	"time"
)

// perMinute is how many lines of one kind Sample lets through in a minute.
const perMinute = 10

// A Sample lets a few lines a minute through of what may happen thousands of times, and
// counts the others. The zero value is ready.
type Sample struct {
	mu    sync.Mutex
	begun time.Time // of the minute
	n     int       // let through in it
	left  int       // not let through since the latest that was
}

// Next says whether this one is let through, and how many were not since the one before.
func (s *Sample) Next() (through bool, leftOut int) { return s.next(time.Now()) }

func (s *Sample) next(now time.Time) (through bool, leftOut int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Sub(s.begun) >= time.Minute {
		s.begun, s.n = now, 0
	}
	if s.n == perMinute {
		s.left++
		return false, 0
	}
	s.n++
	leftOut, s.left = s.left, 0
	return true, leftOut
}
