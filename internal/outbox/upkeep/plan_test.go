package upkeep

import (
	"os"
	"strings"
	"testing"
	"time"

	"flexworker/internal/database"
	"flexworker/internal/testing/pgtest"
	"flexworker/migrations"
)

var migrated = pgtest.NewTemplate(migrations.Up)

func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }

// TestPlans: what the loops ask again and again is found by an index that is searched.
func TestPlans(t *testing.T) {
	t.Parallel()
	pool := migrated.NewPool(t, database.ForLoops)
	for _, tt := range []struct {
		name, sql, has string
		args           []any
	}{
		{"prune", oldSQL, "Index Cond: ((settled_at < (now() - ", []any{time.Hour, time.Now(), 7, PruneBatch}},
		{"count", countSQL, "Index Cond: ((settled_at >= ", []any{"1", time.Now(), CountMost, minutesKept, writing, sourcesMost}},
		{"expire", expireSQL, "Index Cond: (expires_at <= ", []any{SweepBatch}},
		{"clock", clockFreshSQL, "outbox_fresh", []any{clockBatch}},
		{"clock", clockAgainSQL, "outbox_again", []any{clockBatch, longestRetry}},
		{"clock", clockSendingSQL, "outbox_sending", []any{clockBatch, longestLease}},
		{"clock", clockUncertainSQL, "outbox_lookup", []any{clockBatch, longestLookup}},
		{"clock", clockResultsSQL, "(settled_at > (now() + '00:00:10'::interval)))", []any{clockBatch}},
	} {
		if plan := pgtest.Plan(t, pool, tt.sql, tt.args...); !strings.Contains(plan, tt.has) {
			t.Errorf("%s: not %q:\n%s", tt.name, tt.has, plan)
		}
	}
}
