package operator

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"flexworker/internal/outbox"
	"flexworker/internal/testing/pgtest"
	"flexworker/migrations"
)

// TestBacklogPlan: the backlog is counted in the loops' partial indexes, each of which is read alone.
func TestBacklogPlan(t *testing.T) {
	t.Parallel()
	pool := pgtest.NewPool(t, migrations.Up, outbox.Configure)
	rows, err := pool.Query(t.Context(), "EXPLAIN (COSTS OFF) "+backlogSQL)
	if err != nil {
		t.Fatal(err)
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	plan := strings.Join(lines, "\n")
	for _, index := range []string{"outbox_fresh", "outbox_again", "outbox_sending", "outbox_lookup", "outbox_publish"} {
		if !strings.Contains(plan, "Index Only Scan using "+index) {
			t.Errorf("%s is not read alone:\n%s", index, plan)
		}
	}
	if strings.Contains(plan, "Seq Scan on outbox\n") || strings.Contains(plan, "Seq Scan on outbox ") {
		t.Errorf("the whole table is read:\n%s", plan)
	}
}
