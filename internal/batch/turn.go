package batch

import "time"

// A Turn lets writes of different kinds go one after another where it can, so that
// each finds more waiting: a statement costs as much as ten of its rows, whatever it
// is that gathers them. Nil is no turn at all: every write goes at once.
type Turn struct {
	taken chan struct{}
	most  time.Duration
}

// NewTurn gives a turn for which no write waits longer than most; then it goes beside
// the other, which may be stuck.
func NewTurn(most time.Duration) *Turn { return &Turn{taken: make(chan struct{}, 1), most: most} }

// Take waits until it is the caller's turn, or for the most that is waited, and returns
// what ends it, to be called once.
func (t *Turn) Take() (end func()) {
	if t == nil {
		return func() {}
	}
	end = func() { <-t.taken }
	select {
	case t.taken <- struct{}{}:
		return end
	default:
	}
	late := time.NewTimer(t.most)
	defer late.Stop()
	select {
	case t.taken <- struct{}{}:
		return end
	case <-late.C:
		return func() {}
	}
}
