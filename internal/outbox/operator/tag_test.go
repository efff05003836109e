package operator_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"flexworker/internal/flex"
	"flexworker/internal/outbox/operator"
	"flexworker/internal/outbox/request"
	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/pgtest"
)

// under is an act that speaks of a request as it was read.
func under(d operator.Detail, a operator.Act) operator.Act {
	a.Seen = d.Tag()
	return a
}

func (s *rig) show(t testing.TB, id string) operator.Detail {
	t.Helper()
	d, err := s.desk.Show(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestStaleScreen: of two people who look at one uncertain request, the second cannot decide on what the first has
// changed, whatever that was, and is told.
func TestStaleScreen(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		first func(s *rig) error
		told  string
	}{
		"resolved": {func(s *rig) error { return s.resolve(t, "r-1", absent) }, "resolve absent by ann@desk at "},
		"created":  {func(s *rig) error { return s.resolve(t, "r-1", created(sidA)) }, "; it is created now as " + sidA},
		"cancelled": {func(s *rig) error {
			_, err := s.cancel(t.Context(), aTest, operator.Filter{RequestIDs: []string{"r-1"}})
			return err
		}, "cancel by ann@desk at "},
		"found something else": {func(s *rig) error {
			return s.lookup(t, "a task that names no interaction carries its key")
		}, "lookup 2 by w2 at "},
		"again": {func(s *rig) error {
			if err := s.resolve(t, "r-1", absent); err != nil {
				return err
			}
			uncertainAgain(t, s, "r-1")
			return nil
		}, "attempt 2 by w1 at "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newRig(t)
			mustAdd(t, s, "r", 1)
			uncertainAgain(t, s)
			if err := s.lookup(t, "not listed yet"); err != nil {
				t.Fatal(err)
			}
			seen := s.show(t, "r-1")
			if err := c.first(s); err != nil {
				t.Fatal(err)
			}
			now := s.show(t, "r-1")
			for _, decision := range []operator.Decision{absent, created(sidB)} {
				r, err := s.desk.Resolve(t.Context(), under(seen, aTest), "r-1", decision)
				if !errors.Is(err, operator.ErrStale) && !errors.Is(err, operator.ErrOtherAttempt) || r.Request.Tag() != now.Tag() {
					t.Errorf("%+v: %v, %s", decision, err, r.Request.Tag())
				}
			}
			for _, change := range []operator.Change{operator.ToRetry(false), operator.ToCancel(), operator.ToLookUp(), operator.ToRepublish()} {
				if ids, err := s.do(t.Context(), change, under(seen, aTest), operator.Filter{RequestIDs: []string{"r-1"}}); err != nil || len(ids) != 0 {
					t.Errorf("%s: %v, %v", change.Name, ids, err)
				}
			}
			if after := s.show(t, "r-1"); after.Tag() != now.Tag() {
				t.Errorf("from %s to %s", now.Tag(), after.Tag())
			}
			if told := now.SinceTag(seen.Tag()); !strings.Contains(told, c.told) || strings.Contains(told, "attempt 1 ") {
				t.Errorf("told %q", told)
			}
		})
	}
}

// lookup is what a lookup of r-1 came to.
func (s *rig) lookup(t testing.TB, why string) error {
	t.Helper()
	_, err := s.pool.Exec(t.Context(), `
		INSERT INTO outbox_attempts (outbox_id, kind, number, worker, started_at, outcome, error, applied)
		SELECT o.id, 'lookup', (SELECT count(*) + 1 FROM outbox_attempts a WHERE a.outbox_id = o.id AND a.kind = 'lookup'), 'w2', now(), 'unclear', $1, true FROM outbox o WHERE request_id = 'r-1'`, why)
	return err
}

// TestLookupsBeside: who decides is not refused because another has had the request looked up meanwhile, where that has found what
// was known, or could not ask.
func TestLookupsBeside(t *testing.T) {
	t.Parallel()
	s := newRig(t)
	mustAdd(t, s, "r", 1)
	uncertainAgain(t, s)
	for _, why := range []string{"not listed yet", "TaskRouter could not be asked: read tcp 127.0.0.1:4001: timeout"} {
		if err := s.lookup(t, why); err != nil {
			t.Fatal(err)
		}
	}
	seen := s.show(t, "r-1")
	if _, err := s.do(t.Context(), operator.ToLookUp(), aTest, operator.Filter{}); err != nil {
		t.Fatal(err)
	}
	for _, why := range []string{"not listed yet", "TaskRouter could not be asked: read tcp 127.0.0.1:4002: timeout"} {
		if err := s.lookup(t, why); err != nil {
			t.Fatal(err)
		}
	}
	if now := s.show(t, "r-1"); now.Tag() != seen.Tag() || now.SinceTag(seen.Tag()) != "it is uncertain now" {
		t.Errorf("from %s to %s: %s", seen.Tag(), now.Tag(), now.SinceTag(seen.Tag()))
	}
	if _, err := s.desk.Resolve(t.Context(), under(seen, aTest), "r-1", absent); err != nil {
		t.Error(err)
	}
}

