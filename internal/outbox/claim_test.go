package outbox

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"flexworker/internal/outbox/gate"
	"flexworker/internal/outbox/request"
	"flexworker/internal/testing/pgtest"
)

// TestClaimConcurrent: 8 claimers of 3 workers never get more than they asked
// for, and nothing twice; also under plans that locked far more than the limit
// before the CTE was materialized.
func TestClaimConcurrent(t *testing.T) {
	t.Parallel()
	for _, plan := range []string{"", "enable_hashjoin=off enable_mergejoin=off", "enable_indexscan=off enable_bitmapscan=off"} {
		t.Run(cmp.Or(plan, "as it comes"), func(t *testing.T) {
			t.Parallel()
			const requests, permits = 400, 7
			s := newStore(t)
			mustAdd(t, s, "c", requests, func(e *request.Event) { e.Priority = int(e.Sequence % 10) })
			pool := planned(t, s.pool, plan)
			var mu sync.Mutex
			seen := map[int64]string{}
			var all sync.WaitGroup
			for n := range 8 {
				w := NewStore(pool, fmt.Sprintf("w%d", n%3), testLimit, "interaction_request")
				all.Go(func() {
					for idle := 0; idle < 3; {
						c, err := w.claim(t.Context(), permits)
						if err != nil {
							t.Error(err)
							return
						}
						if len(c.leases) > permits {
							t.Errorf("%d leases for %d permits", len(c.leases), permits)
						}
						if len(c.leases) == 0 {
							idle++
						}
						mu.Lock()
						for _, l := range c.leases {
							if other, twice := seen[l.ID]; twice {
								t.Errorf("%s is leased to %s and %s", l.RequestID, other, w.worker)
							}
							seen[l.ID] = w.worker
						}
						mu.Unlock()
					}
				})
			}
			all.Wait()
			// What a statement locked beyond its limit would be sending, too.
			if n := pgtest.One[int](t, pool, `SELECT count(*) FROM outbox WHERE state = 'sending'`); n != len(seen) || n != requests {
				t.Errorf("%d are sending, %d are leased, want %d", n, len(seen), requests)
			}
		})
	}
}

// planned gives other connections to the same schema, with settings of the planner.
func planned(t *testing.T, pool *pgxpool.Pool, settings string) *pgxpool.Pool {
	t.Helper()
	config := pool.Config()
	for _, s := range strings.Fields(settings) {
		name, v, _ := strings.Cut(s, "=")
		config.ConnConfig.RuntimeParams[name] = v
	}
	other, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(other.Close)
	return other
}

// TestClaimOrder: the higher priority first, then what is due longer; nothing
// before its time or after its deadline.
func TestClaimOrder(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	now := pgtest.One[time.Time](t, s.pool, `SELECT clock_timestamp()`)
	add := func(id string, change func(*request.Event)) {
		t.Helper()
		if _, err := s.Add(t.Context(), event(id, rand.Uint64N(1<<40), change)); err != nil {
			t.Fatal(err)
		}
	}
	add("low, due longest", func(e *request.Event) { e.NotBefore = now.Add(-time.Hour) })
	add("high", func(e *request.Event) { e.Priority = 9 })
	add("low, due later", func(e *request.Event) { e.NotBefore = now.Add(-time.Minute); e.ExpiresAt = now.Add(time.Hour) })
	add("middle", func(e *request.Event) { e.Priority = 5 })
	add("not yet due", func(e *request.Event) { e.Priority = 9; e.NotBefore = now.Add(time.Hour) })
	add("too late", func(e *request.Event) {
		e.Priority = 9
		e.NotBefore = now.Add(-time.Hour)
		e.ExpiresAt = now.Add(-time.Millisecond)
	})
	for _, want := range []string{"high", "middle", "low, due longest", "low, due later"} {
		if l := mustClaim(t, s, 1)[0]; l.RequestID != want {
			t.Errorf("claimed %q, want %q", l.RequestID, want)
		}
	}
	mustClaim(t, s, 0)
}

