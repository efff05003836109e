package outbox

import (
	"time"

	"flexworker/internal/database"
	"flexworker/internal/outbox/request"
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

func (c *addColumns) append(e *request.Event, i int) {
	if c.byID == nil {
		c.byID = map[string]int{}
	}
	if _, other := c.byID[e.RequestID]; !other {
		c.byID[e.RequestID] = i
	}
	c.from = append(c.from, i)
	c.requestID = append(c.requestID, e.RequestID)
	c.source = append(c.source, request.Text(e.Source))
	c.priority = append(c.priority, int16(e.Priority))
	c.request = append(c.request, database.JSONOrNull(e.Request))
	c.notBefore = append(c.notBefore, database.TimeOrNull(e.NotBefore))
	c.expiresAt = append(c.expiresAt, database.TimeOrNull(e.ExpiresAt))
	c.lookupKey = append(c.lookupKey, database.OrNull(e.LookupKey))
	c.traceparent = append(c.traceparent, database.OrNull(request.Traceparent(e.Traceparent)))
	c.tracestate = append(c.tracestate, database.OrNull(e.KeptTracestate()))
	c.stream = append(c.stream, request.Text(e.Stream))
	c.warnings = append(c.warnings, database.JSONOrNull(request.FaultsJSON(e.Warnings)))
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
	c.errorMessage = append(c.errorMessage, database.OrNull(request.Text(request.FaultText(e.Faults))))
	c.faults = append(c.faults, database.JSONOrNull(request.FaultsJSON(e.Faults)))
}
