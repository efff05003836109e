package outbox

import (
	"testing"
	"time"

	"flexworker/internal/loop"
	"flexworker/internal/outbox/request"
	"flexworker/internal/testing/pgtest"
)

// TestLook: a look wakes the loop for which something waits, and no other.
func TestLook(t *testing.T) {
	t.Parallel()
	ago := func(column string) string { return column + ` = clock_timestamp() - interval '1 minute'` }
	for _, tt := range []struct {
		name, make string
		wakes      func(*Store) loop.Signal
	}{
		{"due", `UPDATE outbox SET ` + ago("due_at"), func(s *Store) loop.Signal { return s.Due }},
		{"due again", `UPDATE outbox SET attempt = 3, spared = 3, priority = 7, ` + ago("due_at"), func(s *Store) loop.Signal { return s.Due }},
		{"not yet due", `UPDATE outbox SET due_at = clock_timestamp() + interval '1 hour'`, nil},
		{"leased", `UPDATE outbox SET state = 'sending', attempt = 1, due_at = NULL, leased_by = 'w', leased_until = clock_timestamp() + interval '1 hour'`, nil},
		{"lapsed", `UPDATE outbox SET state = 'sending', attempt = 1, due_at = NULL, leased_by = 'w', ` + ago("leased_until"), func(s *Store) loop.Signal { return s.overdue }},
		{"expired", `UPDATE outbox SET due_at = clock_timestamp() + interval '1 hour', ` + ago("expires_at"), func(s *Store) loop.Signal { return s.overdue }},
		{"lookup due", `UPDATE outbox SET state = 'uncertain', attempt = 1, error_kind = 'x', attempt_began_at = now(), uncertain_since = now(), ` + ago("due_at"), func(s *Store) loop.Signal { return s.Lookups.Waiting }},
		{"lookup later", `UPDATE outbox SET state = 'uncertain', attempt = 1, error_kind = 'x', attempt_began_at = now(), uncertain_since = now(), due_at = clock_timestamp() + interval '1 hour'`, nil},
		{"for a person", `UPDATE outbox SET state = 'uncertain', attempt = 1, error_kind = 'x', attempt_began_at = now(), uncertain_since = now(), for_person_since = now(), due_at = NULL`, func(s *Store) loop.Signal { return s.Results.Stray }},
		{"announced", `UPDATE outbox SET state = 'uncertain', attempt = 1, error_kind = 'x', attempt_began_at = now(), uncertain_since = now(), for_person_since = now(), due_at = NULL, announced_at = now()`, nil},
		{"stray", `UPDATE outbox SET state = 'rejected', error_kind = 'x', due_at = NULL, ` + ago("settled_at"), func(s *Store) loop.Signal { return s.Results.Stray }},
		{"just settled", `UPDATE outbox SET state = 'rejected', error_kind = 'x', due_at = NULL, settled_at = clock_timestamp() + interval '1 hour'`, nil},
		{"published", `UPDATE outbox SET state = 'rejected', error_kind = 'x', due_at = NULL, published_at = now(), ` + ago("settled_at"), nil},
		{"malformed", `INSERT INTO outbox_malformed (kind, stream, stream_sequence, stream_time, subject, source, headers, raw, error)
			VALUES ('malformed', 's', 1, now(), 's', 's', '{}', '', 'x'); DELETE FROM outbox`, func(s *Store) loop.Signal { return s.Results.Asked }},
		{"repeat of what is settled", `UPDATE outbox SET state = 'rejected', error_kind = 'x', due_at = NULL, settled_at = now(), published_at = now();
			INSERT INTO outbox_repeats (outbox_id, source, stream_sequence, stream_time) SELECT id, 's', 2, now() FROM outbox`, func(s *Store) loop.Signal { return s.Results.Asked }},
		{"repeat of what is not", `UPDATE outbox SET due_at = clock_timestamp() + interval '1 hour';
			INSERT INTO outbox_repeats (outbox_id, source, stream_sequence, stream_time) SELECT id, 's', 2, now() FROM outbox`, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			mustAdd(t, s, "a", 1, func(e *request.Event) { e.NotBefore = time.Now().Add(time.Hour) })
			all := map[string]loop.Signal{"due": s.Due, "overdue": s.overdue, "doubtful": s.Lookups.Waiting, "stray": s.Results.Stray, "unanswered": s.Results.Asked}
			for _, l := range all {
				select {
				case <-l:
				default:
				}
			}
			pgtest.Exec(t, s.pool, tt.make)
			if err := s.look(t.Context()); err != nil {
				t.Fatal(err)
			}
			for name, l := range all {
				if want := tt.wakes != nil && l == tt.wakes(s); (len(l) > 0) != want {
					t.Errorf("%s: woken %t, want %t", name, len(l) > 0, want)
				}
			}
		})
	}
}