// TestClaimLease: what a lease says is what the row says, and by its own clock it
// never ends later than stored.
func TestClaimLease(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	e := event("a", 1, func(e *request.Event) { e.LookupKey = strings.Repeat("ab", 16); e.Traceparent = "00-1-2-3" })
	if _, err := s.Add(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	for attempt := 1; attempt <= 3; attempt++ {
		l := mustClaim(t, s, 1)[0]
		r := s.row(t, "a")
		if l.ID != r.ID || l.Attempt != attempt || l.Uncounted != attempt-1 || l.LookupKey != e.LookupKey || l.Traceparent != e.Traceparent ||
			l.Source != "crm" || string(l.Request) != string(e.Request) {
			t.Errorf("attempt %d: %+v", attempt, l)
		}
		if r.State != request.Sending || r.Attempt != attempt || !strings.HasPrefix(pgtest.Deref(r.LeasedBy), "w1/") || r.DueIn != nil {
			t.Errorf("attempt %d: %+v", attempt, r)
		}
		stored := pgtest.One[time.Duration](t, s.pool, `SELECT leased_until - clock_timestamp() FROM outbox`)
		if left := time.Until(l.Until); left > stored+time.Millisecond || stored > testLimit+request.LeaseMargin {
			t.Errorf("attempt %d: %v left by our clock, %v by Postgres's", attempt, left, stored)
		}
		if err := s.release(t.Context(), l); err != nil {
			t.Fatal(err)
		}
		pgtest.Exec(t, s.pool, `UPDATE outbox SET due_at = clock_timestamp() - interval '1 s'`)
	}
	pgtest.CheckOutbox(t, s.pool)
}

// TestClaimRest: how long a worker that got nothing sleeps.
func TestClaimRest(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	rest := func(what string, least, most time.Duration) {
		t.Helper()
		c, err := s.claim(t.Context(), 5)
		if err != nil || c.gate != gate.Open || c.rest < least || c.rest > most {
			t.Errorf("%s: rests %v, want %v to %v (gate %s, %v)", what, c.rest, least, most, c.gate, err)
		}
	}
	rest("empty", longestRest, longestRest)
	mustAdd(t, s, "r", 1)
	due := func(in string) {
		pgtest.Exec(t, s.pool, `UPDATE outbox SET due_at = clock_timestamp() + $1::text::interval`, in)
	}
	due("1 hour")
	rest("due in an hour", longestRest, longestRest)
	due("50 s") // less than the longest rest, and not over before the claim
	rest("due in 50 s", busyPoll, 50*time.Second)
	pgtest.Exec(t, s.pool, `UPDATE outbox SET due_at = clock_timestamp(), expires_at = clock_timestamp() - interval '1 s'`)
	rest("only what expired", longestRest, longestRest)
	pgtest.Exec(t, s.pool, `UPDATE outbox SET expires_at = NULL`)
	held, err := s.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := held.Exec(t.Context(), `SELECT FROM outbox FOR UPDATE`); err != nil {
		t.Fatal(err)
	}
	rest("due, in another's hands", busyPoll, busyPoll)
	if err := held.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	mustClaim(t, s, 1)
}

// A spy notes the statements that are run.
type spy struct {
	mu   sync.Mutex
	runs []pgx.TraceQueryStartData
}

func (s *spy) TraceQueryStart(ctx context.Context, _ *pgx.Conn, d pgx.TraceQueryStartData) context.Context {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.runs = append(s.runs, d)
	return ctx
}

func (s *spy) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// find returns the one statement that was run and contains all words.
func (s *spy) find(t *testing.T, words ...string) pgx.TraceQueryStartData {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, run := range s.runs {
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(run.SQL, w) }) {
			return run
		}
	}
	t.Fatalf("no statement with %q among %d", words, len(s.runs))
	return pgx.TraceQueryStartData{}
}

