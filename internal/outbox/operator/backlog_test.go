package operator_test

import (
	"testing"
	"time"

	"flexworker/internal/outbox/operator"
	"flexworker/internal/outbox/request"
	"flexworker/internal/testing/pgtest"
)

// TestBacklog: each state counts its own, and the oldest is the oldest.
func TestBacklog(t *testing.T) {
	t.Parallel()
	s := newRig(t)
	mustAdd(t, s, "again", 1)
	mustAdd(t, s, "uncertain", 1)
	uncertainAgain(t, s, "uncertain-1")
	mustAdd(t, s, "person", 2)
	uncertainAgain(t, s, "person-1")
	uncertainAgain(t, s, "person-2")
	pgtest.Exec(t, s.pool, `UPDATE outbox SET for_person_since = now() WHERE request_id LIKE 'person-%'`)
	mustAdd(t, s, "sending", 3)
	pgtest.Exec(t, s.pool, `UPDATE outbox SET attempt = 1, uncounted = 1 WHERE request_id = 'again-1'`)
	pgtest.Exec(t, s.pool, `UPDATE outbox SET state = 'sending', attempt = 1, due_at = NULL, leased_by = 'w', leased_until = now() + interval '1 hour' WHERE request_id LIKE 'sending-%'`)
	mustAdd(t, s, "fresh", 4)
	mustAdd(t, s, "scheduled", 1, func(e *request.Event) { e.NotBefore = time.Now().Add(time.Hour) })
	mustAdd(t, s, "unpublished", 5, faulty("x"))
	published := mustAdd(t, s, "published", 6, faulty("x"))
	if _, err := s.pool.Exec(t.Context(), `
		UPDATE outbox SET received_at = now() - make_interval(hours => 100 - id::integer),
		       settled_at = CASE WHEN settled_at IS NOT NULL THEN now() - make_interval(hours => id::integer) END,
		       published_at = CASE WHEN request_id = ANY($1) THEN now() END`, published); err != nil {
		t.Fatal(err)
	}
	backlog, err := s.desk.Backlog(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// By ids: again-1 is 1, uncertain-1 2, person-1 and -2 3 and 4, sending-1 to -3 5 to 7, unpublished-5, whose end is the oldest, 17.
	want := map[string]operator.Backlog{"pending": {Requests: 6, Oldest: 99 * time.Hour}, "sending": {Requests: 3, Oldest: 95 * time.Hour},
		"uncertain": {Requests: 3, Oldest: 98 * time.Hour, ForPerson: 2}, "unpublished": {Requests: 5, Oldest: 17 * time.Hour}}
	for _, got := range backlog {
		if w := want[got.State]; got.Requests != w.Requests || got.Oldest.Truncate(time.Hour) != w.Oldest || got.ForPerson != w.ForPerson {
			t.Errorf("%s: %d, the oldest %v, %d for a person; want %d, %v and %d", got.State, got.Requests, got.Oldest, got.ForPerson, w.Requests, w.Oldest, w.ForPerson)
		}
		delete(want, got.State)
	}
	if len(want) > 0 {
		t.Errorf("there is nothing of %v", want)
	}
}

// TestBacklogEmpty: every state is there, so that no gauge keeps what it showed last.
func TestBacklogEmpty(t *testing.T) {
	t.Parallel()
	backlog, err := newRig(t).desk.Backlog(t.Context())
	if err != nil || len(backlog) != 4 {
		t.Fatalf("%v, %v", backlog, err)
	}
	for _, b := range backlog {
		if b.Requests != 0 || b.Oldest != 0 || b.ForPerson != 0 {
			t.Errorf("%+v", b)
		}
	}
}

// TestBacklogScheduled: what is not to be sent yet is not late, for people neither.
func TestBacklogScheduled(t *testing.T) {
	t.Parallel()
	s := newRig(t)
	mustAdd(t, s, "scheduled", 1, func(e *request.Event) { e.NotBefore = time.Now().Add(time.Hour) })
	pgtest.Exec(t, s.pool, `UPDATE outbox SET received_at = now() - interval '1 day'`)
	age := func() (counted, shown time.Duration) {
		backlog, err := s.desk.Backlog(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range backlog {
			if b.State == string(request.Pending) {
				counted = b.Oldest
			}
		}
		return counted, pgtest.One[time.Duration](t, s.pool, `SELECT oldest FROM outbox_backlog`)
	}
	if counted, shown := age(); counted != 0 || shown != 0 {
		t.Errorf("not due for an hour, and %v or %v old", counted, shown)
	}
	pgtest.Exec(t, s.pool, `UPDATE outbox SET due_at = now() - interval '2 minutes'`)
	if counted, shown := age(); counted.Truncate(time.Minute) != 2*time.Minute || shown.Truncate(time.Minute) != 2*time.Minute {
		t.Errorf("due for two minutes, and %v or %v old", counted, shown)
	}
}
