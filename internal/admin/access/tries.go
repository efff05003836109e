package access

import (
	"net/netip"
	"sync"
	"time"
)

const (
	// wrongMost is how many wrong tokens an address may send at once.
	wrongMost = 10
	// RetryAfter is the time after which an address that sent too many may send one more.
	RetryAfter = 6 * time.Second
	// addressesMost bounds the memory. Beyond it an address is forgotten: whoever has so many is not slowed down by
	// their number anyway.
	addressesMost = 4096
)

// tries slows down who guesses tokens, each address for itself: nobody can lock out another. The zero value is ready.
type tries struct {
	mu   sync.Mutex
	from map[netip.Prefix]spent
}

// spent are the tries that an address has used up, at a time. One comes back each RetryAfter.
type spent struct {
	n  float64
	at time.Time
}

// left is what is spent at a later time.
func (s spent) left(now time.Time) float64 {
	return max(0, s.n-now.Sub(s.at).Seconds()/RetryAfter.Seconds())
}

// try calls right, which compares a token, unless the address has no try left: then it returns false. A token that
// is right costs none. Tokens are compared one after the other, so that many at once are not more than many in a row.
func (t *tries) try(from netip.Addr, now time.Time, right func() bool) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	key := whose(from)
	n := t.from[key].left(now)
	if n > wrongMost-1 {
		return false
	}
	if right() {
		return true
	}
	if t.from == nil {
		t.from = map[netip.Prefix]spent{}
	}
	if _, known := t.from[key]; !known && len(t.from) >= addressesMost {
		t.forget(now)
	}
	t.from[key] = spent{n + 1, now}
	return true
}

// forget makes room: it removes the addresses that have all their tries again, and others until half of the room is
// free, so that it is called seldom.
func (t *tries) forget(now time.Time) {
	for key, s := range t.from {
		if s.left(now) == 0 {
			delete(t.from, key)
		}
	}
	for key := range t.from {
		if len(t.from) <= addressesMost/2 {
			return
		}
		delete(t.from, key)
	}
}

// whose is whom an address belongs to: of IPv6 anybody may have a network of 64 bits.
func whose(address netip.Addr) netip.Prefix {
	bits := address.BitLen()
	if address.Is6() {
		bits = 64
	}
	p, _ := address.Prefix(bits) // the zero address has the zero prefix
	return p
}