// TestClaimPlan: on an empty table and on one full of settled and not yet due
// rows the claim and the wait for the next due row read the claim's partial
// indexes alone.
func TestClaimPlan(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	config := s.pool.Config()
	watch := &spy{}
	config.ConnConfig.Tracer = watch
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	if _, err := NewStore(pool, "w2", testLimit, "interaction_request").claim(t.Context(), 10); err != nil {
		t.Fatal(err)
	}
	lock, next := watch.find(t, "FOR UPDATE SKIP LOCKED", "'sending'"), watch.find(t, "min(o.due_at)")
	check := func(when string) {
		t.Helper()
		for _, q := range []pgx.TraceQueryStartData{lock, next} {
			rows, err := s.pool.Query(t.Context(), "EXPLAIN (COSTS OFF) "+q.SQL, q.Args...)
			if err != nil {
				t.Fatal(err)
			}
			lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
			if err != nil {
				t.Fatal(err)
			}
			plan := strings.Join(lines, "\n")
			if seqScan.MatchString(plan) || !claimIndex.MatchString(plan) || strings.Contains(plan, "Sort") {
				t.Errorf("%s:\n%s", when, plan)
			}
		}
	}
	pgtest.Exec(t, s.pool, `
		INSERT INTO outbox (request_id, source, state, priority, request, due_at, error_kind, settled_at, published_at, stream_sequence, stream_time)
		SELECT 'x-' || n, 'crm', CASE WHEN n > 100000 THEN 'pending' ELSE 'rejected' END, n % 10, '{}',
		       CASE WHEN n > 100000 THEN now() + interval '1 hour' END, CASE WHEN n <= 100000 THEN 'http_400' END,
		       CASE WHEN n <= 100000 THEN now() END, CASE WHEN n <= 100000 THEN now() END, n, now()
		  FROM generate_series(1, 120000) n`)
	check("full, never analyzed")
	pgtest.Exec(t, s.pool, `ANALYZE outbox`)
	check("full")
	mustAdd(t, s, "due", 30)
	check("full, 30 due")
	// Not one of the rows that are not due is read.
	if fetched := pagesRead(t, s, lock); fetched > 200 {
		t.Errorf("a claim of 10 read %d pages", fetched)
	}
	pgtest.Exec(t, s.pool, `TRUNCATE outbox`)
	pgtest.Exec(t, s.pool, `ANALYZE outbox`)
	pgtest.Exec(t, s.pool, `DELETE FROM outbox`)
	// An empty table is a single page: which way it is read does not matter, so
	// only that it works is checked.
	if c, err := s.claim(t.Context(), 10); err != nil || len(c.leases) != 0 {
		t.Errorf("empty: %v, %v", c, err)
	}
}

// claimIndex is one of the partial indexes made for the claim.
var claimIndex = regexp.MustCompile(`Index (Only )?Scan using outbox_(claim|fresh|again) `)

// pagesRead is how many buffers the claim touched.
func pagesRead(t *testing.T, s *Store, lock pgx.TraceQueryStartData) int {
	t.Helper()
	var plan []struct {
		Plan struct {
			Hit  int `json:"Shared Hit Blocks"`
			Read int `json:"Shared Read Blocks"`
		}
	}
	if err := s.pool.QueryRow(t.Context(), "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) "+lock.SQL, lock.Args...).Scan(&plan); err != nil {
		t.Fatal(err)
	}
	return plan[0].Plan.Hit + plan[0].Plan.Read
}

// seqScan reads the table itself; the gate's one row may be read like that.
var seqScan = regexp.MustCompile(`Seq Scan on outbox( |$)`)

// cutShort ends the context of each statement that contains its text.
type cutShort string

func (c cutShort) TraceQueryStart(ctx context.Context, _ *pgx.Conn, q pgx.TraceQueryStartData) context.Context {
	if !strings.Contains(q.SQL, string(c)) {
		return ctx
	}
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	return ctx
}

