package operator_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"flexworker/internal/outbox/operator"
	"flexworker/internal/outbox/request"
	"flexworker/internal/testing/pgtest"
)

// TestFilter: each part of a filter alone.
func TestFilter(t *testing.T) {
	t.Parallel()
	s := newRig(t)
	everyState(t, s)
	pgtest.Exec(t, s.pool, `UPDATE outbox SET received_at = received_at - interval '2 hours' WHERE request_id IN ('abandoned', 'cancelled', 'created')`)
	pgtest.Exec(t, s.pool, `UPDATE outbox SET settled_at = settled_at - interval '2 hours' WHERE request_id = 'created'`)
	pgtest.Exec(t, s.pool, `UPDATE outbox SET source = 'shop' WHERE request_id IN ('sending', 'expired')`)
	for _, tt := range []struct {
		f    operator.Filter
		want string
	}{
		{operator.Filter{}, "abandoned cancelled created expired faulty pending rejected sending uncertain"},
		{operator.Filter{Limit: 2}, "sending uncertain"},
		{operator.Filter{State: request.Rejected}, "faulty rejected"},
		{operator.Filter{Source: "shop"}, "expired sending"},
		{operator.Filter{ErrorKind: "http_400"}, "rejected"},
		{operator.Filter{OlderThan: time.Hour}, "abandoned cancelled created"},
		{operator.Filter{Since: time.Hour}, "abandoned cancelled expired faulty rejected"},
		{operator.Filter{RequestIDs: []string{"expired", "nobody"}}, "expired"},
		{operator.Filter{RequestIDs: []string{}}, ""},
		{operator.Filter{State: "nonsense"}, ""},
		{operator.Filter{State: request.Created, OlderThan: time.Hour}, "created"},
		{operator.Filter{State: request.Pending, OlderThan: time.Hour}, ""},
	} {
		rows, err := s.desk.List(t.Context(), tt.f)
		if err != nil {
			t.Fatal(err)
		}
		var ids []string
		for _, r := range rows {
			ids = append(ids, r.RequestID)
		}
		if tt.f.State.Final() || tt.f.Since != 0 {
			slices.Sort(ids) // the last to settle is first
		} else {
			slices.Reverse(ids) // the newest is first
		}
		if got := strings.Join(ids, " "); got != tt.want {
			t.Errorf("%+v gives %s, want %s", tt.f, got, tt.want)
		}
	}
	ids, err := s.retry(t.Context(), aTest, operator.Filter{Limit: 1})
	if err != nil || !slices.Equal(ids, []string{"abandoned"}) {
		t.Errorf("one of many: %v, %v", ids, err)
	}
}
