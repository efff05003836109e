package outbox

import (
	"fmt"
	"sync"
	"time"

	"flexworker/internal/flex"
)

// An alarm is what outcomes mean for the whole fleet. The zero value means nothing.
type alarm struct {
	pause time.Duration // shut the gate for so long
	hold  bool          // shut it until credentials or account are right
	away  bool          // shut it until Flex can be reached
	why   string
}

// and joins two alarms; the worse one gives the reason.
func (a alarm) and(b alarm) alarm {
	why := a.why
	if why == "" || (b.hold && !a.hold) {
		why = b.why
	}
	return alarm{pause: max(a.pause, b.pause), hold: a.hold || b.hold, away: a.away || b.away, why: why}
}

// shuts says whether the gate shuts until a probe opens it.
func (a alarm) shuts() bool { return a.hold || a.away }

const (
	// awayAfter is how many calls in a row must have gone unanswered, or been
	// answered with a server's error, until the gate shuts. Each of them may cost
	// an uncertain request, so it is low; a single one is everyday life.
	awayAfter = 5
	// forbiddenAfter is how many different requests in a row must have met the
	// same refusal until the gate is held. One tenant's 403 must not stop the others.
	forbiddenAfter = 3
)

// suspended are the codes that concern the account whoever asks.
// https://www.twilio.com/docs/api/errors/20005
var suspended = map[int]bool{20003: true, 20005: true, 20006: true, 20008: true, 20101: true}

// tenants says whether a refusal may concern those alone who share something with
// this request, such as a workspace: a 403, or another 4xx with a code that says so.
// A 401 or a 407, a redirect and missing credentials are everybody's.
func tenants(o flex.Outcome) bool {
	s := o.HTTPStatus
	return o.Kind == flex.Blocked && 400 <= s && s < 500 && s != 401 && s != 407 && !suspended[o.TwilioCode]
}

// alarmOf reads an outcome for the fleet. failures is how many calls in a row,
// this one included, brought no answer; forbidden how many different requests in
// a row met the refusal that this one met.
func alarmOf(o flex.Outcome, failures, forbidden int) alarm {
	switch {
	case o.Kind == flex.Blocked && (!tenants(o) || forbidden >= forbiddenAfter):
		return alarm{hold: true, why: blame(o)}
	case o.Limited && o.RetryAfter > 0:
		return alarm{pause: min(o.RetryAfter, maxRetryAfter), why: o.Message}
	case failures >= awayAfter:
		return alarm{away: true, why: "Flex cannot be used: " + o.Message}
	default:
		return alarm{}
	}
}

// blame says in words what holds the fleet, for people who read nothing else.
func blame(o flex.Outcome) string {
	what := "credentials, account or address are at fault"
	if o.HTTPStatus == 0 {
		return what + ": " + o.Message
	}
	return fmt.Sprintf("%s: Flex answered HTTP %d, code %d: %s", what, o.HTTPStatus, o.TwilioCode, o.Message)
}

// noAnswer says whether a call brought nothing that Flex itself decided: it was
// not reached, or did not answer in time, or failed.
func noAnswer(o flex.Outcome) bool {
	return o.Kind == flex.Refused && o.Unreached || o.Kind == flex.Uncertain
}

// streaks counts what came in a row in this process. The zero value is ready.
type streaks struct {
	mu        sync.Mutex
	failures  int
	forbidden map[string]bool // ids of the requests that met one refusal in a row
	code      int             // of that refusal
}

// alarm adds an outcome and says what it means for the fleet.
func (s *streaks) alarm(requestID string, o flex.Outcome) alarm {
	s.mu.Lock()
	defer s.mu.Unlock()
	if noAnswer(o) {
		s.failures++
	} else {
		s.failures = 0
	}
	switch {
	case tenants(o):
		if s.forbidden == nil || s.code != o.TwilioCode {
			s.forbidden, s.code = map[string]bool{}, o.TwilioCode
		}
		s.forbidden[requestID] = true
	case !noAnswer(o) && !o.Limited:
		s.forbidden = nil
	}
	a := alarmOf(o, s.failures, len(s.forbidden))
	if a.away || a.hold {
		s.failures, s.forbidden = 0, nil // it begins anew when the gate opens
	}
	return a
}
