package outbox

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"flexworker/internal/flex"
	"flexworker/internal/loop"
	"flexworker/internal/outbox/gate"
	"flexworker/internal/outbox/request"
	"flexworker/internal/outbox/results"
	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/natstest"
	"flexworker/internal/testing/pgtest"
)

// TestRefusedForGood: a full batch of each kind of answer that the stream refuses
// whenever it is asked does not keep from being read what came later, and is read
// again itself.
func TestRefusedForGood(t *testing.T) {
	t.Parallel()
	s, r := newStore(t), newResults(t, natstest.Options{})
	r.create(t, func(c *jetstream.StreamConfig) {
		c.MaxMsgsPerSubject, c.Discard, c.DiscardNewPerSubject = 2, jetstream.DiscardNew, true
	})
	for _, outcome := range []string{"rejected", "malformed", "uncertain"} {
		for range 2 { // so it has room for no more of these
			m := nats.NewMsg(results.Subject("interactions.results", outcome, "refused"))
			m.Header.Set(natstest.Forged, "in the worker's place")
			if _, err := r.PublishMsg(t.Context(), m); err != nil {
				t.Fatal(err)
			}
		}
	}
	answersOfEachKind(t, s, "refused", batchSize, 1000)
	answersOfEachKind(t, s, "taken", 1, 9000)
	age(t, s)
	unpublished := func(source string) int {
		return pgtest.One[int](t, s.pool, `SELECT (SELECT count(*) FROM outbox WHERE source = $1 AND settled_at IS NOT NULL AND published_at IS NULL)
			+ (SELECT count(*) FROM outbox WHERE source = $1 AND state = 'uncertain' AND announced_at IS NULL)
			+ (SELECT count(*) FROM outbox_repeats WHERE source = $1 AND published_at IS NULL)
			+ (SELECT count(*) FROM outbox_malformed WHERE source = $1 AND published_at IS NULL)`, source)
	}
	if n := unpublished("taken"); n != 4 {
		t.Fatalf("%d answers are ready to be taken, want 4", n)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	running(t, s.upkeep().Poll)
	go func() { defer close(ended); r.publisher(t, s).Run(ctx) }()
	expect.Eventually(t, func() error {
		if n := unpublished("taken"); n > 0 {
			return fmt.Errorf("%d of 4 answers are not published", n)
		}
		return nil
	})
	if n := unpublished("refused"); n != 4*batchSize {
		t.Errorf("%d are refused, want %d: this test sees nothing", n, 4*batchSize)
	}
	r.create(t, func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject = -1 })
	expect.Eventually(t, func() error {
		if n := unpublished("refused"); n > 0 {
			return fmt.Errorf("%d that were refused are not published", n)
		}
		return nil
	})
	stop()
	<-ended
}

// answersOfEachKind are n results, n announcements, n repeats of one result that is
// published, and n malformed messages, of this source and with sequences from first.
// No hint tells of them.
func answersOfEachKind(t *testing.T, s *Store, source string, n, first int) {
	t.Helper()
	mustAdd(t, s, source+"-waits", n, from(source))
	for _, l := range mustClaim(t, s, n) {
		if _, err := s.record(t.Context(), told(l, flex.Outcome{HTTPStatus: 503, ErrorKind: "http_503"})); err != nil {
			t.Fatal(err)
		}
	}
	pgtest.Exec(t, s.pool, `UPDATE outbox SET due_at = NULL, for_person_since = now() WHERE state = 'uncertain'`)
	mustAdd(t, s, source+"-settled", n, from(source), faulty("x"))
	mustAdd(t, s, source+"-asked", 1, faulty("x"))
	pgtest.Exec(t, s.pool, `UPDATE outbox SET published_at = now() WHERE request_id = $1`, source+"-asked-1")
	var malformed []request.Malformed
	for i := range n {
		if _, err := s.Add(t.Context(), event(source+"-asked-1", uint64(first+i), from(source), faulty("x"))); err != nil {
			t.Fatal(err)
		}
		m := event("", uint64(first+i), from(source)).Message
		malformed = append(malformed, request.Malformed{Message: m, Err: "x"})
	}
	if _, err := s.Messages.KeepMalformed(t.Context(), malformed); err != nil {
		t.Fatal(err)
	}
	for len(s.Results.Queue.Queue) > 0 {
		<-s.Results.Queue.Queue
	}
}

// TestUnpublishedUnderLoad: what a dead process owed is published while this one is
// kept busy by results of its own.
func TestUnpublishedUnderLoad(t *testing.T) {
	t.Parallel()
	r := newResults(t, natstest.Options{})
	r.create(t)
	s := newStore(t)
	p := r.publisher(t, s)
	mustAdd(t, s, "left", 1)
	if _, err := s.another("dead").record(t.Context(), told(mustClaim(t, s, 1)[0], good)); err != nil {
		t.Fatal(err)
	}
	age(t, s)
	ctx, stop := context.WithCancel(t.Context())
	running(t, s.upkeep().Poll)
	var busy sync.WaitGroup
	busy.Go(func() { p.Run(ctx) })
	busy.Go(func() {
		for ctx.Err() == nil { // a hint far more often than unpublished results are looked for
			s.Results.Asked.Raise()
			loop.Rest(ctx, gate.RenewEvery/50, nil)
		}
	})
	expect.Eventually(t, func() error {
		if n := pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox WHERE published_at IS NULL`); n > 0 {
			return fmt.Errorf("%d unpublished", n)
		}
		return nil
	})
	stop()
	busy.Wait()
}
