// Package loop has what every loop of the worker is made of: a signal that wakes it, a rest that ends
// with the signal, and jitter. A loop takes what is there, starts it, and rests until it is woken. A
// signal may be lost with its process, so each loop also wakes by itself.
package loop

import (
	"context"
	"math/rand/v2"
	"time"
)

// A Signal wakes one loop; signals that come while it is awake become one.
type Signal chan struct{}

// NewSignal gives a signal that was not raised yet.
func NewSignal() Signal { return make(Signal, 1) }

// Raise wakes the loop that rests on s, or the next that will. It never blocks.
func (s Signal) Raise() {
	select {
	case s <- struct{}{}:
	default:
	}
}

// Rest returns when d is over, s is raised or ctx ends; a nil s is never raised.
func Rest(ctx context.Context, d time.Duration, s <-chan struct{}) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	case <-s:
	}
}

// Jittered is d give or take a quarter, so that replicas which started together do
// not act together.
func Jittered(d time.Duration) time.Duration {
	return time.Duration((0.75 + rand.Float64()/2) * float64(d))
}

// Outlive gives ctx that ends so long after ctx does: for what was begun and is to end, however long a server keeps silent. The
// caller calls end when its work is done.
func Outlive(ctx context.Context, by time.Duration) (longer context.Context, end func()) {
	longer, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		Rest(longer, by, nil)
		cancel()
	})
	return longer, func() { stop(); cancel() }
}
