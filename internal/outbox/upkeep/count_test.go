package upkeep

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"flexworker/internal/database"
	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/pgtest"
)

// A countRig is a table in which requests have settled, and one replica that counts them.
type countRig struct {
	*Upkeep
	t     *testing.T
	fence Fence
	began time.Time // the full minute that was nearest when the test began: the test has half a minute before another one is nearer
}

// newCountRig has counted up to twenty minutes ago.
func newCountRig(t *testing.T) *countRig {
	t.Helper()
	pool := migrated.NewPool(t, database.ForLoops)
	r := &countRig{Upkeep: New(pool, time.Minute), t: t, began: pgtest.One[time.Time](t, pool, `SELECT date_trunc('minute', now() + interval '30 seconds')`)}
	r.countedUntil(20)
	return r
}

// countedUntil makes outbox_counted say that all was counted up to so many minutes before the test's.
func (r *countRig) countedUntil(minutesAgo int) {
	r.t.Helper()
	pgtest.Exec(r.t, r.pool, `UPDATE outbox_counted SET until = $1::timestamptz - make_interval(mins => $2)`, r.began, minutesAgo)
}

type executor interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// settle adds n requests that settled so many minutes before the test's, half of them published.
func (r *countRig) settle(db executor, source, state string, minutesAgo, n int) {
	r.t.Helper()
	pgtest.Exec(r.t, db, `
		INSERT INTO outbox (request_id, source, state, request, attempt, interaction_sid, resolved_by, error_kind, stream_sequence, stream_time, settled_at, published_at)
		SELECT gen_random_uuid(), $1, $2, '{}', 1, CASE WHEN $2 = 'created' THEN 'KD0000000000000000000000000000000a' END, CASE WHEN $2 = 'created' THEN 'response' END,
		       CASE WHEN $2 <> 'created' THEN 'invalid' END, n, now(), $5::timestamptz - make_interval(mins => $3) + n * interval '100 ms', CASE WHEN n % 2 = 0 THEN now() END
		  FROM generate_series(0, $4 - 1) AS n`, source, state, minutesAgo, n, r.began)
}

// count sets a fence and counts all that was over then. Transactions of other tests, in other databases, may end in
// the middle of a look, which is then made again.
func (r *countRig) count() {
	r.t.Helper()
	r.look()
	set := r.fence
	expect.Eventually(r.t, func() error {
		for r.look() { // there is more
		}
		if r.fence == set {
			return errors.New("the fence is not passed")
		}
		return nil
	})
}

func (r *countRig) look() (more bool) {
	r.t.Helper()
	more, err := r.CountOnce(r.t.Context(), &r.fence)
	if err != nil {
		r.t.Fatal(err)
	}
	return more
}

// counted is what outbox_minutes has: how many minutes ago, source, outcome and number.
func (r *countRig) counted() string {
	r.t.Helper()
	return pgtest.One[string](r.t, r.pool, `
		SELECT coalesce(string_agg(concat_ws(' ', extract(epoch FROM $1::timestamptz - minute)::integer / 60, source, outcome, n), ', ' ORDER BY minute, source, outcome), '')
		  FROM outbox_minutes`, r.began)
}

func (r *countRig) is(want string) {
	r.t.Helper()
	if got := r.counted(); got != want {
		r.t.Errorf("counted is %q, want %q", got, want)
	}
}

// untilAgo is up to how many minutes before the test's all was counted.
func (r *countRig) untilAgo() int {
	return pgtest.One[int](r.t, r.pool, `SELECT extract(epoch FROM $1::timestamptz - until)::integer / 60 FROM outbox_counted`, r.began)
}

