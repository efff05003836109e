package outbox

import "sync"

// A shortcut joins Add to the Deliverer of this process. What is added while a
// slot is free and nothing that is due waits in the table is leased by its very
// insert: the two arrows add and claim in one statement, and one write less. The
// states and who may do what are the same. The zero value is closed: what is
// added is pending.
type shortcut struct {
	mu       sync.Mutex
	slots    *slots // nil: closed
	begin    func(Lease)
	reserved sync.WaitGroup
}

// open lets Add lease. begin starts the delivery of a lease whose slot is taken.
func (s *shortcut) open(slots *slots, begin func(Lease)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.slots, s.begin = slots, begin
}

// close returns when all that was leased here has begun. What is added later is
// pending.
func (s *shortcut) close() {
	s.mu.Lock()
	s.slots = nil
	s.mu.Unlock()
	s.reserved.Wait()
}

// room is how many of those who wait should be added in the next write.
func (s *shortcut) room(waiting func() int) int {
	s.mu.Lock()
	slots := s.slots
	s.mu.Unlock()
	if slots == nil {
		return waiting()
	}
	return slots.room(waiting)
}

// reserve takes up to n slots; whatever it returned has to be given to use.
func (s *shortcut) reserve(n int) reservation {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.slots == nil || n == 0 {
		return reservation{}
	}
	s.reserved.Add(1)
	return reservation{s, s.slots, s.begin, s.slots.reserve(n)}
}

// A reservation is slots that an insert may use. The zero value is of none.
type reservation struct {
	shortcut *shortcut
	slots    *slots
	begin    func(Lease)
	n        int
}

// use begins the leases and gives the other slots back. pending: requests that
// are due were added without a lease.
func (r reservation) use(leases []Lease, pending bool) {
	if r.shortcut == nil {
		return
	}
	for _, l := range leases {
		r.begin(l)
	}
	for range r.n - len(leases) {
		r.slots.give()
	}
	if pending {
		r.slots.setBacklog(true)
	}
	r.shortcut.reserved.Done()
}
