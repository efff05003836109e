package operator_test

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"flexworker/internal/outbox/operator"
	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/pgtest"
)

// TestTelling: the Publisher beside a desk is told of each request whose result an act has made due, once that is committed,
// and of no other.
func TestTelling(t *testing.T) {
	t.Parallel()
	pendingAndCancelled := func(s *rig) {
		pgtest.Exec(t, s.pool, `UPDATE outbox SET due_at = NULL, cancel_requested_at = now() WHERE request_id = 'uncertain'`)
	}
	for name, tt := range map[string]struct {
		before func(s *rig)
		act    func(ctx context.Context, s *rig) error
		want   []string
	}{
		"a sender's cancel": {act: func(ctx context.Context, s *rig) error {
			_, err := s.desk.For(operator.Sender("crm")).CancelOwn(ctx, "pending", aTest)
			return err
		}, want: []string{"pending"}},
		"a sender's cancel of what may exist": {act: func(ctx context.Context, s *rig) error {
			_, err := s.desk.For(operator.Sender("crm")).CancelOwn(ctx, "uncertain", aTest)
			return err
		}},
		"cancel of many": {act: func(ctx context.Context, s *rig) error {
			_, err := s.cancel(ctx, aTest, operator.Filter{})
			return err
		}, want: []string{"pending"}},
		"republish": {act: func(ctx context.Context, s *rig) error {
			_, err := s.republish(ctx, aTest, operator.Filter{RequestIDs: []string{"created", "expired", "pending"}})
			return err
		}, want: []string{"created", "expired"}},
		"retry": {act: func(ctx context.Context, s *rig) error {
			_, err := s.retry(ctx, aTest, operator.Filter{RequestIDs: []string{"abandoned"}})
			return err
		}},
		"resolved as created": {act: func(ctx context.Context, s *rig) error {
			return s.resolve(t, "uncertain", created(sidB))
		}, want: []string{"uncertain"}},
		"resolved as absent": {act: func(ctx context.Context, s *rig) error { return s.resolve(t, "uncertain", absent) }},
		"resolved as absent, cancelled": {before: pendingAndCancelled, act: func(ctx context.Context, s *rig) error {
			return s.resolve(t, "uncertain", absent)
		}, want: []string{"uncertain"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newRig(t)
			everyState(t, s)
			if tt.before != nil {
				tt.before(s)
			}
			var told []string
			s.desk = s.desk.Telling(func(ids []int64) {
				for _, id := range ids { // another session sees what it is told of
					told = append(told, pgtest.One[string](t, s.pool, `SELECT request_id FROM outbox WHERE id = $1 AND settled_at IS NOT NULL AND published_at IS NULL`, id))
				}
			})
			if err := tt.act(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			slices.Sort(told)
			if err := expect.Is("told of", fmt.Sprint(told), fmt.Sprint(tt.want)); err != nil {
				t.Error(err)
			}
		})
	}
}