func (cutShort) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// TestClaimWithoutNext: leases that are had are delivered, also when the question
// how long to rest after them cannot be asked.
func TestClaimWithoutNext(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	mustAdd(t, s, "l", 1)
	config := s.pool.Config()
	config.ConnConfig.Tracer = cutShort("min(o.due_at)")
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	c, err := NewStore(pool, "w2", testLimit, "interaction_request").claim(t.Context(), 8)
	if err != nil || len(c.leases) != 1 || c.rest != idlePoll {
		t.Errorf("%d leases, rest %v, %v", len(c.leases), c.rest, err)
	}
}

// TestFarTimes: a moment that no time.Duration reaches is far off, not past: what is to
// be sent until the year 9999 is sent, and what is to be sent then lets the claim rest.
func TestFarTimes(t *testing.T) {
	t.Parallel()
	for _, year := range []int{2300, 2400, 9999} {
		far := time.Date(year, 12, 31, 23, 59, 59, 0, time.UTC)
		s := newStore(t)
		mustAdd(t, s, "until", 1, func(e *request.Event) { e.ExpiresAt = far })
		l := mustClaim(t, s, 1)[0]
		if now := time.Now(); !l.Covers(testLimit, now) {
			t.Errorf("%d: the deadline is %v", year, l.Deadline)
		}
		mustAdd(t, s, "from", 1, func(e *request.Event) { e.NotBefore = far })
		if c, err := s.claim(t.Context(), 1); err != nil || len(c.leases) != 0 || c.rest != longestRest {
			t.Errorf("%d: %d leases, rest %v, %v", year, len(c.leases), c.rest, err)
		}
	}
}

// TestClaimDrained: a claim in halves knows that nothing is left when new requests
// were fewer than their share, whoever has the odd permit.
func TestClaimDrained(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	for _, tt := range []struct{ odd, permits, due int }{{1, 1, 0}, {1, 3, 1}, {0, 3, 0}, {1, 4, 1}} {
		if tt.due > 0 {
			mustAdd(t, s, fmt.Sprint(tt.odd, tt.permits), tt.due)
		}
		s.share.again.Store(true)
		s.share.asked.Store(uint32(1 - tt.odd)) // the next turn's is odd
		c, err := s.claim(t.Context(), tt.permits)
		if err != nil || len(c.leases) != tt.due || !c.drained {
			t.Errorf("%+v: %+v, %v", tt, c, err)
		}
	}
}

// TestChooseReadsLittle: however long one tenant's backlog is, a choice looks at the oldest and
// the latest of a priority alone, and finds who stands there.
func TestChooseReadsLittle(t *testing.T) {
	t.Parallel()
	const each = 3000
	s := newStore(t)
	mustAdd(t, s, "bad", each, from("bad"))
	mustAdd(t, s, "good", 1, from("good"))
	pgtest.Exec(t, s.pool, `UPDATE outbox SET due_at = now() - interval '1 hour' + id * interval '1 ms' WHERE source = 'bad'`)
	pgtest.Exec(t, s.pool, `ANALYZE outbox`)
	at := func(place, attempt int) {
		pgtest.Exec(t, s.pool, `UPDATE outbox SET state = 'pending', attempt = $2, leased_by = NULL, leased_until = NULL,
			due_at = (SELECT due_at + interval '0.5 ms' FROM outbox WHERE source = 'bad' ORDER BY due_at OFFSET $1 LIMIT 1) WHERE source = 'good'`, place, attempt)
	}
	config := s.pool.Config()
	watch := &spy{}
	config.ConnConfig.Tracer = watch
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	w2 := NewStore(pool, "w2", testLimit, "interaction_request")
	for attempt, kind := range []string{"new", "tried again"} {
		if attempt > 0 {
			pgtest.Exec(t, s.pool, `UPDATE outbox SET attempt = 1`)
			pgtest.Exec(t, s.pool, `ANALYZE outbox`)
		}
		for place, found := range map[int]int{10: 1, chooseMost - 2: 1, each / 2: 0, each - chooseMost + 5: 1, each - 1: 1} {
			at(place, attempt)
			w2.share.again.Store(false)
			w2.share.asked.Store(0) // not in halves
			c, err := w2.claim(t.Context(), 1, "bad WS00000000000000000000000000000002")
			if err != nil || len(c.leases) != found || found == 0 && !c.drained {
				t.Errorf("%s, behind %d: %+v, %v", kind, place, c, err)
			}
			if found == 1 && len(c.leases) == 1 && c.leases[0].Source != "good" {
				t.Errorf("%s, behind %d: leased of %s", kind, place, c.leases[0].Source)
			}
		}
		at(each/2, attempt)
		if n := rowsRead(t, s, watch.find(t, "looked_fresh")); n == 0 || n > 2*chooseMost+10 {
			t.Errorf("%s: it read %d rows", kind, n)
		}
	}
}

