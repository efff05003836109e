package senders

import (
	"bytes"
	"fmt"
	"strings"
	"sync/atomic"
	"unicode"

	"flexworker/internal/outbox/request"
	"flexworker/internal/rawjson"
)

// Kind is a kind of question.
type Kind int

// The kinds of question.
const (
	Status Kind = iota
	Cancel
)

// Kinds are all of them.
var Kinds = [...]Kind{Status, Cancel}

// String is the kind as subjects and metrics have it.
func (k Kind) String() string { return [...]string{"status", "cancel"}[k] }

// bodies are what a question of each kind says, for those who look at the service.
var bodies = map[Kind]string{Status: `{"request_id": "..."}`, Cancel: `{"request_id": "...", "why": "..."}`}

// As says as what a question was answered.
type As int

// As what questions are answered.
const (
	Answered As = iota
	Unknown
	Invalid
	Unavailable
	Unanswerable // without an answer: it named no inbox for one
)

// Ases are all of them.
var Ases = [...]As{Answered, Unknown, Invalid, Unavailable, Unanswerable}

// String is the word of the metric.
func (a As) String() string {
	return [...]string{"answered", "unknown", "invalid", "unavailable", "unanswerable"}[a]
}

// Counters count questions by kind and by what they were answered as. The zero value is ready.
type Counters [len(Kinds)][len(Ases)]atomic.Int64

func (c *Counters) count(kind Kind, as As) { c[kind][as].Add(1) }

const (
	maxBody = 16 << 10 // bytes of a question: an id and a reason, every byte an escape
	maxID   = 256      // bytes of an id
	maxWhy  = 1000     // bytes of a reason
	// maxFaults is how many faults of a body are named.
	maxFaults = 20
)

// A question is the body of one.
type question struct{ RequestID, Why string }

// read takes a body in, or names all its faults. A field that the question does not have is one: a mistyped name must not
// be obeyed by silence.
func read(kind Kind, body []byte) (q question, faults []rawjson.Fault) {
	fault := func(path, format string, args ...any) {
		if len(faults) < maxFaults {
			faults = append(faults, rawjson.Fault{Path: path, Problem: fmt.Sprintf(format, args...)})
		}
	}
	if len(body) > maxBody {
		fault("", "the body has %d bytes, and may have %d", len(body), maxBody)
		return q, faults
	}
	if faults = rawjson.Check(body); len(faults) > 0 {
		return q, faults
	}
	if bytes.TrimSpace(body)[0] != '{' {
		fault("", "must be an object, %s", bodies[kind])
		return q, faults
	}
	fields := map[string]*string{"request_id": &q.RequestID}
	most := map[string]int{"request_id": maxID, "why": maxWhy}
	if kind == Cancel {
		fields["why"] = &q.Why
	}
	for _, member := range rawjson.AppendMembers(nil, body) {
		name := string(member.Key)
		field, known := fields[name]
		text, isText := rawjson.Text(member.Value)
		switch {
		case !known:
			fault(shown(name), "is no field of this question, which is %s", bodies[kind])
		case !isText:
			fault(name, "must be a string")
		case len(text) > most[name]:
			fault(name, "has %d bytes, and may have %d", len(text), most[name])
		case strings.TrimSpace(string(text)) == "", string(text) == "...":
			fault(name, "must not be empty")
		default:
			*field = string(text)
			continue
		}
		delete(fields, name) // it is said
	}
	for _, name := range []string{"request_id", "why"} {
		if field, wanted := fields[name]; wanted && *field == "" {
			fault(name, "is required")
		}
	}
	return q, faults
}

// printable keeps what may stand in a header: names of fields are the sender's choice.
func printable(r rune) rune {
	if unicode.IsPrint(r) {
		return r
	}
	return ' '
}

// shown is a name of others in a fault.
func shown(name string) string {
	const most = 64
	if len(name) > most {
		return strings.ToValidUTF8(name[:most], "") + "…"
	}
	return name
}

// invalid is the answer to a body with faults. Its message names the first ones, for who sees a header alone.
func invalid(faults []rawjson.Fault) answer {
	const most = 3
	message := "the question has faults: " + request.FaultText(faults[:min(len(faults), most)])
	if more := len(faults) - most; more > 0 {
		message += fmt.Sprintf("; and %d more in error.faults", more)
	}
	a := refused(Invalid, "invalid", strings.Map(printable, message))
	a.fault.Faults = request.FaultsJSON(faults)
	return a
}
