package outbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"flexworker/internal/flex"
	"flexworker/internal/outbox/attempt"
	"flexworker/internal/outbox/request"
	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/flextest"
	"flexworker/internal/testing/pgtest"
)

// TestRecordNotTold: a record of which nobody was told whether it is made is tried
// again, and stands once in the history, made or not.
func TestRecordNotTold(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		fault flextest.Fault
		at    string // what is sent with the record
		state request.State
		want  string
		event func(*request.Event)
		apart bool // the record is a transaction of several statements: a row was met that somebody holds
	}{
		{flextest.None, `{"sid":"KD`, request.Created, "1 created", keyed, false},
		{flextest.None, "commit", request.Created, "1 created", keyed, true},
		{flextest.None, "commit", request.Created, "1 created", bare, false}, // whose interaction it is has to be asked first
		{flextest.Status(503), "http_503", request.Uncertain, "1 uncertain", bare, false},
		{flextest.Status(503), "commit", request.Uncertain, "1 uncertain", bare, true},
		{flextest.Status(400), "http_400", request.Rejected, "1 rejected", bare, false},
		{flextest.Status(429), "http_429", request.Pending, "1 refused", bare, false},
	} {
		for _, made := range []bool{true, false} {
			t.Run(fmt.Sprint(tt.want, " at ", tt.at, " apart ", tt.apart, " made ", made), func(t *testing.T) {
				t.Parallel()
				s := newStore(t)
				mustAdd(t, s, "a", 1, tt.event)
				cutting, c := s.cutting(t, tt.at, made)
				if tt.apart {
					meetLocked(t, cutting, "a-1")
				}
				c.armed.Store(true)
				var log bytes.Buffer
				d := newDeliverer(t, cutting, flextest.New(t, tt.fault))
				d.Log = slog.New(slog.NewTextHandler(&log, nil))
				stop := start(t, d)
				inState(t, s, tt.state, 1)
				expect.Eventually(t, func() error {
					if c.armed.Load() || s.histories(t, "a-1") == "" {
						return errors.New("nothing was cut, or recorded")
					}
					return nil
				})
				stop()
				if h := s.histories(t, "a-1"); h != tt.want {
					t.Errorf("%s, want %s", h, tt.want)
				}
				if strings.Contains(log.String(), "too late") {
					t.Error(log.String())
				}
				pgtest.CheckOutbox(t, s.pool)
			})
		}
	}
}

// meetLocked has a store's Completer meet a row that somebody holds: for a while it writes all but such rows.
func meetLocked(t *testing.T, s *Store, id string) {
	t.Helper()
	_, release := holding(t, s, `SELECT FROM outbox WHERE request_id = $1 FOR UPDATE`, id)
	rejected := told(Lease{ID: s.row(t, id).ID}, flex.Outcome{Kind: flex.Rejected, ErrorKind: "http_400"})
	if _, err := s.record(t.Context(), rejected); !errors.Is(err, ErrLocked) {
		t.Fatal(err)
	}
	release()
}

// TestRecordAgain: after a try that failed, what that try has made is told as it
// was, and what it has not made is recorded now.
func TestRecordAgain(t *testing.T) {
	t.Parallel()
	first := func(t *testing.T, s *Store, r record) {
		t.Helper()
		if _, err := s.record(t.Context(), r); err != nil && !errors.Is(err, attempt.ErrLeaseLost) {
			t.Fatal(err)
		}
	}
	lost := func(t *testing.T, s *Store) {
		t.Helper()
		pgtest.Exec(t, s.pool, `UPDATE outbox SET state = 'cancelled', leased_by = NULL, leased_until = NULL, settled_at = now(), error_kind = 'x', error_message = 'x'`)
	}
	for _, tt := range []struct {
		name    string
		before  func(*testing.T, *Store, record)
		err     error
		hint    bool // its result is told
		history string
	}{
		{"not made", func(*testing.T, *Store, record) {}, nil, true, "1 created"},
		{"made", first, nil, false, "1 created"},
		{"made too late", func(t *testing.T, s *Store, r record) { lost(t, s); first(t, s, r) }, attempt.ErrLeaseLost, false, "1 created!"},
		{"not made, and too late now", func(t *testing.T, s *Store, _ record) { lost(t, s) }, attempt.ErrLeaseLost, false, "1 created!"},
		{"lapsed meanwhile", func(t *testing.T, s *Store, _ record) {
			pgtest.Exec(t, s.pool, `UPDATE outbox SET leased_until = now() - interval '1 s'`)
			if _, err := s.lapse(t.Context()); err != nil {
				t.Fatal(err)
			}
		}, nil, true, "1 lapsed, 1 created"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			mustAdd(t, s, "a", 1)
			r := told(mustClaim(t, s, 1)[0], good)
			tt.before(t, s, r)
			done, err := s.recordAgain(t.Context(), r)
			if !errors.Is(err, tt.err) || (done != nil) != tt.hint {
				t.Errorf("%v, hint %v; want %v", err, done, tt.err)
			}
			if h := s.histories(t, "a-1"); h != tt.history {
				t.Errorf("%s, want %s", h, tt.history)
			}
		})
	}
}

// TestRecordAgainWaits: a commit that is still on its way is waited for.
func TestRecordAgainWaits(t *testing.T) {
	t.Parallel()
	s := newStore(t).unhurried(t)
	mustAdd(t, s, "a", 1)
	r := told(mustClaim(t, s, 1)[0], flex.Outcome{Kind: flex.Refused, ErrorKind: "dial"})
	pid, done := holding(t, s, `
		WITH moved AS (UPDATE outbox SET state = 'pending', leased_by = NULL, leased_until = NULL, due_at = now(), uncounted = 1, error_kind = 'dial')
		INSERT INTO outbox_attempts (outbox_id, kind, number, worker, started_at, outcome, applied) VALUES ($1, 'attempt', 1, $2, now(), 'refused', true)`,
		r.Lease.ID, s.worker)
	var again sync.WaitGroup
	again.Go(func() {
		if _, err := s.recordAgain(context.WithoutCancel(t.Context()), r); err != nil {
			t.Error(err)
		}
	})
	blockedBy(t, s, pid)
	done()
	again.Wait()
	if h := s.histories(t, "a-1"); h != "1 refused" {
		t.Error(h)
	}
}

// TestPutBackNotTold: that no call was made is not forgotten because Postgres is
// away when it is first said: nobody else knows it, and the lease would lapse into
// lookups or, without a task, wait for a person.
func TestPutBackNotTold(t *testing.T) {
	t.Parallel()
	for _, made := range []bool{true, false} {
		t.Run(fmt.Sprint(made), func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			cutting, c := s.cutting(t, "released", made)
			mustAdd(t, cutting, "p", 2)
			leases := mustClaim(t, cutting, 2)
			d := newDeliverer(t, cutting, flextest.New(t))
			d.prepare(t.Context())
			d.permits.Take(2)
			stopping, cancel := context.WithCancel(t.Context())
			cancel()
			d.deliver(stopping, leases[0]) // which prepares the statement
			c.armed.Store(true)
			d.deliver(stopping, leases[1])
			if c.armed.Load() {
				t.Fatal("nothing was cut")
			}
			for _, id := range []string{"p-1", "p-2"} {
				if r, h := s.row(t, id), s.histories(t, id); r.State != request.Pending || r.Uncounted != 1 || h != "1 released" {
					t.Errorf("%s is %s, uncounted %d: %s", id, r.State, r.Uncounted, h)
				}
			}
			pgtest.CheckOutbox(t, s.pool)
		})
	}
}