// TestCount: each request is counted once, in the minute at which it settled, by its source and outcome, whichever
// replica counts, and however many do.
func TestCount(t *testing.T) {
	t.Parallel()
	r := newCountRig(t)
	r.settle(r.pool, "crm", "created", 15, 5)
	r.settle(r.pool, "crm", "created", 5, 3)
	r.settle(r.pool, "crm", "rejected", 5, 2)
	r.settle(r.pool, "shop", "expired", 5, 1)
	r.settle(r.pool, "crm", "created", 0, 7)  // the minute goes on
	r.settle(r.pool, "crm", "created", 30, 9) // was there before anybody counted
	r.count()
	const want = "15 crm created 5, 5 crm created 3, 5 crm rejected 2, 5 shop expired 1"
	r.is(want)
	if ago := r.untilAgo(); ago > 1 {
		t.Errorf("counted up to %d minutes ago", ago)
	}
	other := &countRig{Upkeep: New(r.pool, time.Minute), t: t, began: r.began}
	for range 2 {
		other.count()
		r.count()
	}
	r.is(want)
}

// TestCountBesideAnother: two replicas that count at the same moment count once.
func TestCountBesideAnother(t *testing.T) {
	t.Parallel()
	r := newCountRig(t)
	r.settle(r.pool, "crm", "created", 5, 4)
	tx, err := r.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, tx, `SELECT FROM outbox_counted FOR UPDATE`) // as a replica does that counts
	for range 5 {
		r.look()
	}
	r.is("")
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.count()
	r.is("5 crm created 4")
}

// TestCountWaits: a minute is counted when nothing can settle in it any more: while a transaction that has settled a
// request in it is open, however long, it is not. A transaction that writes elsewhere keeps nobody waiting.
func TestCountWaits(t *testing.T) {
	t.Parallel()
	r := newCountRig(t)
	r.settle(r.pool, "crm", "created", 5, 1)
	elsewhere, err := r.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer elsewhere.Rollback(t.Context())
	pgtest.Exec(t, elsewhere, `INSERT INTO outbox_acts (who, why, act, was) VALUES ('ann', 'a test', 'hold', 'open')`)
	open, err := r.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r.settle(open, "crm", "created", 4, 2)
	for range 5 {
		r.look()
	}
	r.is("")
	if ago := r.untilAgo(); ago != 20 {
		t.Errorf("counted up to %d minutes ago", ago)
	}
	// One that begins later does not move the fence.
	later, err := r.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer later.Rollback(t.Context())
	r.settle(later, "crm", "created", 0, 1)
	if err := open.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.count()
	r.is("5 crm created 1, 4 crm created 2")
}

// TestCountAgain: a request that is retried and settles once more is counted once more.
func TestCountAgain(t *testing.T) {
	t.Parallel()
	r := newCountRig(t)
	r.settle(r.pool, "crm", "rejected", 12, 2)
	r.count()
	r.countedUntil(10)
	pgtest.Exec(t, r.pool, `UPDATE outbox SET settled_at = settled_at + interval '9 minutes', revision = 2`)
	r.count()
	r.is("12 crm rejected 2, 3 crm rejected 2")
}

// TestCountClockBack: after the clock has gone back, the minutes that come again are counted anew, and none twice.
func TestCountClockBack(t *testing.T) {
	t.Parallel()
	r := newCountRig(t)
	r.settle(r.pool, "crm", "created", 5, 4)
	r.count()
	// An hour ahead, ten minutes were counted; then the clock went back. What those minutes had is not there again.
	pgtest.Exec(t, r.pool, `INSERT INTO outbox_minutes SELECT $1::timestamptz + m * interval '1 minute', 'crm', 'created', 1 FROM generate_series(50, 60) AS m`, r.began)
	r.countedUntil(-61)
	r.count()
	r.is("5 crm created 4")
	if ago := r.untilAgo(); ago < 0 || ago > 2 {
		t.Errorf("counted up to %d minutes ago", ago)
	}
	// A small step back, which only this replica's fence shows.
	*r.fence.at = r.fence.at.Add(time.Minute)
	r.settle(r.pool, "crm", "created", 2, 3)
	r.count()
	r.is("5 crm created 4, 2 crm created 3")
	// As does a database that was restored: its transactions have lower numbers.
	xid := "999999999999"
	r.fence.xid = &xid
	r.settle(r.pool, "shop", "created", 2, 1)
	r.count()
	r.is("5 crm created 4, 2 crm created 3, 2 shop created 1")
}

