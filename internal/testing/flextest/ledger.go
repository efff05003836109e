package flextest

import (
	"context"
	"math/rand/v2"
	"strings"
	"sync"
	"time"
)

// entry is an Entry in the form that is cheap to keep.
type entry struct {
	n, task, request uint64
	at               int64 // unix nanoseconds
	key, testID      string
	kind, channelSID string // channelSID: as given; "" for a new channel
	mediaSID         string // of the conversation, as given; "" for a new one
	closed           bool   // its channel is
	call             *Call
	routed           *task // nil: no task, or forgotten while bodies are dropped
	fate             Fate
	customers        int // that are in the channel once it is set up
	setupAfter       time.Duration
}

// ledger is everything the server remembers, behind one lock.
type ledger struct {
	run  uint64 // in every sid of this server
	keep int    // bodies and events kept; 0: all

	fates *rand.Rand // dice for SetupFates; under the lock

	mu         sync.Mutex
	entries    []*entry
	tasks      []*task // by number; nil when forgotten
	swept      int     // tasks before it are forgotten
	events     []event
	byKey      map[string][]*task
	created    map[string]int // interactions by key
	duplicates []string
	violations []string
	requests   uint64
	calls      Calls
	answered   [600]int
	changed    chan struct{} // non-nil while somebody waits; closed by a change
}

func newLedger(keep int) *ledger {
	return &ledger{run: rand.Uint64(), keep: keep, byKey: map[string][]*task{}, created: map[string]int{}}
}

// enter counts a create call that arrived, names it and says how many are in
// flight with it.
func (l *ledger) enter() (request uint64, inFlight int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.requests++
	l.calls.Received++
	l.calls.InFlight++
	l.calls.MaxInFlight = max(l.calls.MaxInFlight, l.calls.InFlight)
	l.signal()
	return l.requests, l.calls.InFlight
}

// leave counts the answer of a create call, just before it is sent; status 0
// when there will be none.
func (l *ledger) leave(status int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls.InFlight--
	l.answered[status]++
	l.signal()
}

// add creates the interaction that q asks for and forgets the tasks whose time
// has come.
func (l *ledger) add(q *wish, request uint64, settings *Settings, set *TaskRouter) *entry {
	e := &entry{request: request, key: q.key, testID: q.testID, kind: q.kind, channelSID: strings.Clone(q.channelSID), mediaSID: strings.Clone(q.mediaSID), call: &Call{
		Channel: q.channel, Routing: q.routing, ContextSID: q.contextSID, WebhookID: q.webhookID,
		Proto: q.proto, Header: q.header,
	}, customers: q.customers(), setupAfter: settings.SetupAfter}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now().UnixNano() // under the lock: entries and events stand in the order of their times
	e.at = now
	e.fate = settings.SetupFates.throw(l.fates)
	l.sweep(set, now)
	l.entries = append(l.entries, e)
	e.n = uint64(len(l.entries))
	if l.keep > 0 && len(l.entries) > l.keep {
		l.entries[len(l.entries)-1-l.keep].call = nil
	}
	if q.routed {
		t := &task{entry: e, created: now, attributes: q.attributes, wish: *q}
		t.wish.channel, t.wish.routing, t.wish.header = "", "", nil
		l.addTask(t)
		e.task, e.routed = t.n, t
	}
	if q.key != "" {
		if l.created[q.key]++; l.created[q.key] == 2 {
			l.duplicates = append(l.duplicates, q.key)
		}
	}
	l.signal()
	return e
}

// violate notes that a client did what no client may do.
func (l *ledger) violate(what string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.violations) < 1000 {
		l.violations = append(l.violations, what)
	}
	l.signal()
}

// count adds one to a counter of l.calls.
func (l *ledger) count(counter *int) { l.shift(counter, 1) }

// shift adds by to a counter of l.calls.
func (l *ledger) shift(counter *int, by int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	*counter += by
	l.signal()
}

// signal wakes those who wait. The lock is held.
func (l *ledger) signal() {
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
}

// snapshot copies the counters. The lock is held.
func (l *ledger) snapshot() Calls {
	c := l.calls
	c.Created, c.Duplicates, c.Answered = len(l.entries), len(l.duplicates), map[int]int{}
	for status, n := range l.answered {
		if n > 0 {
			c.Answered[status] = n
		}
	}
	return c
}

// wait returns nil as soon as done says so of the counters, or the context's
// error.
func (l *ledger) wait(ctx context.Context, done func(Calls) bool) error {
	for {
		l.mu.Lock()
		calls := l.snapshot()
		if l.changed == nil {
			l.changed = make(chan struct{})
		}
		changed := l.changed
		l.mu.Unlock()
		if done(calls) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// after copies at most limit entries that follow the n-th.
func (l *ledger) after(n, limit int) []Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	n = min(max(n, 0), len(l.entries))
	part := l.entries[n:min(n+limit, len(l.entries))]
	list := make([]Entry, 0, len(part))
	for _, e := range part {
		entry := Entry{
			N: int(e.n), InteractionSID: l.sid("KD", e.n), At: time.Unix(0, e.at).UTC(),
			Key: e.key, TestID: e.testID, RequestID: l.sid("RQ", e.request), Call: e.call, Fate: e.fate,
		}
		if e.task != 0 {
			entry.TaskSID = l.sid("WT", e.task)
		}
		list = append(list, entry)
	}
	return list
}
