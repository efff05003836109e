package operator_test

import (
	"regexp"
	"strings"
	"testing"

	"flexworker/internal/testing/pgtest"
)

// TestFunnel: a request counts in the hour in which it was received, up to where it came, once, and with the reason why
// it came no further.
func TestFunnel(t *testing.T) {
	t.Parallel()
	s := newRig(t)
	everyState(t, s)
	const funnel = `SELECT coalesce(string_agg(concat_ws(' ', source, coalesce(reason, '-'), received, sent, accepted, confirmed), '; ' ORDER BY reason), '') FROM outbox_funnel`
	const want = "crm attempts_used_up 1 1 0 0; crm cancelled 1 0 0 0; crm expired 1 0 0 0; crm http_400 1 1 0 0; crm invalid 1 0 0 0; crm pending 1 0 0 0; crm sending 1 1 0 0; crm timeout 1 1 0 0; crm - 1 1 1 "
	check := func(when, want string) {
		t.Helper()
		if got := pgtest.One[string](t, s.pool, funnel); got != want {
			t.Errorf("%s:\n%s\nwant\n%s", when, got, want)
		}
	}
	check("without CONFIRM", want+"0")
	pgtest.Exec(t, s.pool, `INSERT INTO outbox_setups (id, created_at, due_at) SELECT id, settled_at, settled_at FROM outbox WHERE state = 'created'`)
	check("looked at", want+"0")
	pgtest.Exec(t, s.pool, `UPDATE outbox_setups SET due_at = NULL, decided_at = now(), word = 'unconfirmed', why = 'x'`)
	check("unconfirmed", want+"0")
	pgtest.Exec(t, s.pool, `UPDATE outbox_setups SET word = 'confirmed'`)
	check("confirmed", want+"1")
	pgtest.Exec(t, s.pool, `UPDATE outbox SET published_at = NULL`)
	check("unpublished", want+"1")
	hours := pgtest.One[string](t, s.pool, `SELECT string_agg(DISTINCT (hour = date_trunc('hour', hour, 'UTC') AND hour > now() - interval '2 hours')::text, ' ') FROM outbox_funnel`)
	if hours != "true" {
		t.Errorf("whole hours of the present: %s", hours)
	}
	// What was received in the first hour of the window is in it, and what was received before is not, whenever it settled. In one
	// transaction now() is one moment: no hour ends between the two statements.
	tx, err := s.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(t.Context()) }()
	pgtest.Exec(t, tx, `UPDATE outbox SET received_at = date_trunc('hour', now(), 'UTC') - interval '23 hours' - CASE WHEN request_id IN ('created', 'pending') THEN interval '0' ELSE interval '1 second' END`)
	if got, want := pgtest.One[string](t, tx, funnel), "crm pending 1 0 0 0; crm - 1 1 1 1"; got != want {
		t.Errorf("the window:\n%s\nwant\n%s", got, want)
	}
}

// TestFunnelPlan: of a month of settled requests, those of the last day are found by their indexes, and so are their set-ups.
func TestFunnelPlan(t *testing.T) {
	t.Parallel()
	s := newRig(t)
	pgtest.Exec(t, s.pool, `
		INSERT INTO outbox (request_id, source, state, request, attempt, stream_sequence, stream_time, received_at, settled_at, published_at, interaction_sid, resolved_by)
		SELECT 'r-' || n, 'crm', 'created', '{}', 1, n, at, at, at, CASE WHEN n % 50 > 0 THEN at END, 'KD' || lpad(to_hex(n), 32, '0'), 'response'
		  FROM (SELECT n, now() - n * interval '10 minutes' AS at FROM generate_series(1, 5000) AS n) AS made`)
	pgtest.Exec(t, s.pool, `
		INSERT INTO outbox_setups (id, created_at, checks, word, decided_at, published_at)
		SELECT id, settled_at, 1, 'confirmed', settled_at, settled_at FROM outbox`)
	pgtest.Exec(t, s.pool, `VACUUM ANALYZE outbox`)
	pgtest.Exec(t, s.pool, `VACUUM ANALYZE outbox_setups`)
	plan := pgtest.Plan(t, s.pool, `TABLE outbox_funnel`)
	for _, index := range []string{"outbox_prune", "outbox_publish"} {
		if !regexp.MustCompile(`\b` + index + `\b.*\n +Index Cond: \(settled_at >= `).MatchString(plan) {
			t.Errorf("%s is not searched by settled_at:\n%s", index, plan)
		}
	}
	if strings.Contains(plan, "Seq Scan on outbox_setups") || !strings.Contains(plan, "Index Scan using outbox_setups_pkey") {
		t.Errorf("set-ups are not found one by one:\n%s", plan)
	}
	if n := pgtest.One[int](t, s.pool, `SELECT sum(received) FROM outbox_funnel`); n < 138 || n > 144 { // six an hour, of 23 to 24 hours
		t.Errorf("%d were received within the day", n)
	}
}
