package outbox

import "sync"

// A crew is the goroutines that deliver leases. One that has delivered takes the
// next lease: its stack has grown already, which was a twentieth of the worker's CPU
// time.
type crew struct {
	deliver func(Lease)
	next    chan Lease
	idle    chan struct{} // who waits for the next lease
	over    chan struct{}
	working sync.WaitGroup
}

// newCrew gives a crew of which at most as many wait for a lease.
func newCrew(most int, deliver func(Lease)) *crew {
	return &crew{deliver: deliver, next: make(chan Lease), idle: make(chan struct{}, most), over: make(chan struct{})}
}

// begin returns once somebody delivers l.
func (c *crew) begin(l Lease) {
	select {
	case c.next <- l:
	default:
		c.working.Go(func() { c.work(l) })
	}
}

// work delivers l and what comes after it, until it is over or enough others wait.
func (c *crew) work(l Lease) {
	for {
		c.deliver(l)
		select {
		case c.idle <- struct{}{}:
		default:
			return
		}
		select {
		case l = <-c.next:
			<-c.idle
		case <-c.over:
			return
		}
	}
}

// end returns when all that was begun is delivered. Nothing may begin after it.
func (c *crew) end() {
	close(c.over)
	c.working.Wait()
}
