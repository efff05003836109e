package flextest

import (
	"math/rand/v2"
	"strconv"
	"strings"
)

// A Fate is what becomes of the set-up of an interaction that was accepted. The zero value: all goes well.
type Fate string

// The fates of twilio.md §6. Each but Stuck shows once Settings.SetupAfter is over.
const (
	ChannelFailed Fate = "channel-failed" // the channel is failed and says why
	NoCustomer    Fate = "no-customer"    // the channel is active and nobody but an agent is in it
	TaskCanceled  Fate = "task-canceled"  // the channel is active with its customer; its task was cancelled at once
	Stuck         Fate = "stuck"          // the channel is being set up for ever
)

// SetupFates are the shares of what is created that meet a fate, 0 to 1 each; together at most 1.
type SetupFates struct {
	ChannelFailed float64 `json:"channel_failed"`
	NoCustomer    float64 `json:"no_customer"`
	TaskCanceled  float64 `json:"task_canceled"`
	Stuck         float64 `json:"stuck"`
}

// throw is the fate of the next interaction.
func (f SetupFates) throw(dice *rand.Rand) Fate {
	x := dice.Float64()
	for _, share := range []struct {
		of   float64
		fate Fate
	}{{f.ChannelFailed, ChannelFailed}, {f.NoCustomer, NoCustomer}, {f.TaskCanceled, TaskCanceled}, {f.Stuck, Stuck}} {
		if x -= share.of; x < 0 {
			return share.fate
		}
	}
	return ""
}

// Decide gives the interactions of name, a KD sid, a key or a test id, a fate. It returns how many it found.
func (s *Server) Decide(name string, fate Fate) (found int) {
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	for _, e := range s.ledger.entries {
		if s.ledger.sid("KD", e.n) == name || e.key == name || e.testID == name {
			e.fate = fate
			found++
		}
	}
	s.ledger.signal()
	return found
}

// customers is how many are in the channel once it is set up.
func (q *wish) customers() int {
	if q.initiatedBy == "customer" {
		return max(q.participants, 1)
	}
	return q.participants
}

// The error of a channel that failed: the customer already talks to this number.
const (
	setupErrorCode    = 50416
	setupErrorMessage = "A binding for this participant and proxy address already exists in another conversation"
)

// channelStatus is the status of an interaction's channel at now.
func (e *entry) channelStatus(now int64) string {
	switch {
	case e.closed:
		return "closed"
	case e.fate == Stuck || now < e.at+int64(e.setupAfter):
		return "setup"
	case e.fate == ChannelFailed:
		return "failed"
	default:
		return "active"
	}
}

// reason is why the task ended, as TaskRouter says it.
func (t *task) reason() string {
	if t.entry != nil && t.entry.fate == TaskCanceled {
		return "Task canceled on workflow timeout"
	}
	return ""
}

// appendParticipants is the list of a channel's participants.
func (l *ledger) appendParticipants(e *entry, now int64) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	customers := e.customers
	if status := e.channelStatus(now); e.fate == NoCustomer || status == "setup" || status == "failed" {
		customers = 0
	}
	buf := []byte(`{"participants":[`)
	for i := range customers + 1 {
		kind := "customer"
		if i == 0 {
			kind = "agent" // who counts participants takes it for a customer
		} else {
			buf = append(buf, ',')
		}
		buf = append(append(append(buf, `{"sid":"UT`...), strings.Repeat(strconv.Itoa(i%10), 32)...), `","type":"`...)
		buf = append(append(append(buf, kind...), `","channel_sid":"`...), l.channelOf(e)...)
		buf = append(buf, `"}`...)
	}
	return append(buf, `],"meta":{"page":0,"page_size":50,"key":"participants","next_page_url":null}}`...)
}