// TestCountSources: a minute has rows for so many sources and no more, whatever senders choose, and of any length.
func TestCountSources(t *testing.T) {
	t.Parallel()
	r := newCountRig(t)
	long := strings.Repeat("ä", 3000)
	r.settle(r.pool, long, "created", 5, 100)
	pgtest.Exec(t, r.pool, `
		INSERT INTO outbox (request_id, source, state, request, error_kind, stream_sequence, stream_time, settled_at)
		SELECT n, 'source-' || lpad((n / 2)::text, 3, '0'), CASE WHEN n % 2 = 0 THEN 'rejected' ELSE 'expired' END, '{}', 'invalid', n, now(), $1::timestamptz - interval '5 minutes'
		  FROM generate_series(0, 199) AS n`, r.began)
	r.count()
	if n := pgtest.One[int](t, r.pool, `SELECT count(DISTINCT source) FROM outbox_minutes`); n != sourcesMost+1 {
		t.Errorf("there are %d sources", n)
	}
	if got := pgtest.One[string](t, r.pool, `SELECT string_agg(outcome || ' ' || n, ', ' ORDER BY outcome) FROM outbox_minutes WHERE source = ''`); got != "expired 51, rejected 51" {
		t.Errorf("the other sources have %s", got)
	}
	if got := pgtest.One[int](t, r.pool, `SELECT n FROM outbox_minutes WHERE source = left($1, 200)`, long); got != 100 {
		t.Errorf("the long one has %d", got)
	}
	if got := pgtest.One[int](t, r.pool, `SELECT sum(n)::integer FROM outbox_minutes`); got != 300 {
		t.Errorf("%d in all", got)
	}
}

// TestCountLate: what nobody counted for days is counted by and by, and what is older than what is kept is not; nor is it kept.
func TestCountLate(t *testing.T) {
	t.Parallel()
	r := newCountRig(t)
	day := 24 * 60
	r.countedUntil(9 * day)
	pgtest.Exec(t, r.pool, `INSERT INTO outbox_minutes SELECT $1::timestamptz - interval '10 days', 'crm', 'created', 1`, r.began)
	r.settle(r.pool, "crm", "created", 8*day, 1)
	r.settle(r.pool, "crm", "created", 2*day, 2)
	r.settle(r.pool, "crm", "created", day, 3)
	r.count()
	r.is("2880 crm created 2, 1440 crm created 3")
}

// TestCountLocked: while somebody holds the table, counting fails and says so; nothing is lost.
func TestCountLocked(t *testing.T) {
	t.Parallel()
	r := newCountRig(t)
	r.settle(r.pool, "crm", "created", 5, 4)
	if _, err := r.CountOnce(t.Context(), &r.fence); err != nil {
		t.Fatal(err)
	}
	config := r.pool.Config()
	config.ConnConfig.RuntimeParams["lock_timeout"] = "50ms"
	impatient, err := pgx.ConnectConfig(t.Context(), config.ConnConfig)
	if err != nil {
		t.Fatal(err)
	}
	defer impatient.Close(t.Context()) //nolint:errcheck // the test is over
	tx, err := r.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, tx, `LOCK TABLE outbox IN ACCESS EXCLUSIVE MODE`)
	if _, err := impatient.Exec(t.Context(), countSQL, r.fence.xid, r.fence.at, CountMost, minutesKept, writing, sourcesMost); !database.WaitedForLock(err) {
		t.Errorf("beside the lock: %v", err)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.count()
	r.is("5 crm created 4")
}
