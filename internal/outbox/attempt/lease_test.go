package attempt

import (
	"testing"
	"time"
	"unsafe"
)

// TestCovers: a call begins only while lease and deadline allow it, by each of the two clocks of a process. A
// machine that was suspended has a monotonic clock behind the wall's; a wall clock that was set back is behind
// the monotonic one.
func TestCovers(t *testing.T) {
	t.Parallel()
	now := time.Now()
	in := func(d time.Duration) time.Time { return now.Add(d) }
	for _, tt := range []struct {
		name string
		l    Lease
		now  time.Time
		want bool
	}{
		{"enough", Lease{Until: in(2 * time.Second)}, now, true},
		{"exactly enough", Lease{Until: in(time.Second)}, now, true},
		{"too little", Lease{Until: in(time.Second / 2)}, now, false},
		{"the wall clock says that it is over", Lease{Until: in(2 * time.Second)}, clocks(t, now, 0, time.Hour), false},
		{"the monotonic clock says that it is over", Lease{Until: in(2 * time.Second)}, clocks(t, now, time.Hour, 0), false},
		{"both go on, one further", Lease{Until: in(2 * time.Second)}, clocks(t, now, time.Second, time.Second/2), true},
		{"deadline ahead", Lease{Until: in(2 * time.Second), Deadline: in(time.Millisecond)}, now, true},
		{"deadline passed", Lease{Until: in(2 * time.Second), Deadline: now}, now, false},
		{"deadline passed by the wall clock", Lease{Until: in(time.Hour), Deadline: in(time.Second)}, clocks(t, now, 0, time.Minute), false},
		{"deadline passed by the monotonic clock", Lease{Until: in(time.Hour), Deadline: in(time.Second)}, clocks(t, now, time.Minute, 0), false},
	} {
		if got := tt.l.Covers(time.Second, tt.now); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}

// clocks is a moment after now at which a process's two clocks have gone on by different spans. No function of
// package time makes one: the monotonic reading is its second word.
func clocks(t testing.TB, now time.Time, monotonic, wall time.Duration) time.Time {
	t.Helper()
	at := now.Add(wall)
	*(*int64)(unsafe.Add(unsafe.Pointer(&at), 8)) += int64(monotonic - wall)
	if at.Sub(now) != monotonic || at.Round(0).Sub(now.Round(0)) != wall {
		t.Fatalf("package time keeps its clocks otherwise by now: %v, %v", at.Sub(now), at.Round(0).Sub(now.Round(0)))
	}
	return at
}
