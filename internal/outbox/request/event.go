package request

import (
	"cmp"
	"encoding/json"
	"strings"
	"time"

	"flexworker/internal/rawjson"
)

// Message names one message of the request stream. Sequence and time together,
// because a stream that was made anew uses its sequences again.
type Message struct {
	Stream      string
	Subject     string
	Source      string // the sending service: the subject's tokens behind the prefix
	Sequence    uint64
	Time        time.Time // when the stream stored it
	Headers     map[string][]string
	Raw         []byte
	Traceparent string // "" when none came with it
	Tracestate  string // "" when none came with it; kept beside a Traceparent only
}

// Compare compares the places of two messages in their stream.
func (m Message) Compare(other Message) int {
	return cmp.Or(cmp.Compare(m.Sequence, other.Sequence), m.Time.Compare(other.Time))
}

// Event is a message that carries a usable request id.
type Event struct {
	Message
	RequestID string
	// Request is the request as it came; nil when no JSON reader could be
	// trusted with it, and then there are Faults.
	Request   json.RawMessage
	Priority  int       // 0 to 9
	NotBefore time.Time // zero: at once
	ExpiresAt time.Time // zero: never
	LookupKey string    // "" when the request has no task to look for
	// Warnings are what Flex would probably ignore in it: it is sent all the same.
	Warnings []rawjson.Fault
	// Faults are why it is rejected at once; none: it will be sent.
	Faults []rawjson.Fault
}

// Malformed is a message that cannot become a request. RequestID is set when
// it had a usable one and stands in conflict with a request that is known.
type Malformed struct {
	Message
	RequestID string
	Err       string
}

// KeptTracestate is the tracestate as it is kept; without a traceparent it has no meaning.
func (m Message) KeptTracestate() string {
	if Traceparent(m.Traceparent) == "" {
		return ""
	}
	return headerValue(m.Tracestate, maxTracestate)
}

// Longest values of the two headers of the W3C trace context that are kept, in bytes.
// A traceparent has 55 today. Of a tracestate 512 have to be passed on
// (https://www.w3.org/TR/trace-context/#tracestate-limits); more than both could make
// the result's headers too large for the stream.
const (
	maxTraceparent = 256
	maxTracestate  = 1024
)

// TraceID is the trace id of a traceparent header, "" when that is not one
// (www.w3.org/TR/trace-context, version-traceid-parent-flags).
func TraceID(traceparent string) string {
	parts := strings.Split(traceparent, "-")
	if len(parts) < 4 || len(parts[1]) != 32 || strings.Trim(parts[1], "0123456789abcdef") != "" || strings.Trim(parts[1], "0") == "" {
		return ""
	}
	return parts[1]
}

// Traceparent is a traceparent as it is kept; "" where it is none that can be a header.
func Traceparent(s string) string { return headerValue(s, maxTraceparent) }

// headerValue is s, or "" where it is longer than most or has another character than
// the printable ones of ASCII: a line end would begin another header.
func headerValue(s string, most int) string {
	if len(s) > most {
		return ""
	}
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return ""
		}
	}
	return s
}

// FaultText is all faults in one line.
func FaultText(faults []rawjson.Fault) string {
	lines := make([]string, len(faults))
	for i, f := range faults {
		lines[i] = f.String()
	}
	return strings.Join(lines, "; ")
}

// FaultsJSON is faults, or warnings, as a result shows them; nil: there are none.
func FaultsJSON(faults []rawjson.Fault) json.RawMessage {
	if len(faults) == 0 {
		return nil
	}
	list := make([]ShownFault, len(faults))
	for i, f := range faults {
		list[i] = ShownFault{Text(f.Path), Text(f.Problem)}
	}
	return FaultList(list)
}

// A ShownFault is a fault, or a warning, as a result shows it.
type ShownFault struct {
	Path    string `json:"path"`
	Problem string `json:"problem"`
}

// FaultList is the list as JSON.
func FaultList(list []ShownFault) json.RawMessage {
	out, err := json.Marshal(list)
	if err != nil { // cannot be: structs of strings
		out = json.RawMessage("[]")
	}
	return out
}
