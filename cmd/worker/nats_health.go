package main

import (
	"log/slog"
	"regexp"
	"sync"
	"sync/atomic"

	"github.com/nats-io/nats.go"

	"flexworker/internal/trouble"
)

// natsHealth is what the connection's handlers have seen.
type natsHealth struct {
	refusals refusals
	// awaySince is when the connection was lost, in Unix nanoseconds; 0: it is there, or never was.
	awaySince atomic.Int64
	closed    func(error)               // is told why the connection is closed for good, but not by us
	conn      atomic.Pointer[nats.Conn] // nil until the library has given it out

	mu        sync.Mutex
	unreached map[string]*trouble.Trouble // by the reason, since it was connected last
}

// digits are what differs in the same reason from one try to the next: the port of this side.
var digits = regexp.MustCompile(`[0-9]+`)

// isNotReached says in the log why a try to connect failed: once, and then once a minute for each reason.
func (h *natsHealth) isNotReached(err error, at natsURL, log *slog.Logger) {
	err = natsError{err, at}
	h.mu.Lock()
	defer h.mu.Unlock()
	reason := digits.ReplaceAllString(err.Error(), "")
	if h.unreached[reason] == nil {
		if h.unreached == nil {
			h.unreached = map[string]*trouble.Trouble{}
		}
		h.unreached[reason] = &trouble.Trouble{}
	}
	h.unreached[reason].Tell(log, "NATS cannot be connected to; trying again", err)
}

// isReached is its end, which has a line of its own.
func (h *natsHealth) isReached() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.unreached = nil
}
