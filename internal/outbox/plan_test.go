package outbox

import (
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"flexworker/internal/outbox/results"
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
		{"prune", oldSQL, "Index Cond: ((settled_at < (now() - ", []any{time.Hour, time.Now(), 7, pruneBatch}},
		{"expire", expireSQL, "Index Cond: (expires_at <= ", []any{sweepBatch}},
		{"unpublished", results.UnpublishedSQL, "Index Cond: (id = ANY (", []any{[]int64{7, 8}}},
		{"strays", results.StraySQL, "Index Cond: ((settled_at < (now() - ", []any{results.StrayAge, time.Now(), 7, batchSize}},
		{"waiting", results.WaitingSQL, "Index Cond: ((COALESCE(for_person_since, '-infinity'::timestamp with time zone) > ", []any{7, batchSize}},
		{"clock", clockFreshSQL, "outbox_fresh", []any{clockBatch}},
		{"clock", clockAgainSQL, "outbox_again", []any{clockBatch, longestRetry}},
		{"clock", clockSendingSQL, "outbox_sending", []any{clockBatch, longestLease}},
		{"clock", clockUncertainSQL, "outbox_lookup", []any{clockBatch, longestLookup}},
		{"clock", clockResultsSQL, "(settled_at > (now() + '00:00:10'::interval)))", []any{clockBatch}},
		{"outbox_backlog", "TABLE outbox_backlog", "outbox_fresh", nil},
	} {
		rows, err := s.pool.Query(t.Context(), "EXPLAIN (COSTS OFF) "+tt.sql, tt.args...)
		if err != nil {
			t.Fatal(tt.name, err)
		}
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(tt.name, err)
		}
		plan := strings.Join(lines, "\n")
		if tt.name == "unpublished" && strings.Contains(plan, "outbox_publish") || !strings.Contains(plan, tt.has) || strings.Contains(plan, "Seq Scan on outbox\n") || strings.Contains(plan, "Seq Scan on outbox ") {
			t.Errorf("%s: not %q, or the whole table:\n%s", tt.name, tt.has, plan)
		}
	}
}
