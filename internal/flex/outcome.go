package flex

import (
	"encoding/json"
	"time"
)

// Kind is what one create call tells about the interaction it asked for.
type Kind uint8

// The kinds of outcome. The zero value is the safe one: nobody knows.
const (
	// Uncertain: the interaction may exist. Bytes left and no answer that
	// decides came back (timeout, reset, 408, 5xx, a 2xx without a readable sid, a
	// redirect, a 4xx that does not show that it is Twilio's).
	Uncertain Kind = iota
	// Created: the interaction exists and its sid was read.
	Created
	// Refused: it surely was not created and may be tried again: nothing was
	// written (DNS, dial, TLS), or Twilio said 429.
	Refused
	// Rejected: Twilio said that it was not created and never will be.
	Rejected
	// Blocked: it surely was not created because our credentials, our account or our
	// address are at fault: Twilio said so, or there are no credentials. Other requests
	// would fare the same.
	Blocked

	kinds // keep it last
)

// Kinds is how many kinds there are.
const Kinds = int(kinds)

// String is the kind's word in logs, in metrics and in outbox_attempts.
func (k Kind) String() string {
	switch k {
	case Created:
		return "created"
	case Refused:
		return "refused"
	case Rejected:
		return "rejected"
	case Blocked:
		return "blocked"
	default:
		return "uncertain"
	}
}

// Outcome is all that one create call told us. The zero value is Uncertain.
type Outcome struct {
	Kind Kind

	// InteractionSID is set exactly when Kind is Created; TaskSID and
	// AssignmentStatus as far as the answer had them.
	InteractionSID   string
	TaskSID          string
	AssignmentStatus string

	// Answered is true when a 2xx status line was read, whoever sent it: a proxy may
	// have put its page in place of Flex's answer. An uncertain outcome that was
	// answered may not be settled by "no task was found".
	Answered bool
	// FromTwilio is true when the answer shows that it is Twilio's: an error of the
	// form that Twilio documents, a 2xx with the sid of an interaction or with a header
	// of Twilio's. A call that is not answered by Twilio says that this process may have
	// no way to it.
	FromTwilio bool
	// Mine is true when Kind is Created and the task of the interaction carries the key
	// that this very call has sent. Without it a cache may have answered with another's.
	Mine bool
	// Limited is true for Twilio's 429: the whole fleet has to slow down.
	Limited bool
	// UnknownPath is true when Twilio says that it does not know the path of our call, or
	// not the method there: FLEX_URL is at fault, or who stands before Twilio.
	UnknownPath bool
	// Unreached is true when not one byte of the request was written.
	Unreached bool

	// Response is the body of the answer, when it was complete, within the
	// limit, and JSON that every Postgres json operator can read; else nil.
	Response json.RawMessage

	HTTPStatus int           // 0: no status line was read
	TwilioCode int           // 0: none, or the answer does not show that it is Twilio's
	ErrorKind  string        // "" for Created; else one word, e.g. "timeout", "http_503", "dial"
	Message    string        // what went wrong, bounded, without secrets; "" for Created
	RequestID  string        // Twilio-Request-Id
	RetryAfter time.Duration // 0: none given; within [0, 1 h]
	Took       time.Duration // of the call
}

// OfAnother is what remains of a good answer that is not, or may not be, the answer to this
// call: nobody knows what became of it. why names the interaction that a person can look for.
func (o Outcome) OfAnother(why string) Outcome {
	return Outcome{Answered: true, HTTPStatus: o.HTTPStatus, ErrorKind: "other_request", Took: o.Took, RequestID: o.RequestID, Message: why}
}
