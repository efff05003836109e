package outbox

import (
	"encoding/json"
	"strings"
	"time"

	"flexworker/internal/database"
	"flexworker/internal/rawjson"
)

// addColumns are the arrays that insert unnests: one element an event.
type addColumns struct {
	requestID, source       []string
	priority                []int16
	request                 []*string
	raw                     [][]byte
	notBefore, expiresAt    []*time.Time
	lookupKey, errorMessage []*string
	traceparent, tracestate []*string
	faults, warnings        []*string
	stream                  []string
	sequence                []int64
	time                    []time.Time
	from                    []int          // which event each element is
	byID                    map[string]int // the first of each request id
}

func (c *addColumns) append(e *Event, i int) {
	if c.byID == nil {
		c.byID = map[string]int{}
	}
	if _, other := c.byID[e.RequestID]; !other {
		c.byID[e.RequestID] = i
	}
	c.from = append(c.from, i)
	c.requestID = append(c.requestID, e.RequestID)
	c.source = append(c.source, database.Text(e.Source))
	c.priority = append(c.priority, int16(e.Priority))
	c.request = append(c.request, database.JsonOrNull(e.Request))
	c.notBefore = append(c.notBefore, database.TimeOrNull(e.NotBefore))
	c.expiresAt = append(c.expiresAt, database.TimeOrNull(e.ExpiresAt))
	c.lookupKey = append(c.lookupKey, database.OrNull(e.LookupKey))
	c.traceparent = append(c.traceparent, database.OrNull(trace(e.Traceparent)))
	c.tracestate = append(c.tracestate, database.OrNull(e.tracestate()))
	c.stream = append(c.stream, database.Text(e.Stream))
	c.warnings = append(c.warnings, database.JsonOrNull(faultJSON(e.Warnings)))
	c.sequence = append(c.sequence, int64(e.Sequence))
	c.time = append(c.time, e.Time)
	if len(e.Faults) == 0 {
		c.raw = append(c.raw, nil)
		c.errorMessage = append(c.errorMessage, nil)
		c.faults = append(c.faults, nil)
		return
	}
	raw := e.Raw
	if raw == nil {
		raw = []byte{}
	}
	c.raw = append(c.raw, raw)
	c.errorMessage = append(c.errorMessage, database.OrNull(database.Text(faultText(e.Faults))))
	c.faults = append(c.faults, database.JsonOrNull(faultJSON(e.Faults)))
}

// faultText is all faults in one line.
func faultText(faults []rawjson.Fault) string {
	lines := make([]string, len(faults))
	for i, f := range faults {
		lines[i] = f.String()
	}
	return strings.Join(lines, "; ")
}

// faultJSON is faults, or warnings, as a result shows them; nil: there are none.
func faultJSON(faults []rawjson.Fault) json.RawMessage {
	if len(faults) == 0 {
		return nil
	}
	list := make([]shownFault, len(faults))
	for i, f := range faults {
		list[i] = shownFault{database.Text(f.Path), database.Text(f.Problem)}
	}
	return shownFaults(list)
}

// A shownFault is a fault, or a warning, as a result shows it.
type shownFault struct {
	Path    string `json:"path"`
	Problem string `json:"problem"`
}

func shownFaults(list []shownFault) json.RawMessage {
	out, err := json.Marshal(list)
	if err != nil { // cannot be: structs of strings
		out = noneJSON
	}
	return out
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

func trace(s string) string { return headerValue(s, maxTraceparent) }

// tracestate is the tracestate as it is kept; without a traceparent it has no meaning.
func (m Message) tracestate() string {
	if trace(m.Traceparent) == "" {
		return ""
	}
	return headerValue(m.Tracestate, maxTracestate)
}

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
