package outbox

import (
	"context"
	"strings"
	"testing"
	"time"

	"flexworker/internal/flex"
	"flexworker/internal/outbox/lookup"
	"flexworker/internal/outbox/request"
	"flexworker/internal/testing/pgtest"
)

// createdTwice is an uncertain request of which TaskRouter lists two interactions. meanwhile is called when TaskRouter
// has been asked, and before it answers.
func createdTwice(t *testing.T, s *Store, log *strings.Builder) (look func(meanwhile func()), r *lookup.Resolver) {
	t.Helper()
	mustAdd(t, s, "d", 1, keyed)
	s.timeout(t)
	asked, answer := make(chan struct{}), make(chan struct{})
	r = resolver(t, s, taskRouter{search: func(_ context.Context, _, _ string, keys []string) (tasks []flex.Task, _ error) {
		asked <- struct{}{}
		<-answer
		for _, key := range keys {
			tasks = append(tasks, flex.Task{Key: key, TaskSID: "WT1", InteractionSID: sidA, DateCreated: time.Now()},
				flex.Task{Key: key, TaskSID: "WT2", InteractionSID: sidB, DateCreated: time.Now().Add(time.Second)})
		}
		return tasks, nil
	}})
	r.Log = textLog(log)
	return func(meanwhile func()) {
		t.Helper()
		pgtest.Exec(t, s.pool, `UPDATE outbox_gate SET lookup_at = '-infinity'`)
		pgtest.Exec(t, s.pool, `UPDATE outbox SET due_at = clock_timestamp() WHERE state = 'uncertain'`)
		if _, err := r.Round(t.Context()); err != nil {
			t.Fatal(err)
		}
		<-asked
		meanwhile()
		answer <- struct{}{}
		r.Ended.Wait()
	}, r
}

// TestDuplicateIsCountedWhenStored: somebody holds the row of a request that was created twice, so that two lookups
// cannot store what they have found. The third can: it alone is counted, and it alone is logged as what the request went to.
func TestDuplicateIsCountedWhenStored(t *testing.T) {
	t.Parallel()
	var log strings.Builder
	s := newStore(t).with(t, "lock_timeout", "50ms")
	look, r := createdTwice(t, s, &log)
	for range 2 {
		var release func()
		look(func() { _, release = holding(t, s, `SELECT FROM outbox FOR UPDATE`) })
		release()
		if n := r.Counters.Duplicates.Load(); n != 0 || strings.Contains(log.String(), "to=created") || !strings.Contains(log.String(), "cannot be stored") {
			t.Fatalf("%d are counted, and none is stored: %s", n, log.String())
		}
	}
	look(func() {})
	if n := r.Counters.Duplicates.Load(); n != 1 || strings.Count(log.String(), "to=created") != 1 || s.row(t, "d-1").State != request.Created {
		t.Errorf("%d are counted: %s", n, log.String())
	}
}

// TestDuplicateIsCountedThoughLate: a person decides while TaskRouter is asked. Nobody but the finding that comes too
// late knows that there are two interactions: it is counted, and the log names both, and no state.
func TestDuplicateIsCountedThoughLate(t *testing.T) {
	t.Parallel()
	var log strings.Builder
	s := newStore(t)
	look, r := createdTwice(t, s, &log)
	look(func() {
		if err := s.byHand(t.Context(), "d-1", 1, sidA); err != nil {
			t.Error(err)
		}
	})
	if n := r.Counters.Duplicates.Load(); n != 1 {
		t.Errorf("%d are counted", n)
	}
	if said := log.String(); !strings.Contains(said, "level=WARN") || !strings.Contains(said, "came too late") || !strings.Contains(said, sidA) || !strings.Contains(said, sidB) || strings.Contains(said, "to=") {
		t.Errorf("the log says: %s", said)
	}
}

// TestDuplicateIsCountedInDoubt: whether Postgres has stored that a request was created twice is not known, as the
// connection ends. Where it has, no other lookup comes: the finding is counted.
func TestDuplicateIsCountedInDoubt(t *testing.T) {
	t.Parallel()
	var log strings.Builder
	s := newStore(t)
	cutting, c := s.cutting(t, "created more than once", true)
	look, r := createdTwice(t, cutting, &log)
	c.armed.Store(true)
	look(func() {})
	if n := r.Counters.Duplicates.Load(); n != 1 || c.armed.Load() || s.row(t, "d-1").State != request.Created {
		t.Errorf("%d are counted, %s: %s", n, s.row(t, "d-1").State, log.String())
	}
}
