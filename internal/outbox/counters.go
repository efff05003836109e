package outbox

import (
	"sync/atomic"

	"flexworker/internal/flex"
	"flexworker/internal/outbox/attempt"
	"flexworker/internal/outbox/lookup"
	"flexworker/internal/outbox/results"
)

type counter = atomic.Int64

// Counters count what this process did since it started. They are plain
// numbers; how they are exported is the command's business. The zero value is
// ready.
type Counters struct {
	Attempts   [flex.Kinds]counter // by flex.Kind
	Uncounted  counter
	Released   counter
	Lookups    lookup.Counters
	Duplicates counter // requests with more than the one interaction they may have
	Results    results.Counters
}

func (c *Counters) attempted(r attempt.Record) {
	c.Attempts[r.Told.Kind].Add(1)
	if r.Move.Uncounted {
		c.Uncounted.Add(1)
	}
}
