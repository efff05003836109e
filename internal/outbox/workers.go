package outbox

import (
	"sync"

	"flexworker/internal/outbox/attempt"
)

// workers are a pool of goroutines that deliver leases. One that has delivered takes the
// next lease, since its stack has grown already: to grow a new one for each lease took a
// twentieth of the worker's CPU time.
type workers struct {
	deliver func(attempt.Lease)
	next    chan attempt.Lease
	idle    chan struct{} // who waits for the next lease
	over    chan struct{}
	busy    sync.WaitGroup
}

// newWorkers gives a pool of which at most as many wait for a lease.
func newWorkers(most int, deliver func(attempt.Lease)) *workers {
	return &workers{deliver: deliver, next: make(chan attempt.Lease), idle: make(chan struct{}, most), over: make(chan struct{})}
}

// begin returns once somebody delivers l.
func (w *workers) begin(l attempt.Lease) {
	select {
	case w.next <- l:
	default:
		w.busy.Go(func() { w.work(l) })
	}
}

// work delivers l and what comes after it, until it is over or enough others wait.
func (w *workers) work(l attempt.Lease) {
	for {
		w.deliver(l)
		select {
		case w.idle <- struct{}{}:
		default:
			return
		}
		select {
		case l = <-w.next:
			<-w.idle
		case <-w.over:
			return
		}
	}
}

// end returns when all that was begun is delivered. Nothing may begin after it.
func (w *workers) end() {
	close(w.over)
	w.busy.Wait()
}
