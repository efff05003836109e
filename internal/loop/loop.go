package loop

import (
	"context"
	"math/rand/v2"
	"time"
)

// A signal wakes one loop; signals that come while it is awake become one.
type Signal chan struct{}

func NewSignal() Signal { return make(Signal, 1) }

func (s Signal) Raise() {
	select {
	case s <- struct{}{}:
	default:
	}
}

// wait rests until the time is over, a signal comes or ctx ends.
func Rest(ctx context.Context, d time.Duration, s <-chan struct{}) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	case <-s:
	}
}

// jittered is d give or take a quarter, so that replicas which started together do
// not act together.
func Jittered(d time.Duration) time.Duration {
	return time.Duration((0.75 + rand.Float64()/2) * float64(d))
}
