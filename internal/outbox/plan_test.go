package outbox

import (
	"strings"
	"testing"
	"time"

	"flexworker/internal/outbox/results"
	"flexworker/internal/testing/pgtest"
)

// TestPlans: what the loops ask again and again is found by an index that is
// searched, not read: a clock that moves within a statement cannot search one, and
// a predicate that no partial index has reads the whole table.
func TestPlans(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	for _, tt := range []struct {
		name, sql, has string
		args           []any
	}{
		{"unpublished", results.UnpublishedSQL, "Index Cond: (id = ANY (", []any{[]int64{7, 8}}},
		{"unpublished results", results.LeftSQL, "Index Cond: ((settled_at < (now() - ", []any{results.UnpublishedAge, time.Now(), 7, batchSize}},
		{"waiting", results.WaitingSQL, "Index Cond: ((COALESCE(for_person_since, '-infinity'::timestamp with time zone) > ", []any{7, batchSize}},
		{"repeats", results.RepeatsSQL, "Index Scan using outbox_repeats_publish", []any{7, batchSize}},
		{"malformed", results.MalformedSQL, "Index Scan using outbox_malformed_publish", []any{7, batchSize}},
		{"words", results.WordsSQL, "Index Scan using outbox_setups_publish", []any{7, batchSize}},
		{"outbox_backlog", "TABLE outbox_backlog", "outbox_fresh", nil},
	} {
		plan := pgtest.Plan(t, s.pool, tt.sql, tt.args...)
		if !strings.Contains(plan, tt.has) || tt.name == "unpublished" && strings.Contains(plan, "outbox_publish") {
			t.Errorf("%s: not %q:\n%s", tt.name, tt.has, plan)
		}
	}
}
