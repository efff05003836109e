package consumer

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"flexworker/internal/outbox"
	"flexworker/internal/outbox/request"
	"flexworker/internal/testing/expect"
)

// triesOf is a Store that counts how often it was to add each request.
type triesOf struct {
	Store
	mu   sync.Mutex
	adds map[string]int
}

func (s *triesOf) Add(ctx context.Context, e request.Event) (outbox.Added, error) {
	s.mu.Lock()
	s.adds[e.RequestID]++
	s.mu.Unlock()
	return s.Store.Add(ctx, e)
}

// least is how often the one was tried that was tried the fewest times.
func (s *triesOf) least() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.adds) < 5 {
		return 0 // not all have come
	}
	return slices.Min(slices.Collect(maps.Values(s.adds)))
}

// TestPostgresTakesNoRows: Postgres answers every question but takes no rows, as
// with a full disk. No message's deliveries are used up meanwhile.
func TestPostgresTakesNoRows(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, sql := range []string{
		`CREATE FUNCTION disk_full() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no space left on device' USING ERRCODE = '53100'; END $$`,
		`CREATE TRIGGER disk_full BEFORE INSERT ON outbox FOR EACH ROW EXECUTE FUNCTION disk_full()`,
	} {
		if _, err := w.pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	w.sendMany("full", 5)
	c := w.consumer(8)
	tries := &triesOf{Store: c.Store, adds: map[string]int{}}
	c.Store = tries
	defer w.run(c)()
	expect.Eventually(t, func() error {
		if n := c.Counters.Attached.Load(); n == 0 {
			return fmt.Errorf("attached %d times", n)
		}
		return expect.Is("in hand", w.info().NumAckPending, 5)
	})
	delivered := w.info().Delivered.Consumer
	// Each message is tried again, and the stream told, three times.
	first := tries.least()
	expect.Eventually(t, func() error {
		if n := tries.least(); n < first+3 {
			return fmt.Errorf("a message was tried %d times", n)
		}
		return nil
	})
	if n := w.info().Delivered.Consumer; n > delivered+5 {
		t.Errorf("%d deliveries of 5 messages", n)
	}
	if _, err := w.pool.Exec(t.Context(), `DROP TRIGGER disk_full ON outbox`); err != nil {
		t.Fatal(err)
	}
	w.rows(5)
	w.acked()
}

// TestReplayOlderThanRetention: what is older than requests are remembered, and
// unknown, is answered as malformed and never carried out; what is known is.
func TestReplayOlderThanRetention(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.sendMany("old", 1)
	c := w.consumer(8)
	stop := w.run(c)
	w.rows(1)
	w.acked()
	stop()
	w.sendMany("forgotten", 1)
	if err := w.js.DeleteConsumer(t.Context(), w.names.Stream, w.names.Consumer); err != nil {
		t.Fatal(err)
	}
	late := w.consumer(8)
	late.Retention, late.Store.(*outbox.Store).Retention = time.Nanosecond, time.Nanosecond
	defer w.run(late)()
	expect.Eventually(t, func() error { return expect.Is("malformed", w.malformed(), 1) })
	w.acked()
	w.rows(1)
}
