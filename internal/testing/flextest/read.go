package flextest

import (
	"context"
	"math"
	"net/http"
	"slices"
	"time"
)

// Entry is one interaction that was created: the truth by which a client is
// judged, whatever the client was told.
type Entry struct {
	N              int       `json:"n"` // counted from 1
	InteractionSID string    `json:"interaction_sid"`
	TaskSID        string    `json:"task_sid,omitempty"` // "": attached to an existing channel, so no task
	At             time.Time `json:"at"`
	Key            string    `json:"key,omitempty"`     // the task attribute Config.KeyAttribute
	TestID         string    `json:"test_id,omitempty"` // the task attribute Config.TestAttribute
	RequestID      string    `json:"request_id"`        // Twilio-Request-Id of the call
	Fate           Fate      `json:"fate,omitempty"`    // of its set-up

	// Call is what the call carried; nil when Config.Keep has dropped it.
	Call *Call `json:"call,omitempty"`
}

// Call is what a create call carried.
type Call struct {
	Channel    string      `json:"channel"` // JSON text as it came
	Routing    string      `json:"routing"` // JSON text as it came; "" when absent
	ContextSID string      `json:"interaction_context_sid,omitempty"`
	WebhookID  string      `json:"webhook_ttid,omitempty"`
	Proto      string      `json:"proto"`
	Header     http.Header `json:"header"` // without Authorization
}

// Calls counts what was received and what became of it. All but the last
// nine are about create calls.
type Calls struct {
	Received    int         `json:"received"`      // create calls that arrived
	Created     int         `json:"created"`       // interactions made of them
	Duplicates  int         `json:"duplicates"`    // keys that were created more than once
	Answered    map[int]int `json:"answered"`      // by status line sent; 0: none was sent
	InFlight    int         `json:"in_flight"`     // arrived, not answered yet
	MaxInFlight int         `json:"max_in_flight"` // the most there ever were
	Faults      int         `json:"faults"`        // create calls that met a fault
	Hanging     int         `json:"hanging"`       // calls of any kind that hang now, for Release to free

	Fetched    int `json:"fetched"`    // GET of an interaction
	Channels   int `json:"channels"`   // GET of its channels
	Members    int `json:"members"`    // GET of the participants of one
	Closed     int `json:"closed"`     // channels that were closed
	Searched   int `json:"searched"`   // GET of a list of tasks
	Shown      int `json:"shown"`      // GET of a task
	Events     int `json:"events"`     // GET of the event log
	Limited    int `json:"limited"`    // searches refused by TaskRouter's rate
	Redirected int `json:"redirected"` // calls to where a redirect points
}

// Ledger returns what was created, in order.
func (s *Server) Ledger() []Entry { return s.ledger.after(0, math.MaxInt32) }

// Since returns at most limit of what was created after the n-th, so that a
// long ledger can be read in parts.
func (s *Server) Since(n, limit int) []Entry { return s.ledger.after(n, limit) }

// Calls returns the counters.
func (s *Server) Calls() Calls {
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	return s.ledger.snapshot()
}

// Duplicates returns the keys that were created more than once, in the order
// in which they became so. A call without a key is never counted.
func (s *Server) Duplicates() []string {
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	return slices.Clone(s.ledger.duplicates)
}

// Violations returns what clients did that no client may do, the first 1,000:
// a forbidden header, a body of no stated length, a redirect followed, a task
// changed through TaskRouter, paging by number, a channel closed whose conversation
// another interaction has.
func (s *Server) Violations() []string {
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	return slices.Clone(s.ledger.violations)
}

// ForgetViolations empties Violations, for a test that provoked them.
func (s *Server) ForgetViolations() {
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	s.ledger.violations = nil
}

// Wait returns nil as soon as done says so of the counters; it is asked again
// after every change. It returns the context's cause when that ends first.
func (s *Server) Wait(ctx context.Context, done func(Calls) bool) error {
	return s.ledger.wait(ctx, done)
}
