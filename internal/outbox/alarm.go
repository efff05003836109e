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
	// same 403 until the gate is held. One tenant's 403 must not stop the others.
	forbiddenAfter = 3
)

// suspended are the codes of a 403 that concern the account whoever asks.
// https://www.twilio.com/docs/api/errors/20005
var suspended = map[int]bool{20003: true, 20005: true, 20006: true, 20008: true}

// alarmOf reads an outcome for the fleet. failures is how many calls in a row,
// this one included, brought no answer; forbidden how many different requests in
// a row met the 403 that this one met.
func alarmOf(o flex.Outcome, failures, forbidden int) alarm {
	switch {
	case o.Kind == flex.Blocked && (o.HTTPStatus != 403 || suspended[o.TwilioCode] || forbidden >= forbiddenAfter):
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
	forbidden map[string]bool // ids of the requests that met one 403 in a row
	code      int             // of that 403
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
	case o.Kind == flex.Blocked && o.HTTPStatus == 403:
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
