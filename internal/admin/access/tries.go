package access

import (
	"net/netip"
	"sync"
	"time"
)

const (
	// wrongMost is how many wrong tokens an address may send at once.
	wrongMost = 10
	// RetryAfter is the time after which an address that sent too many may send one more wrong one.
	RetryAfter = 6 * time.Second
	// addressesMost bounds the memory. Beyond it an address is forgotten: whoever has so many is not slowed down by
	// their number anyway.
	addressesMost = 4096
)

// tries slows down who sends wrong tokens, each address for itself. The zero value is ready.
//
// A right token is not concerned, whatever came from its address before: behind an ingress that is no trusted proxy all come from
// one, and ten wrong tokens of anybody would shut out everybody. So nothing here keeps anybody from guessing. The length of the
// tokens does, which the settings demand; what is slowed down is the log, and a program with an old token.
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

// wrong notes a wrong token. It says whether the address had no try left: then it is not noted.
func (t *tries) wrong(from netip.Addr, now time.Time) (slowed bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	key := whose(from)
	n := t.from[key].left(now)
	if n > wrongMost-1 {
		return true
	}
	if t.from == nil {
		t.from = map[netip.Prefix]spent{}
	}
	if _, known := t.from[key]; !known && len(t.from) >= addressesMost {
		t.forget(now)
	}
	t.from[key] = spent{n + 1, now}
	return false
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
