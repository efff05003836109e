package outbox

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"flexworker/internal/flex"
	"flexworker/internal/outbox/request"
	"flexworker/internal/outbox/results"
	"flexworker/internal/outbox/setup"
)

// BenchmarkWrites are the durable steps of a request, a batch at a time: what a
// statement costs, and what one more row in it. ns/row is the figure to compare. That of the record is BenchmarkRecord, in
// package attempt.
func BenchmarkWrites(b *testing.B) {
	for _, size := range []int{1, 32, batchSize} {
		for _, step := range []string{"add", "claim", "mark", "mark and set up"} {
			b.Run(fmt.Sprintf("%s/%d", step, size), func(b *testing.B) { benchmarkWrite(b, step, size) })
		}
	}
}

// benchmarkWrite carries batches through all four steps and takes the time of one.
func benchmarkWrite(b *testing.B, step string, size int) {
	s := newStore(b)
	if step == "mark and set up" { // with CONFIRM
		s.Results.FirstLook, step = setup.FirstLook, "mark"
	}
	sequence := 0
	timed := func(name string, do func() error) {
		if name == step {
			b.StartTimer()
			defer b.StopTimer()
		}
		if err := do(); err != nil {
			b.Fatal(name, err)
		}
	}
	response := created().Response
	b.StopTimer()
	b.ResetTimer()
	for range b.N {
		events := make([]request.Event, size)
		for i := range events {
			sequence++
			events[i] = event(fmt.Sprintf("bench-%d", sequence), uint64(sequence))
		}
		timed("add", func() error {
			_, err := s.addBatch(b.Context(), events)
			return err
		})
		var leases []Lease
		timed("claim", func() (err error) {
			_, leases, err = s.lease(b.Context(), s.leaseToken(), size, false, 0, time.Now(), nil)
			return err
		})
		records := make([]record, len(leases))
		for i, l := range leases {
			records[i] = record{Lease: l, Outcome: "created", Move: request.Move{To: request.Created},
				Told: flex.Outcome{Kind: flex.Created, Mine: true, InteractionSID: fmt.Sprintf("KD%032x", l.ID), HTTPStatus: 200, Response: response}}
		}
		var recording sync.WaitGroup
		answers := make([]results.Answer, len(leases))
		for i := range records {
			recording.Go(func() {
				done, err := s.record(b.Context(), records[i])
				if err != nil {
					b.Error("a record was not applied:", err)
					return
				}
				answers[i] = done.Answer()
			})
		}
		if recording.Wait(); b.Failed() {
			b.FailNow()
		}
		timed("mark", func() error { return s.Results.MarkPublished(b.Context(), answers) })
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*size), "ns/row")
}
