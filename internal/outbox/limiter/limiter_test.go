package limiter

import (
	"fmt"
	"testing"
	"time"

	"flexworker/internal/flex"
)

func (l *Limiter) free() int {
	free, _ := l.Free()
	return free
}

// TestLimitByAnswers: the number of calls in flight after a row of answers. L is
// a 429, g an answer, n none, u a request that could not be sent; a dot is a second that passes.
func TestLimitByAnswers(t *testing.T) {
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
		{16, "Lggggggggg", 10}, // as many answers as permits earn one more
		{16, "Lgggggggg", 9},   // one too few
		{16, "Lggggggnnn", 9},  // no answer earns none
		{16, "Lgggggggggnnnn", 10},
		{16, "Lgggggggguuu", 9},  // nor does what could not be sent
		{16, "Lggggg.Lggggg", 6}, // the count begins anew with a fall
		{1, "L.L.L", 1},
		{2, "L", 1},
		{2, "Lggggg", 2},
		{16, "ggggggggggggggggggggggggggggggggggggggg", 16},
		{16, "nnnnnnnnnnnn", 16}, // the breaker is for outages
	} {
		t.Run(fmt.Sprint(tt.ceiling, tt.answers), func(t *testing.T) {
			t.Parallel()
			l, now := New(tt.ceiling), time.Now()
			for _, a := range tt.answers {
				switch a {
				case 'L':
					l.Observe(flex.Outcome{Kind: flex.Refused, Limited: true}, now)
				case 'g':
					l.Observe(flex.Outcome{Kind: flex.Created}, now)
				case 'n':
					l.Observe(flex.Outcome{Kind: flex.Uncertain}, now)
				case 'u':
					l.Observe(flex.Outcome{Kind: flex.Rejected, Unreached: true}, now)
				case '.':
					now = now.Add(cutEvery)
				}
			}
			if got := l.free(); got != tt.want {
				t.Errorf("%d calls may be in flight, want %d", got, tt.want)
			}
		})
	}
}

// TestNeverBelowZero: a limit that falls under what is in flight.
func TestNeverBelowZero(t *testing.T) {
	t.Parallel()
	l := New(4)
	l.Take(4)
	l.Restart()
	if got := l.free(); got != 0 {
		t.Errorf("%d free", got)
	}
	for range 3 {
		l.Give(1)
	}
	if got := l.free(); got != 0 {
		t.Errorf("%d free, one is in flight", got)
	}
	l.Give(1)
	if got := l.free(); got != 1 {
		t.Errorf("%d free", got)
	}
}

// TestTake: what one has taken another cannot take, so that an insert and a claim together
// never begin more calls than there are permits.
func TestTake(t *testing.T) {
	t.Parallel()
	l := New(4)
	if n := l.Take(1); n != 1 {
		t.Fatal(n)
	}
	if n := l.Take(100); n != 3 || l.Take(1) != 0 || l.Take(100) != 0 {
		t.Errorf("%d taken, %d in flight of 4", n, l.inFlight)
	}
	l.Give(1)
	select {
	case <-l.Freed:
	default:
		t.Error("nobody is told of the free permit")
	}
	if n := l.Take(2); n != 1 || l.inFlight != 4 {
		t.Errorf("%d taken, %d in flight of 4", n, l.inFlight)
	}
}

// TestUnrecorded: while outcomes wait to be recorded no call begins beyond as many as a
// crash may make uncertain.
func TestUnrecorded(t *testing.T) {
	t.Parallel()
	l := New(2)
	calls := 0
	for l.free() > 0 {
		l.Take(1)
		l.Ended()
		calls++
	}
	if calls != 2*unrecordedMost {
		t.Errorf("%d calls, want %d", calls, 2*unrecordedMost)
	}
	<-l.Freed
	l.Recorded()
	if n := l.free(); n != 1 {
		t.Errorf("%d permits after one is recorded", n)
	}
	select {
	case <-l.Freed:
	default:
		t.Error("nobody is told of the free permit")
	}
	for range calls - 1 {
		l.Recorded()
	}
	if n := l.free(); n != 2 {
		t.Errorf("%d permits after all are", n)
	}
}

// TestLimit: calls in flight fall with a wave of 429, once, never below one, and
// rise again to the ceiling and no further.
func TestLimit(t *testing.T) {
	t.Parallel()
	limited, fine := flex.Outcome{Kind: flex.Refused, Limited: true}, flex.Outcome{Kind: flex.Created}
	l := New(10)
	now := time.Now()
	check := func(when string, want int) {
		t.Helper()
		if got := l.free(); got != want {
			t.Errorf("%s: %d free, want %d", when, got, want)
		}
	}
	l.Take(10)
	check("all taken", 0)
	for range 10 {
		l.Observe(limited, now)
		l.Give(1)
	}
	check("one wave", 6)
	for range 100 {
		now = now.Add(cutEvery)
		l.Observe(limited, now)
	}
	check("many waves", 1)
	l.Observe(flex.Outcome{}, now)
	l.Observe(flex.Outcome{Kind: flex.Refused, Unreached: true}, now)
	check("no answers", 1)
	l.Observe(fine, now)
	check("one good", 2)
	for range 1000 {
		l.Observe(fine, now)
	}
	check("many good", 10)
	l.Restart()
	check("one tries again", 1)
	l.Take(1)
	check("and no other", 0)
}

// TestChoose: while the breaker chooses there is one permit; then those from before, less what a 429 has cut.
func TestChoose(t *testing.T) {
	t.Parallel()
	l, now := New(16), time.Now()
	for _, step := range []struct {
		name string
		do   func()
		want int
	}{
		{"choose", l.Choose, 1}, {"chosen", l.Chosen, 16}, {"choose again", l.Choose, 1},
		{"429", func() { l.Observe(flex.Outcome{Kind: flex.Refused, Limited: true}, now) }, 1},
		{"chosen after a 429", l.Chosen, 9}, {"choose once more", l.Choose, 1}, {"restart", l.Restart, 1}, {"chosen after a restart", l.Chosen, 1},
	} {
		step.do()
		if n := l.free(); n != step.want {
			t.Errorf("%s: %d, want %d", step.name, n, step.want)
		}
	}
}

// TestChooseBesideWhatIsTaken: while the breaker chooses one call may begin beside those in flight, and none more when
// one of these ends; never more than the ceiling.
func TestChooseBesideWhatIsTaken(t *testing.T) {
	t.Parallel()
	l := New(4)
	check := func(when string, want int) {
		t.Helper()
		if got := l.free(); got != want {
			t.Errorf("%s: %d free, want %d", when, got, want)
		}
	}
	l.Take(4)
	l.Choose() // the call that made it choose has not ended
	check("all are taken", 0)
	l.Ended()
	check("it has ended", 1)
	l.Take(4)
	l.Give(1)
	check("a claim found none to try", 1)
	l.Take(4)
	check("another is tried", 0)
	for range 3 {
		l.Ended()
		check("an earlier one has ended", 0)
	}
	l.Chosen()
	check("it is chosen", 3)
	l.Take(3)
	l.Choose()
	l.Restart()
	l.Give(3)
	check("stopped", 0)
	l.Ended()
	check("all have ended", 1)
}
