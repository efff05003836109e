package lookup

import (
	"context"
	"errors"
	"sync"
	"time"

	"flexworker/internal/flex"
	"flexworker/internal/outbox/request"
)

const (
	// wakeEvery is the least time between two wakings of one scope. By then each of those that wait
	// for a person has been looked up anyway: one that comes and goes must not have all of
	// them looked up each time.
	wakeEvery = request.MaxBesidePerson
	// forgetAfter is when a scope of which nothing was asked is forgotten.
	forgetAfter = 2 * wakeEvery
	// mostScopes is how many scopes are remembered. What is beyond them is not woken.
	mostScopes = 1000
)

// A scope is where lookups ask: a workspace, for the keys under one attribute.
type scope struct{ workspace, attribute string }

// A witness is one of the two that a lookup asks.
type witness uint8

const (
	taskList witness = iota
	eventLog
)

// A hearing remembers which witnesses answered last, by scope. From that follows when those
// that wait for a person are looked up at once: when TaskRouter answers again, all of it.
type hearing struct {
	mu     sync.Mutex
	scopes map[scope]*heard
}

// heard is what a hearing knows of one scope.
type heard struct {
	mute  [2]bool   // by witness: it did not answer last
	owed  bool      // nothing was woken since it was mute, or since this process first asked
	woken time.Time // zero: never
	at    time.Time // when it was last asked
}

// take notes whether the witnesses answered: of those that were asked, the error or nil. A 429 is
// an answer, but tells nothing of what was asked for: it changes nothing. wake: what waits
// there for a person is to be looked up now.
func (h *hearing) take(in scope, answers map[witness]error, now time.Time) (wake bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	known := h.of(in, now)
	if known == nil {
		return false
	}
	known.at = now
	answered := false
	for w, err := range answers {
		if e := (*flex.LookupError)(nil); errors.As(err, &e) && e.Limited {
			continue
		}
		known.mute[w] = err != nil
		known.owed = known.owed || err != nil
		answered = answered || err == nil
	}
	if !answered || !known.owed || known.mute != [2]bool{} || !known.woken.IsZero() && now.Sub(known.woken) < wakeEvery {
		return false
	}
	known.owed, known.woken = false, now
	return true
}

// of is what is known of a scope; nil: there is no room for it.
func (h *hearing) of(in scope, now time.Time) *heard {
	if known := h.scopes[in]; known != nil {
		return known
	}
	for other, known := range h.scopes {
		if now.Sub(known.at) > forgetAfter {
			delete(h.scopes, other)
		}
	}
	if len(h.scopes) >= mostScopes {
		return nil
	}
	if h.scopes == nil {
		h.scopes = map[scope]*heard{}
	}
	known := &heard{owed: true}
	h.scopes[in] = known
	return known
}

// A hearer asks on behalf of one lookup, and keeps what each witness answered last. It is
// for one goroutine.
type hearer struct {
	Finder
	answers map[witness]error
}

// SearchTasks asks the first witness.
func (l hearer) SearchTasks(ctx context.Context, workspace, attribute string, keys []string) ([]flex.Task, error) {
	tasks, err := l.Finder.SearchTasks(ctx, workspace, attribute, keys)
	l.answers[taskList] = err
	return tasks, err
}

// Events asks the second witness.
func (l hearer) Events(ctx context.Context, workspace, attribute string, keys []string, from, to time.Time) ([]flex.Task, bool, error) {
	tasks, complete, err := l.Finder.Events(ctx, workspace, attribute, keys, from, to)
	l.answers[eventLog] = err
	return tasks, complete, err
}