// rowsRead is how many rows of the table the statement read, by its plan.
func rowsRead(t *testing.T, s *Store, q pgx.TraceQueryStartData) int {
	t.Helper()
	type node struct {
		Relation string  `json:"Relation Name"`
		Rows     float64 `json:"Actual Rows"`
		Filtered float64 `json:"Rows Removed by Filter"`
		Loops    float64 `json:"Actual Loops"`
		Type     string  `json:"Node Type"`
		Plans    []node  `json:"Plans"`
	}
	var plan []struct{ Plan node }
	if err := s.pool.QueryRow(t.Context(), "EXPLAIN (ANALYZE, FORMAT JSON) "+q.SQL, q.Args...).Scan(&plan); err != nil {
		t.Fatal(err)
	}
	var count func(node) float64
	count = func(n node) (rows float64) {
		if n.Relation == "outbox" && strings.Contains(n.Type, "Scan") {
			rows = (n.Rows + n.Filtered) * n.Loops
		}
		for _, p := range n.Plans {
			rows += count(p)
		}
		return rows
	}
	return int(count(plan[0].Plan) + 0.5)
}

// TestClaimTakesLateCommit: a row with a lower id that is committed later is not
// passed over (ThreeDotsLabs/watermill#311).
func TestClaimTakesLateCommit(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	tx, err := s.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.WithoutCancel(t.Context()))
	e := event("slow", 1)
	var low int64
	if err := tx.QueryRow(t.Context(), `INSERT INTO outbox (request_id, source, state, priority, request, due_at, stream_sequence, stream_time)
		VALUES ('slow', 'crm', 'pending', 0, $1::text::json, now(), 1, now()) RETURNING id`, string(e.Request)).Scan(&low); err != nil {
		t.Fatal(err)
	}
	mustAdd(t, s, "fast", 1)
	if l := mustClaim(t, s, 1)[0]; l.ID <= low {
		t.Fatalf("the order is not as the test wants it: %d, %d", l.ID, low)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if l := mustClaim(t, s, 1)[0]; l.ID != low {
		t.Errorf("claimed %d, want %d", l.ID, low)
	}
}

// TestAttemptNumbersAndTimes: attempts are numbered from 1 at the claim, no
// number is ever used twice, and the times are Postgres's (hookdeck/outpost#740).
func TestAttemptNumbersAndTimes(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	id := mustAdd(t, s, "a", 1)[0]
	for want := 1; want <= 3; want++ {
		l := mustClaim(t, s, 1)[0]
		if l.Attempt != want {
			t.Fatalf("attempt %d, want %d", l.Attempt, want)
		}
		if err := s.release(t.Context(), l); err != nil {
			t.Fatal(err)
		}
	}
	if got := s.histories(t, id); got != "1 released, 2 released, 3 released" {
		t.Error(got)
	}
	if n := pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox_attempts WHERE started_at > clock_timestamp() OR started_at < clock_timestamp() - interval '1 minute'`); n != 0 {
		t.Errorf("%d attempts at other times than Postgres's", n)
	}
}
