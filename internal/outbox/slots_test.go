package outbox

import (
	"fmt"
	"testing"
	"time"

	"flexworker/internal/flex"
)

// TestSlotsByAnswers: the number of calls in flight after a row of answers. L is
// a 429, g an answer, n none; a dot is a second that passes.
func TestSlotsByAnswers(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		ceiling int
		answers string
		want    int
	}{
		{16, "", 16},
		{16, "L", 9},    // 9.6
		{16, "LLLL", 9}, // one wave
		{16, "L.L", 5},  // 5.76
		{16, "L.L.L.L.L.L.L.L.L", 1},
		{16, "Lggggggggg", 10}, // as many answers as slots earn one more
		{16, "Lgggggggg", 9},   // one too few
		{16, "Lggggggnnn", 9},  // no answer earns none
		{16, "Lgggggggggnnnn", 10},
		{16, "Lggggg.Lggggg", 6}, // the count begins anew with a fall
		{1, "L.L.L", 1},
		{2, "L", 1},
		{2, "Lggggg", 2},
		{16, "ggggggggggggggggggggggggggggggggggggggg", 16},
		{16, "nnnnnnnnnnnn", 16}, // the gate is for outages
	} {
		t.Run(fmt.Sprint(tt.ceiling, tt.answers), func(t *testing.T) {
			t.Parallel()
			s, now := newSlots(tt.ceiling), time.Now()
			for _, a := range tt.answers {
				switch a {
				case 'L':
					s.adapt(flex.Outcome{Kind: flex.Refused, Limited: true}, now)
				case 'g':
					s.adapt(flex.Outcome{Kind: flex.Created}, now)
				case 'n':
					s.adapt(flex.Outcome{Kind: flex.Uncertain}, now)
				case '.':
					now = now.Add(cutEvery)
				}
			}
			if got := s.free(); got != tt.want {
				t.Errorf("%d calls may be in flight, want %d", got, tt.want)
			}
		})
	}
}

// TestSlotsNeverBelowZero: a limit that falls under what is in flight.
func TestSlotsNeverBelowZero(t *testing.T) {
	t.Parallel()
	s := newSlots(4)
	s.take(4)
	s.restart()
	if got := s.free(); got != 0 {
		t.Errorf("%d free", got)
	}
	for range 3 {
		s.give()
	}
	if got := s.free(); got != 0 {
		t.Errorf("%d free, one is in flight", got)
	}
	s.give()
	if got := s.free(); got != 1 {
		t.Errorf("%d free", got)
	}
}

func (s *slots) free() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.left()
}

func (s *slots) take(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inFlight += n
}

// TestTakeFree: what a claim has taken, Add cannot reserve, so that both together
// never begin more calls than there are slots.
func TestTakeFree(t *testing.T) {
	t.Parallel()
	s := newSlots(4)
	s.setBacklog(false)
	if n := s.reserve(1); n != 1 {
		t.Fatal(n)
	}
	if n := s.takeFree(); n != 3 || s.reserve(1) != 0 || s.takeFree() != 0 {
		t.Errorf("%d taken, %d in flight of 4", n, s.inFlight)
	}
	s.give()
	if n := s.reserve(2); n != 1 || s.inFlight != 4 {
		t.Errorf("%d reserved, %d in flight of 4", n, s.inFlight)
	}
}

// TestUnrecorded: while outcomes wait to be recorded no call begins beyond as many as a
// crash may make uncertain.
func TestUnrecorded(t *testing.T) {
	t.Parallel()
	s := newSlots(2)
	calls := 0
	for s.free() > 0 {
		s.take(1)
		s.ended()
		calls++
	}
	if calls != 2*unrecordedMost {
		t.Errorf("%d calls, want %d", calls, 2*unrecordedMost)
	}
	s.recorded()
	if n := s.free(); n != 1 {
		t.Errorf("%d slots after one is recorded", n)
	}
	for range calls - 1 {
		s.recorded()
	}
	if n := s.free(); n != 2 {
		t.Errorf("%d slots after all are", n)
	}
}

// TestBacklogNotedMeanwhile: what was added while a claim looked, and was not seen by
// it, waits in the table all the same when the claim says that nothing does.
func TestBacklogNotedMeanwhile(t *testing.T) {
	t.Parallel()
	s := newSlots(4)
	claim := func(meanwhile func()) {
		n := s.takeFree()
		meanwhile()
		for range n {
			s.give()
		}
		s.setBacklog(false)
	}
	claim(func() {})
	if n := s.reserve(1); n != 1 {
		t.Fatalf("%d slots without a backlog", n)
	}
	s.give()
	claim(func() { s.setBacklog(true) })
	if n := s.reserve(1); n != 0 {
		t.Errorf("%d slots before what waits in the table", n)
	}
	claim(func() {})
	if n := s.reserve(1); n != 1 {
		t.Errorf("%d slots once nothing waits", n)
	}
}

// TestSlots: calls in flight fall with a wave of 429, once, never below one, and
// rise again to the ceiling and no further.
func TestSlots(t *testing.T) {
	t.Parallel()
	limited, fine := flex.Outcome{Kind: flex.Refused, Limited: true}, flex.Outcome{Kind: flex.Created}
	s := newSlots(10)
	now := time.Now()
	check := func(when string, want int) {
		t.Helper()
		if got := s.free(); got != want {
			t.Errorf("%s: %d free, want %d", when, got, want)
		}
	}
	s.take(10)
	check("all taken", 0)
	for range 10 {
		s.adapt(limited, now)
		s.give()
	}
	check("one wave", 6)
	for range 100 {
		now = now.Add(cutEvery)
		s.adapt(limited, now)
	}
	check("many waves", 1)
	s.adapt(flex.Outcome{}, now)
	s.adapt(flex.Outcome{Kind: flex.Refused, Unreached: true}, now)
	check("no answers", 1)
	s.adapt(fine, now)
	check("one good", 2)
	for range 1000 {
		s.adapt(fine, now)
	}
	check("many good", 10)
	s.restart()
	check("one tries again", 1)
	s.take(1)
	check("and no other", 0)
}
