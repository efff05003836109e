package operator

import (
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"flexworker/internal/database"
	"flexworker/internal/outbox/request"
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

// manyRows fills the tables as a month does, on a small scale: mostly created, and what is not finished among the oldest.
// There the planner has to choose between an index that has the order and one that has few rows.
const manyRows = `
	INSERT INTO outbox (request_id, source, state, request, attempt, interaction_sid, resolved_by, error_kind, http_status, twilio_code, for_person_since, attempt_began_at,
	       uncertain_since, leased_by, leased_until, due_at, stream_sequence, stream_time, received_at, settled_at, published_at)
	SELECT n, 'crm', state, '{}', 1, CASE WHEN state = 'created' THEN 'KD' || md5(n::text) END, CASE WHEN state = 'created' THEN 'response' END,
	       CASE WHEN state <> 'created' THEN 'http_503' END, 200, NULL, CASE WHEN state = 'uncertain' AND n % 2 = 0 THEN at END, at, at,
	       CASE WHEN state = 'sending' THEN 'w' END, CASE WHEN state = 'sending' THEN now() END, CASE WHEN state IN ('pending', 'uncertain') THEN now() END,
	       n, at, at, CASE WHEN NOT unfinished THEN at END, CASE WHEN NOT unfinished AND n < 29900 THEN at END
	  FROM generate_series(1, 30000) AS n,
	       LATERAL (SELECT now() - (30000 - n) * interval '10 seconds' AS at,
	                CASE WHEN n <= 300 THEN (ARRAY['pending', 'sending', 'uncertain'])[n % 3 + 1] WHEN n % 100 = 0 THEN (ARRAY['rejected', 'expired'])[n / 100 % 2 + 1] ELSE 'created' END AS state) AS s,
	       LATERAL (SELECT state IN ('pending', 'sending', 'uncertain') AS unfinished) AS u;
	UPDATE outbox SET attempt = 0 WHERE state = 'pending' AND id % 2 = 0;
	INSERT INTO outbox_acts (who, why, act, request_id, was) SELECT 'ann', 'a test', CASE WHEN n % 1000 = 0 THEN 'hold' ELSE 'cancel' END, n, '' FROM generate_series(1, 20000) AS n;
	INSERT INTO outbox_minutes SELECT date_trunc('minute', now()) - n * interval '1 minute', 'crm', 'created', 1 FROM generate_series(1, 10000) AS n;
	INSERT INTO outbox_malformed (kind, stream, stream_sequence, stream_time, subject, source, headers, raw, error) SELECT 'malformed', 's', n, now(), 's', 'crm', '{}', '', 'no' FROM generate_series(1, 5000) AS n;
	INSERT INTO outbox_setups (id, created_at, word, error_kind, why, due_at, decided_at, published_at)
	SELECT id, settled_at, word, CASE WHEN word = 'setup_failed' THEN 'no_customer' END, CASE WHEN word = 'setup_failed' THEN 'x' END,
	       CASE WHEN word IS NULL THEN settled_at END, CASE WHEN word IS NOT NULL THEN settled_at END, CASE WHEN word IS NOT NULL THEN settled_at END
	  FROM outbox, LATERAL (SELECT CASE WHEN id % 50 = 1 THEN 'setup_failed' WHEN id < 29900 THEN 'confirmed' END AS word) AS w WHERE state = 'created';
	ANALYZE outbox_acts, outbox_minutes, outbox_malformed, outbox_setups`

// TestReadPlans: every question is answered from the indexes that are meant for it, with the settings of the pool for people
// and with those of the loops.
func TestReadPlans(t *testing.T) {
	t.Parallel()
	reads := migrated.NewPool(t, database.ForReads)
	config, err := pgxpool.ParseConfig(reads.Config().ConnString())
	if err != nil {
		t.Fatal(err)
	}
	database.ForLoops(config)
	loops, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(loops.Close)
	pgtest.Exec(t, loops, manyRows)
	pgtest.Exec(t, loops, `VACUUM ANALYZE outbox`)

	type question struct {
		name string
		sql  string
		args []any
		uses string // the indexes, in the order of the alphabet
		// alone: no row of outbox is read. sorted: the index has the order. first: no index is read to its end.
		alone, sorted, first bool
	}
	all := []question{
		{name: "attention", sql: attentionSQL, args: []any{StatusMost}, uses: "outbox_lookup outbox_publish request_id_is_unique", first: true},
		{name: "waiting", sql: waitingSQL, args: []any{20}, uses: "outbox_lookup outbox_publish", first: true},
		{name: "failed", sql: failedSQL, args: []any{failedMost}, uses: "outbox_failed", alone: true, first: true},
		{name: "retried", sql: retriedSQL, args: []any{20}, uses: "outbox_again", first: true},
		{name: "acts", sql: actsSQL, args: []any{9000, ListMost}, uses: "outbox_acts_pkey", sorted: true},
		{name: "malformed", sql: malformedSQL, args: []any{4000, ListMost}, uses: "outbox_malformed_pkey", sorted: true},
		{name: "holds", sql: holdsSQL, args: []any{holdsMost}, uses: "outbox_acts_gate", sorted: true},
		{name: "outcomes", sql: outcomesSQL, args: []any{time.Now().Add(-time.Hour), time.Now()}, uses: "minute_is_counted_once"},
		{name: "named", sql: namedSQL, args: []any{"KD0000000000000000000000000000000a", ListMost}, uses: "outbox_sid request_id_is_unique"},
		{name: "all", sql: nextOfAll, args: []any{20000, 10000, 5000}, uses: "outbox_pkey", alone: true, sorted: true},
		{name: "received", sql: receivedSQL, args: []any{time.Now(), nil}, uses: "outbox_pkey", sorted: true},
	}
	for _, walk := range []question{
		{name: "pending", uses: "outbox_pending", alone: true, sorted: true},
		{name: "sending", uses: "outbox_sending", alone: true, sorted: true},
		{name: "uncertain", uses: "outbox_lookup", alone: true},
		{name: "for a person", uses: "outbox_lookup"},
		{name: "rejected", uses: "outbox_failed", alone: true, sorted: true},
		{name: "rejected of late", uses: "outbox_failed", alone: true, sorted: true},
		{name: "of late", uses: "outbox_prune outbox_publish", alone: true, sorted: true},
		{name: "named", uses: "request_id_is_unique"},
		{name: "set-up failed", uses: "outbox_pkey outbox_setups_failed", sorted: true},
		{name: "set-up waiting", uses: "outbox_pkey outbox_setups_due"},
	} {
		w := map[string]Filter{
			"pending": {State: request.Pending, Source: "crm"}, "sending": {State: request.Sending}, "uncertain": {State: request.Uncertain}, "for a person": {ForPerson: true},
			"rejected": {State: request.Rejected, TwilioCode: 20001}, "rejected of late": {State: request.Rejected, Since: 48 * time.Hour},
			"of late": {Since: 48 * time.Hour}, "named": {RequestIDs: []string{"1", "2"}}, "set-up failed": {Setup: SetupFailed}, "set-up waiting": {Setup: SetupWaiting},
		}[walk.name].walk()
		at := place{ID: 20000}
		if w.settled {
			at.SettledAt = new(time.Now().Add(-time.Minute))
		}
		for name, from := range map[string]place{"its first page": {}, "a later page": at} {
			q := walk
			q.name += ", " + name
			q.sql, q.args = w.candidates(from, 0, 101)
			all = append(all, q)
		}
		sql, args := w.matching(chunk{ids: []int64{1, 2, 3}}, 101)
		all = append(all, question{name: walk.name + ", its rows", sql: sql, args: args, uses: "outbox_pkey"})
	}
	for _, act := range []struct {
		change Change
		f      Filter
		uses   string
	}{
		{ToCancel(), Filter{State: request.Pending, Source: "crm"}, "outbox_pending"},
		{ToRetry(false), Filter{State: request.Rejected, ErrorKind: "http_400"}, "outbox_failed"},
		{ToLookUp(), Filter{State: request.Uncertain}, "outbox_lookup"},
		{ToCancel(), Filter{RequestIDs: []string{"1", "2"}}, "request_id_is_unique"},
	} {
		var args params
		sql := `SELECT id FROM outbox WHERE ` + act.f.where(&args, nil) + act.change.can + ` ORDER BY id`
		all = append(all, question{name: act.change.Name, sql: sql, args: args, uses: act.uses})
	}
	of := chunk{last: place{ID: 15000}, below: 20000}
	sql, args := Filter{State: request.Created, Source: "shop"}.walk().matching(of, 101)
	all = append(all, question{name: "created, its rows", sql: sql, args: args, uses: "outbox_pkey", sorted: true})
	s := search{walk: Filter{}.walk()}
	sql, args = s.attributes(of, "Ada")
	all = append(all, question{name: "attributes", sql: sql, args: args, uses: "outbox_pkey", sorted: true})

	sort := regexp.MustCompile(`(?m)-> +Sort$`)
	index := regexp.MustCompile(`(?:using|Bitmap Index Scan on) (\w+)`)
	for of, pool := range map[string]*pgxpool.Pool{"people": reads, "loops": loops} {
		for _, q := range all {
			plan := pgtest.Plan(t, pool, q.sql, q.args...)
			var uses []string
			for _, m := range index.FindAllStringSubmatch(plan, -1) {
				uses = append(uses, m[1])
			}
			slices.Sort(uses)
			if got := strings.Join(slices.Compact(uses), " "); got != q.uses {
				t.Errorf("%s: %s uses %s, want %s:\n%s", of, q.name, got, q.uses, plan)
			}
			if q.alone && (strings.Contains(plan, " Index Scan ") || strings.Contains(plan, "Bitmap")) {
				t.Errorf("%s: %s reads rows:\n%s", of, q.name, plan)
			}
			if q.sorted && sort.MatchString(plan) {
				t.Errorf("%s: %s sorts:\n%s", of, q.name, plan)
			}
			if q.first && strings.Contains(plan, "Bitmap") {
				t.Errorf("%s: %s reads the whole of an index:\n%s", of, q.name, plan)
			}
		}
	}
}
