package outbox

import (
	"context"
	"sync"
	"time"

	"flexworker/internal/flex"
	"flexworker/internal/loop"
)

// slots is how many calls this process may have in flight. Twilio's 429 counts
// calls in flight, and says neither how many it allows nor always for how long
// to wait; so the number falls when it comes and rises again by itself, as TCP
// does, without the replicas talking to each other.
type slots struct {
	mu       sync.Mutex
	ceiling  int // FLEX_CONCURRENCY
	limit    float64
	kept     float64 // the limit from before the breaker chose; 0: it does not choose
	inFlight int
	// unrecorded: calls that have ended, whose outcomes are not recorded yet.
	unrecorded int
	good       int       // calls that were answered since the limit last changed
	cutAt      time.Time // when it last fell
	freed      loop.Signal
	roomier    loop.Signal // the same for Add
	// barred says whether Add must lease nothing, as this replica is stopped or tries
	// one call; nil: never.
	barred func() bool
	// backlog: requests that are due may wait in the table, and come before what
	// is added now. True until a claim has found none left; what other replicas
	// add, or falls due, after that is not known before the next claim.
	backlog      bool
	noted        int // how often Add has left some there
	notedAtClaim int // noted when the latest claim began, which may not have seen what came later
}

const (
	// unrecordedMost is how many outcomes may be in hand for each slot, in flight or not
	// yet recorded: a crash makes them uncertain, and they take memory. While Postgres
	// records as fast as Flex answers there are fewer.
	unrecordedMost = 4
	cutFactor      = 0.6
	// cutEvery is the least time between two falls: one wave of 429 is one.
	cutEvery = time.Second
	// roomWait bounds how long Add waits for slots of calls that are in flight.
	roomWait = 50 * time.Millisecond
	// backlogWait bounds how long Add waits for a backlog to be worked off: each
	// second a replica still takes ten batches, or ten times what it may have in
	// hand where that is less.
	backlogWait = 100 * time.Millisecond
)

func newSlots(ceiling int) *slots {
	return &slots{ceiling: ceiling, limit: float64(ceiling), freed: loop.NewSignal(), roomier: loop.NewSignal(), backlog: true}
}

// takeFree takes all slots that are free, for a claim, before it is known how many are
// needed: otherwise Add might take the same ones meanwhile.
func (s *slots) takeFree() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.left()
	s.inFlight += n
	s.notedAtClaim = s.noted
	return n
}

// left is how many more calls may begin now; s.mu is held.
func (s *slots) left() int {
	return max(min(int(s.limit), unrecordedMost*s.ceiling-s.unrecorded)-s.inFlight, 0)
}

func (s *slots) give() {
	s.mu.Lock()
	s.inFlight--
	s.mu.Unlock()
	s.freed.Raise()
	s.roomier.Raise()
}

// ended gives the slot of a call back, whose outcome is to be recorded.
func (s *slots) ended() {
	s.mu.Lock()
	s.unrecorded++
	s.mu.Unlock()
	s.give()
}

// recorded follows ended once the outcome is recorded, or given up.
func (s *slots) recorded() {
	s.mu.Lock()
	s.unrecorded--
	s.mu.Unlock()
	s.freed.Raise()
	s.roomier.Raise()
}

// setBacklog notes whether requests that are due wait in the table: Add, that some
// do, and a claim, what it has left.
func (s *slots) setBacklog(backlog bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if backlog {
		s.noted++
	}
	s.backlog = backlog || s.noted != s.notedAtClaim
	s.roomier.Raise()
}

// reserve takes up to n slots for what is being added, none while others wait.
func (s *slots) reserve(n int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.backlog || s.bars() {
		return 0
	}
	n = min(n, s.left())
	s.inFlight += n
	return n
}

// room is how many of those who wait, by count, should be added now: as many as
// have a slot at once or soon, since what is leased by its insert costs a write
// less; where many wait, half of all slots, since a statement costs as much as ten
// of its rows. One alone never waits while there is a slot. Where a slot is further
// away than roomWait all of them are added, and wait in the table; while some wait
// there, what comes behind them is held back for up to backlogWait, so that a
// backlog which can be worked off is, before it grows.
func (s *slots) room(count func() int) int {
	begun := time.Now()
	for {
		waiting := count()
		if s.bars() {
			return waiting
		}
		s.mu.Lock()
		free, enough, backlog := s.left(), max(int(s.limit)/2, 1), s.backlog
		s.mu.Unlock()
		left := roomWait - time.Since(begun)
		if backlog {
			left = backlogWait - time.Since(begun)
		}
		switch {
		case !backlog && free >= min(waiting, enough):
			return min(waiting, free)
		case left > 0:
			loop.Rest(context.Background(), left, s.roomier)
		case backlog || free == 0:
			return waiting
		default:
			return min(waiting, free)
		}
	}
}

func (s *slots) bars() bool { return s.barred != nil && s.barred() }

// adapt changes the limit by what a call brought.
func (s *slots) adapt(o flex.Outcome, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case o.Limited:
		if now.Sub(s.cutAt) >= cutEvery {
			s.limit, s.good, s.cutAt = max(s.limit*cutFactor, 1), 0, now
			s.kept *= cutFactor
		}
	case !flex.Unanswered(o):
		if s.good++; s.good >= int(s.limit) && int(s.limit) < s.ceiling {
			s.limit, s.good = min(s.limit+1, float64(s.ceiling)), 0
		}
	}
}

// restart lets one call try, after the breaker was open: each that fails may be an
// uncertain request, or one 401 more.
func (s *slots) restart() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limit, s.good, s.kept = 1, 0, 0
}

// choose lets one call try while the breaker chooses.
func (s *slots) choose() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kept = max(s.kept, s.limit)
	s.limit, s.good = 1, 0
}

// chosen gives back the limit from before choose: one tenant's failures, or one timeout
// while a peer is stopped, slow nobody else down.
func (s *slots) chosen() {
	s.mu.Lock()
	s.limit, s.kept = max(s.limit, s.kept), 0
	s.mu.Unlock()
	s.freed.Raise()
	s.roomier.Raise()
}
