package outbox

import (
	"sync/atomic"

	"flexworker/internal/flex"
	"flexworker/internal/outbox/lookup"
	"flexworker/internal/outbox/results"
)

// Counters count what this process did since it started. They are plain
// numbers; how they are exported is the command's business. The zero value is
// ready.
type Counters struct {
	Attempts   [flex.Kinds]atomic.Int64 // by flex.Kind
	Uncounted  atomic.Int64             // attempts that are not held against RETRY_MAX_ATTEMPTS
	Released   atomic.Int64             // leases given back before their call began
	Lookups    lookup.Counters
	Duplicates atomic.Int64 // requests with more than the one interaction they may have
	Results    results.Counters
}
