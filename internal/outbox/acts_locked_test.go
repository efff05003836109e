package outbox

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"flexworker/internal/database"
	"flexworker/internal/flex"
	"flexworker/internal/outbox/attempt"
	"flexworker/internal/outbox/gate"
	"flexworker/internal/outbox/operator"
	"flexworker/internal/testing/pgtest"
)

// TestActLocked: an act on many goes on without a row that somebody holds, names it, and takes it
// when it is done again. What it took is recorded once.
func TestActLocked(t *testing.T) {
	t.Parallel()
	for _, c := range []operator.Change{operator.ToCancel(), operator.ToRetry(false), operator.ToRepublish(), operator.ToLookUp()} {
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			mustAdd(t, s, "a", 3)
			switch c.Name {
			case "retry":
				pgtest.Exec(t, s.pool, `UPDATE outbox SET state = 'cancelled', due_at = NULL, settled_at = now(), resolved_by = 'operator', error_kind = 'cancelled'`)
			case "republish":
				pgtest.Exec(t, s.pool, `UPDATE outbox SET state = 'cancelled', due_at = NULL, settled_at = now(), resolved_by = 'operator', error_kind = 'cancelled', published_at = now()`)
			case "lookup":
				for _, l := range mustClaim(t, s, 3) {
					if _, err := s.record(t.Context(), told(l, flex.Outcome{ErrorKind: "timeout"})); err != nil {
						t.Fatal(err)
					}
				}
			}
			_, done := holding(t, s, `SELECT FROM outbox WHERE request_id = 'a-2' FOR UPDATE`)
			all, err := s.desk().Do(t.Context(), c, ann, operator.Filter{})
			if err != nil || all.N != 2 || !slices.Equal(all.IDs, []string{"a-1", "a-3"}) || !slices.Equal(all.Locked, []string{"a-2"}) {
				t.Errorf("%+v, %v", all, err)
			}
			all, err = s.desk().Do(t.Context(), c, ann, operator.Filter{RequestIDs: []string{"a-2"}})
			if err != nil || all.N != 0 || !slices.Equal(all.Locked, []string{"a-2"}) {
				t.Errorf("by its name: %+v, %v", all, err)
			}
			done()
			all, err = s.desk().Do(t.Context(), c, ann, operator.Filter{RequestIDs: []string{"a-2"}})
			if err != nil || !slices.Equal(all.IDs, []string{"a-2"}) || len(all.Locked) != 0 {
				t.Errorf("afterwards: %+v, %v", all, err)
			}
			if got := pgtest.One[string](t, s.pool, `SELECT string_agg(request_id, ' ' ORDER BY id) FROM outbox_acts`); got != "a-1 a-3 a-2" {
				t.Errorf("recorded: %s", got)
			}
			pgtest.CheckOutbox(t, s.pool)
		})
	}
}

// TestActMeetsCommit: a row that another has changed since the act has seen it is not called locked.
func TestActMeetsCommit(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	mustAdd(t, s, "a", 3)
	_, held := holding(t, s, `SELECT FROM outbox WHERE request_id = 'a-3' FOR UPDATE`)
	pid, open := s.barrier(t)
	did := make(chan operator.Affected, 1)
	go func() {
		all, err := s.desk().Do(t.Context(), operator.ToCancel(), ann, operator.Filter{})
		if err != nil {
			t.Error(err)
		}
		did <- all
	}()
	s.waiting(t, pid, 1)
	pgtest.Exec(t, s.pool, `SET LOCAL session_replication_role = replica; -- past the barrier
		UPDATE outbox SET state = 'cancelled', due_at = NULL, settled_at = now(), resolved_by = 'operator', error_kind = 'cancelled' WHERE request_id = 'a-2'`)
	open()
	if all := <-did; !slices.Equal(all.IDs, []string{"a-1"}) || !slices.Equal(all.Locked, []string{"a-3"}) {
		t.Errorf("%+v", all)
	}
	held()
}

// TestActTableLocked: a table that is locked as a whole leaves no row out: nothing is done.
func TestActTableLocked(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	mustAdd(t, s, "a", 2)
	_, done := holding(t, s, `LOCK TABLE outbox IN SHARE MODE`)
	all, err := s.with(t, "lock_timeout", "50ms").desk().Do(t.Context(), operator.ToCancel(), ann, operator.Filter{})
	if !database.WaitedForLock(err) || errors.Is(err, operator.ErrLeftOut) || len(all.IDs)+len(all.Locked) != 0 {
		t.Errorf("%+v, %v", all, err)
	}
	done()
}

// TestReleaseLocked: a row that somebody holds keeps no other from being due.
func TestReleaseLocked(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	mustAdd(t, s, "a", 3)
	limited := flex.Outcome{Kind: flex.Refused, Limited: true, HTTPStatus: 429, RetryAfter: time.Hour, ErrorKind: "http_429", Message: "too many"}
	for _, l := range mustClaim(t, s, 3) {
		if _, err := s.record(t.Context(), attempt.Decide(testPolicy, l, limited, 0)); err != nil {
			t.Fatal(err)
		}
	}
	_, done := holding(t, s, `SELECT FROM outbox WHERE request_id = 'a-2' FOR UPDATE`)
	due := func(want string) {
		t.Helper()
		if got := pgtest.One[string](t, s.pool, `SELECT coalesce(string_agg(request_id, ' ' ORDER BY id), '') FROM outbox WHERE due_at <= now()`); got != want {
			t.Errorf("due are %q, want %q", got, want)
		}
	}
	if _, err := s.desk().Release(t.Context(), ann); !errors.Is(err, operator.ErrLeftOut) || !strings.Contains(err.Error(), "the gate is open, but 1 of the requests") {
		t.Errorf("release: %v", err)
	}
	due("a-1 a-3")
	if g := readGate(t, s); g.State != gate.Open {
		t.Errorf("%+v", g)
	}
	done()
	if _, err := s.desk().Release(t.Context(), ann); err != nil {
		t.Error(err)
	}
	due("a-1 a-2 a-3")
}
