package outbox

import (
	"testing"
	"time"

	"flexworker/internal/loop"
	"flexworker/internal/outbox/request"
	"flexworker/internal/outbox/upkeep"
	"flexworker/internal/testing/pgtest"
)

// TestPoll: a poll wakes the loop for which something waits, and no other.
func TestPoll(t *testing.T) {
	t.Parallel()
	ago := func(column string) string { return column + ` = clock_timestamp() - interval '1 minute'` }
	for _, tt := range []struct {
		name, make string
		wakes      func(*upkeep.Upkeep) loop.Signal
	}{
		{"due", `UPDATE outbox SET ` + ago("due_at"), func(u *upkeep.Upkeep) loop.Signal { return u.Due }},
		{"due again", `UPDATE outbox SET attempt = 3, uncounted = 3, priority = 7, ` + ago("due_at"), func(u *upkeep.Upkeep) loop.Signal { return u.Due }},
		{"not yet due", `UPDATE outbox SET due_at = clock_timestamp() + interval '1 hour'`, nil},
		{"leased", `UPDATE outbox SET state = 'sending', attempt = 1, due_at = NULL, leased_by = 'w', leased_until = clock_timestamp() + interval '1 hour'`, nil},
		{"lapsed", `UPDATE outbox SET state = 'sending', attempt = 1, due_at = NULL, leased_by = 'w', ` + ago("leased_until"), func(u *upkeep.Upkeep) loop.Signal { return u.Overdue }},
		{"expired", `UPDATE outbox SET due_at = clock_timestamp() + interval '1 hour', ` + ago("expires_at"), func(u *upkeep.Upkeep) loop.Signal { return u.Overdue }},
		{"lookup due", `UPDATE outbox SET state = 'uncertain', attempt = 1, error_kind = 'x', attempt_began_at = now(), uncertain_since = now(), ` + ago("due_at"), func(u *upkeep.Upkeep) loop.Signal { return u.Uncertain }},
		{"lookup later", `UPDATE outbox SET state = 'uncertain', attempt = 1, error_kind = 'x', attempt_began_at = now(), uncertain_since = now(), due_at = clock_timestamp() + interval '1 hour'`, nil},
		{"for a person", `UPDATE outbox SET state = 'uncertain', attempt = 1, error_kind = 'x', attempt_began_at = now(), uncertain_since = now(), for_person_since = now(), due_at = NULL`, func(u *upkeep.Upkeep) loop.Signal { return u.Results.Left }},
		{"announced", `UPDATE outbox SET state = 'uncertain', attempt = 1, error_kind = 'x', attempt_began_at = now(), uncertain_since = now(), for_person_since = now(), due_at = NULL, announced_at = now()`, nil},
		{"left", `UPDATE outbox SET state = 'rejected', error_kind = 'x', due_at = NULL, ` + ago("settled_at"), func(u *upkeep.Upkeep) loop.Signal { return u.Results.Left }},
		{"just settled", `UPDATE outbox SET state = 'rejected', error_kind = 'x', due_at = NULL, settled_at = clock_timestamp() + interval '1 hour'`, nil},
		{"published", `UPDATE outbox SET state = 'rejected', error_kind = 'x', due_at = NULL, published_at = now(), ` + ago("settled_at"), nil},
		{"malformed", `INSERT INTO outbox_malformed (kind, stream, stream_sequence, stream_time, subject, source, headers, raw, error)
			VALUES ('malformed', 's', 1, now(), 's', 's', '{}', '', 'x'); DELETE FROM outbox`, func(u *upkeep.Upkeep) loop.Signal { return u.Results.Asked }},
		{"repeat of what is settled", `UPDATE outbox SET state = 'rejected', error_kind = 'x', due_at = NULL, settled_at = now(), published_at = now();
			INSERT INTO outbox_repeats (outbox_id, source, stream_sequence, stream_time) SELECT id, 's', 2, now() FROM outbox`, func(u *upkeep.Upkeep) loop.Signal { return u.Results.Asked }},
		{"word about a set-up", `UPDATE outbox SET due_at = clock_timestamp() + interval '1 hour';
			INSERT INTO outbox_setups (id, created_at, word, decided_at) SELECT id, now(), 'confirmed', now() FROM outbox`, func(u *upkeep.Upkeep) loop.Signal { return u.Results.Words }},
		{"repeat of what is not", `UPDATE outbox SET due_at = clock_timestamp() + interval '1 hour';
			INSERT INTO outbox_repeats (outbox_id, source, stream_sequence, stream_time) SELECT id, 's', 2, now() FROM outbox`, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			mustAdd(t, s, "a", 1, func(e *request.Event) { e.NotBefore = time.Now().Add(time.Hour) })
			u := s.upkeep()
			all := map[string]loop.Signal{"due": u.Due, "overdue": u.Overdue, "uncertain": u.Uncertain, "left": u.Results.Left, "unanswered": u.Results.Asked, "words": u.Results.Words}
			for _, l := range all {
				select {
				case <-l:
				default:
				}
			}
			pgtest.Exec(t, s.pool, tt.make)
			if err := u.PollOnce(t.Context()); err != nil {
				t.Fatal(err)
			}
			for name, l := range all {
				if want := tt.wakes != nil && l == tt.wakes(u); (len(l) > 0) != want {
					t.Errorf("%s: woken %t, want %t", name, len(l) > 0, want)
				}
			}
		})
	}
}
