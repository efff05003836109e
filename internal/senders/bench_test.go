package senders_test

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"flexworker/internal/testing/pgtest"
)

// BenchmarkStatus has eight senders ask two replicas for one of 100,000 requests at a time, of which each tenth is pending. It
// reports the median and the 99th percentile of what an asker waits.
func BenchmarkStatus(b *testing.B) {
	r := newRig(b)
	pgtest.Exec(b, r.pool, `
		INSERT INTO outbox (request_id, source, state, request, due_at, attempt, interaction_sid, resolved_by, settled_at, published_at, stream, stream_sequence, stream_time)
		SELECT 'a-' || n, 'crm', CASE WHEN n % 10 = 0 THEN 'pending' ELSE 'created' END, '{"request_id":"a","channel":{"type":"sms"},"metadata":{"case":7}}',
		       CASE WHEN n % 10 = 0 THEN now() + interval '1 day' END, (n % 10 > 0)::integer,
		       CASE WHEN n % 10 > 0 THEN 'KD' || lpad(to_hex(n), 32, '0') END, CASE WHEN n % 10 > 0 THEN 'response' END,
		       CASE WHEN n % 10 > 0 THEN now() END, CASE WHEN n % 10 > 0 THEN now() END, 'REQUESTS', n, now()
		  FROM generate_series(1, 100000) AS n`)
	pgtest.Exec(b, r.pool, `ANALYZE outbox, outbox_repeats`)
	const askers = 8
	took := make([]time.Duration, b.N)
	var next atomic.Int64
	var all sync.WaitGroup
	b.ResetTimer()
	for range askers {
		all.Go(func() {
			for i := next.Add(1) - 1; i < int64(b.N); i = next.Add(1) - 1 {
				began := time.Now()
				if got := r.ask(b, "status.crm", fmt.Sprintf(`{"request_id":"a-%d"}`, i*7919%100000+1)); got.Code != "" {
					b.Error(got)
				}
				took[i] = time.Since(began)
			}
		})
	}
	all.Wait()
	slices.Sort(took)
	b.ReportMetric(float64(took[b.N/2].Microseconds())/1000, "median-ms")
	b.ReportMetric(float64(took[b.N*99/100].Microseconds())/1000, "p99-ms")
}
