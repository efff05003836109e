package operator

import (
	"strings"
	"testing"

	"flexworker/internal/database"
	"flexworker/internal/testing/pgtest"
)

// TestBacklogPlan: the backlog is counted in the loops' partial indexes, each of which is read alone.
func TestBacklogPlan(t *testing.T) {
	t.Parallel()
	pool := migrated.NewPool(t, database.ForLoops)
	plan := pgtest.Plan(t, pool, backlogSQL)
	for _, index := range []string{"outbox_fresh", "outbox_again", "outbox_sending", "outbox_lookup", "outbox_publish"} {
		if !strings.Contains(plan, "Index Only Scan using "+index) {
			t.Errorf("%s is not read alone:\n%s", index, plan)
		}
	}
}
