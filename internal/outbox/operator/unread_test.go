package operator_test

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"flexworker/internal/outbox/operator"
	"flexworker/internal/outbox/request"
	"flexworker/internal/testing/pgtest"
)

var errUnread = errors.New("nothing is read any more")

// blind is the same desk, whose reads fail as soon as an act is recorded.
func (s *rig) blind(t testing.TB) *operator.Desk { return s.desk.ReadingFrom(s.untilAnAct(t)) }

// untilAnAct is a pool that gives no connection any more once an act is recorded.
func (s *rig) untilAnAct(t testing.TB) *pgxpool.Pool {
	t.Helper()
	config := s.pool.Config()
	config.PrepareConn = func(ctx context.Context, conn *pgx.Conn) (bool, error) {
		var acted bool
		if err := conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM outbox_acts)`).Scan(&acted); err != nil || !acted {
			return true, err
		}
		return true, errUnread
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// TestDoneAlthoughUnread: what is committed is said to be done, also where the request cannot be read afterwards.
func TestDoneAlthoughUnread(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		decision operator.Decision
		want     request.State
	}{
		"created": {created(sidB), request.Created},
		"absent":  {absent, request.Pending},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newRig(t)
			everyState(t, s)
			r, err := s.blind(t).Resolve(t.Context(), ofAttempt(1, aTest), "uncertain", tt.decision)
			if err != nil || !errors.Is(r.Unread, errUnread) || r.Became != tt.want || r.Request.State != request.Uncertain {
				t.Errorf("it became %q, unread: %v, found %s: %v", r.Became, r.Unread, r.Request.State, err)
			}
			if got := s.row(t, "uncertain").State; got != tt.want {
				t.Errorf("it is %s", got)
			}
		})
	}
	t.Run("erase", func(t *testing.T) {
		t.Parallel()
		s := newRig(t)
		everyState(t, s)
		e, err := s.blind(t).Erase(t.Context(), aTest, "created")
		if err != nil || e.Request.RequestID != "" || len(e.Messages) != 1 {
			t.Errorf("%+v, %v", e, err)
		}
		if !pgtest.One[bool](t, s.pool, `SELECT erased_at IS NOT NULL FROM outbox WHERE request_id = 'created'`) {
			t.Error("it is not erased")
		}
	})
	t.Run("a sender's cancel", func(t *testing.T) {
		t.Parallel()
		s := newRig(t)
		everyState(t, s)
		for id, want := range map[string]operator.Cancelled{
			"pending": {Cancelled: true, State: request.Cancelled}, "uncertain": {State: request.Uncertain},
		} {
			pgtest.Exec(t, s.pool, `TRUNCATE outbox_acts`)
			got, err := s.blind(t).For(operator.Sender("crm")).CancelOwn(t.Context(), id, aTest)
			if err != nil || got.Cancelled != want.Cancelled || got.State != want.State || got.Why == "" {
				t.Errorf("%s: %+v, %v", id, got, err)
			}
		}
	})
	t.Run("what was left out", func(t *testing.T) {
		t.Parallel()
		s := newRig(t)
		mustAdd(t, s, "r", 2)
		tx, err := s.pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = tx.Rollback(t.Context()) }()
		pgtest.Exec(t, tx, `SELECT FROM outbox WHERE request_id = 'r-1' FOR UPDATE`)
		all, err := operator.NewDesk(s.untilAnAct(t), ann, nil).Do(t.Context(), operator.ToCancel(), aTest, operator.Filter{})
		if err != nil || all.N != 1 || all.IDs[0] != "r-2" || len(all.Locked) != 1 || all.Locked[0] != "r-1" {
			t.Errorf("%+v, %v", all, err)
		}
	})
}
