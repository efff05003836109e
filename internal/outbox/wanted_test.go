package outbox

import (
	"regexp"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"flexworker/internal/testing/pgtest"
)

// TestWantedReplicas: an autoscaler is told what the backlog wants, as far as the rate lets more replicas send more.
func TestWantedReplicas(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	fill := func(state string, n int, due string) {
		t.Helper()
		pgtest.Exec(t, s.pool, `
			INSERT INTO outbox (request_id, source, state, request, attempt, priority, due_at, leased_by, leased_until, stream_sequence, stream_time)
			SELECT $1 || n || $3, 'crm', $1, '{}', CASE WHEN $1 = 'sending' THEN 1 ELSE n % 2 END, n % 10, CASE WHEN $1 = 'pending' THEN now() + $3::interval END,
			       CASE WHEN $1 = 'sending' THEN 'w' END, CASE WHEN $1 = 'sending' THEN now() + interval '1 minute' END, n, now()
			  FROM generate_series(1, $2) AS n`, state, n, due)
	}
	check := func(when, want string) {
		t.Helper()
		pgtest.Exec(t, s.pool, `UPDATE outbox_replicas SET seen_at = now() WHERE name <> 'dead'`) // they live, however long the test takes
		if got := pgtest.One[string](t, s.pool, `SELECT concat_ws(' ', replicas, calls, due, round(permits)) FROM outbox_wanted_replicas`); got != want {
			t.Errorf("%s: %s, want %s", when, got, want)
		}
	}
	gate := func(set string) { t.Helper(); pgtest.Exec(t, s.pool, `UPDATE outbox_gate SET `+set) }

	gate(`rate = 10`)
	check("nothing to do", "1 0 0 16")
	pgtest.Exec(t, s.pool, `
		INSERT INTO outbox_replicas (name, version, seen_at, state, lookup_settle, flex_timeout, flex_rate, flex_concurrency, uncertain_policy, retention)
		VALUES ('a', 'v', now(), 'ok', '0', '0', 10, 4, 'hold', '0'), ('b', 'v', now(), 'ok', '0', '0', 10, 8, 'hold', '0'),
		       ('dead', 'v', now() - interval '1 minute', 'ok', '0', '0', 10, 1000, 'hold', '0'), ('unknown', 'v', now(), 'ok', '0', '0', 10, 0, 'hold', '0')`)
	fill("pending", 300, "1 hour")
	check("what is not due", "1 0 0 6")
	fill("pending", 3, "0")
	check("a few", "1 0 3 6")
	fill("pending", 5000, "-1 second")
	check("a backlog behind the rate", "2 0 10 6")
	fill("sending", 12, "")
	check("a backlog while the permits of two replicas are in use", "4 12 10 6")
	gate(`rate = 0.5`)
	check("a rate below one", "3 12 1 6")
	gate(`rate = 0`)
	check("without a rate", "836 12 5003 6")
	fill("pending", 7000, "-2 seconds")
	check("no more than 10,000 are counted", "1669 12 10000 6")
	gate(`held_since = now(), reason = 'x'`)
	check("held", "2 12 0 6")
	gate(`held_since = NULL, paused_until = now() + interval '1 minute'`)
	check("paused", "2 12 0 6")
	gate(`paused_until = now() + interval '2 hours'`)
	check("a pause that nobody can have asked for", "1669 12 10000 6")
}

// TestWantedReplicasPlan: an autoscaler asks every few seconds, and reads indexes alone, none of them further than it counts.
func TestWantedReplicasPlan(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	pgtest.Exec(t, s.pool, `
		INSERT INTO outbox (request_id, source, state, request, attempt, due_at, stream_sequence, stream_time, settled_at, published_at, interaction_sid, resolved_by)
		SELECT 'r-' || n, 'crm', CASE WHEN n % 4 = 0 THEN 'pending' ELSE 'created' END, '{}', CASE WHEN n % 4 = 0 THEN n % 3 ELSE 1 END,
		       CASE WHEN n % 4 = 0 THEN now() + (n % 5 - 2) * interval '1 hour' END, n, now(), CASE WHEN n % 4 > 0 THEN now() END, CASE WHEN n % 4 > 0 THEN now() END,
		       CASE WHEN n % 4 > 0 THEN 'KD' || lpad(to_hex(n), 32, '0') END, CASE WHEN n % 4 > 0 THEN 'response' END
		  FROM generate_series(1, 20000) AS n`)
	pgtest.Exec(t, s.pool, `VACUUM ANALYZE outbox`)
	// As whoever asks, without the worker's settings of the planner.
	pool, err := pgxpool.New(t.Context(), s.pool.Config().ConnString())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	plan := pgtest.PlanOfOthers(t, pool, `TABLE outbox_wanted_replicas`)
	for _, index := range []string{"outbox_fresh", "outbox_again", "outbox_sending"} {
		if !regexp.MustCompile(`Index Only Scan using ` + index + `\b`).MatchString(plan) {
			t.Errorf("not by %s alone:\n%s", index, plan)
		}
	}
	if regexp.MustCompile(`Scan on outbox\b`).MatchString(plan) {
		t.Errorf("the table is read:\n%s", plan)
	}
}