// TestTagOfNow: who has seen the request as it is may decide, and nothing has happened since.
func TestTagOfNow(t *testing.T) {
	t.Parallel()
	s := newRig(t)
	mustAdd(t, s, "r", 1)
	uncertainAgain(t, s)
	if _, err := s.do(t.Context(), operator.ToLookUp(), aTest, operator.Filter{}); err != nil {
		t.Fatal(err)
	}
	seen := s.show(t, "r-1")
	if told := seen.SinceTag(seen.Tag()); told != "it is uncertain now" {
		t.Errorf("told %q", told)
	}
	if ids, err := s.cancel(t.Context(), under(seen, aTest), operator.Filter{}); err != nil || len(ids) != 1 {
		t.Fatal(ids, err)
	}
	seen = s.show(t, "r-1")
	if _, err := s.desk.Resolve(t.Context(), under(seen, aTest), "r-1", absent); err != nil {
		t.Fatal(err)
	}
	if got := pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox_acts WHERE attempt = 1`); got != 2 {
		t.Errorf("%d acts speak of attempt 1", got)
	}
	for _, tag := range []operator.Tag{"x", "1-1-uncertain", "1--1-pending-0-0", "1-1-pending-x-0", "1-1-pending-0-x", "1-1-pending-0-0-0"} {
		if told := s.show(t, "r-1").SinceTag(tag); told != "it is cancelled now" {
			t.Errorf("since %q: %q", tag, told)
		}
		a := aTest
		a.Seen = tag
		if ids, err := s.retry(t.Context(), a, operator.Filter{}); err != nil || len(ids) != 0 {
			t.Errorf("under %q: %v, %v", tag, ids, err)
		}
	}
}

// meanwhile is a Flex that shows an interaction, and while it is asked somebody else acts.
type meanwhile struct {
	operator.Flex
	act func()
}

func (m meanwhile) Fetch(context.Context, string) flex.Outcome {
	m.act()
	return flex.Outcome{Kind: flex.Created}
}

// TestStaleWhileFlexIsAsked: what another did while Flex was asked counts, too.
func TestStaleWhileFlexIsAsked(t *testing.T) {
	t.Parallel()
	s := newRig(t)
	mustAdd(t, s, "r", 1)
	uncertainAgain(t, s)
	seen := s.show(t, "r-1")
	other := func() {
		if _, err := s.do(t.Context(), operator.ToCancel(), aTest, operator.Filter{}); err != nil {
			t.Error(err)
		}
	}
	desk := operator.NewDesk(s.pool, ann, func() (operator.Flex, time.Duration, error) { return meanwhile{act: other}, time.Minute, nil })
	if _, err := desk.Resolve(t.Context(), under(seen, aTest), "r-1", operator.Decision{Created: sidA}); !errors.Is(err, operator.ErrStale) {
		t.Error(err)
	}
	if r := s.row(t, "r-1"); r.State != request.Uncertain {
		t.Error(r.State)
	}
}

// TestTagBehindALock: who decides under a tag, and waits for the row while another acts on it, is refused.
func TestTagBehindALock(t *testing.T) {
	t.Parallel()
	s := newRig(t)
	mustAdd(t, s, "r", 1)
	uncertainAgain(t, s, "r-1")
	tag := s.show(t, "r-1").Tag()
	tx, err := s.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// act 1: cancels it, not committed yet
	if _, err := tx.Exec(t.Context(), `WITH m AS (UPDATE outbox SET cancel_requested_at = now() WHERE request_id='r-1' RETURNING request_id) INSERT INTO outbox_acts (who,why,act,request_id,was) SELECT 'bob','do not call it absent: I see it in Flex','cancel',request_id,'uncertain' FROM m`); err != nil {
		t.Fatal(err)
	}
	patient := operator.NewDesk(pgtest.Unhurried(t, s.pool), ann, nil)
	done := make(chan error, 1)
	go func() {
		a := aTest
		a.Seen = tag
		_, err := patient.Resolve(t.Context(), a, "r-1", absent)
		done <- err
	}()
	expect.Eventually(t, func() error {
		return expect.Is("sessions that wait for a row", pgtest.One[int](t, s.pool, `SELECT count(*)::int FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`), 1)
	})
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, operator.ErrStale) {
		t.Errorf("under a tag that the row no longer had: %v", err)
	}
}
