package outbox

import (
	"context"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"flexworker/internal/database"
	"flexworker/internal/flex"
	"flexworker/internal/outbox/gate"
	"flexworker/internal/outbox/lookup"
	"flexworker/internal/outbox/operator"
	"flexworker/internal/outbox/request"
	"flexworker/internal/outbox/results"
	"flexworker/internal/testing/faultproxy"
	"flexworker/internal/testing/flextest"
)

// The bugs of others that must not become ours. The numbers are those of
// docs/faults.md, which also names the tests of those that are not here.

var person = operator.Act{Who: "ada", Why: "test"}

// TestPeers_01_RecordFails: Flex answered, recording it failed for good. There is
// never a second POST unasked (hookdeck/outpost#276).
func TestPeers_01_RecordFails(t *testing.T) {
	t.Parallel()
	srv := flextest.New(t)
	s := newStore(t)
	id := mustAdd(t, s, "a", 1)[0]
	// The schema itself refuses the record, so it is not tried again either.
	exec(t, s.pool, `ALTER TABLE outbox ADD CONSTRAINT nothing_is_created CHECK (state <> 'created')`)
	start(t, newDeliverer(t, s, srv))
	eventually(t, func() error { return srv.Wait(t.Context(), func(c flextest.Calls) bool { return c.Created == 1 }) })
	exec(t, s.pool, `UPDATE outbox SET leased_until = clock_timestamp() - interval '1 second' WHERE state = 'sending'`)
	if n, err := s.lapse(t.Context()); err != nil || n != 1 {
		t.Fatal(n, err)
	}
	mustClaim(t, s, 0)
	if r := s.row(t, id); r.State != request.Uncertain || srv.Calls().Received != 1 {
		t.Errorf("%s after %d calls", r.State, srv.Calls().Received)
	}
}

// TestPeers_02_RescuerOnOldSnapshot: a sweep that has seen the lease over finds
// that it was recorded meanwhile (riverqueue/river#1302).
func TestPeers_02_RescuerOnOldSnapshot(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	id := mustAdd(t, s, "a", 1)[0]
	l := mustClaim(t, s, 1)[0]
	exec(t, s.pool, `UPDATE outbox SET leased_until = clock_timestamp() - interval '1 second'`)
	// Another transaction has the row while the sweep looks at it, and records.
	tx, err := s.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.WithoutCancel(t.Context()))
	if _, err := tx.Exec(t.Context(), `UPDATE outbox SET state = 'created', leased_by = NULL, leased_until = NULL, interaction_sid = 'KD00000000000000000000000000000001', resolved_by = 'response', settled_at = now() WHERE id = $1`, l.ID); err != nil {
		t.Fatal(err)
	}
	if n, err := s.lapse(t.Context()); err != nil || n != 0 {
		t.Errorf("while it was recorded %d lapsed: %v", n, err)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n, err := s.lapse(t.Context()); err != nil || n != 0 || s.row(t, id).State != request.Created {
		t.Errorf("%d lapsed, and it is %s: %v", n, s.row(t, id).State, err)
	}
}

// TestPeers_03_LeaseShorterThanTheCall: what is left of a lease has to cover the
// longest call, or the call is not begun (hexpm/hexpm#1825).
func TestPeers_03_LeaseShorterThanTheCall(t *testing.T) {
	t.Parallel()
	srv := flextest.New(t)
	s := newStore(t)
	id := mustAdd(t, s, "a", 1)[0]
	d := newDeliverer(t, s, srv)
	d.slots = newSlots(1)
	l := mustClaim(t, s, 1)[0]
	l.until = time.Now().Add(testLimit + sendMargin - time.Millisecond)
	d.slots.take(1)
	d.deliver(t.Context(), l)
	if r := s.row(t, id); r.State != request.Pending || r.Spared != 1 || srv.Calls().Received != 0 {
		t.Errorf("%s, spared %d, %d calls", r.State, r.Spared, srv.Calls().Received)
	}
}

// TestPeers_04_EveryStatementEnds: a connection that swallows everything hangs no
// loop (riverqueue/river#1251, #1255).
func TestPeers_04_EveryStatementEnds(t *testing.T) {
	t.Parallel()
	direct := newStore(t)
	u := direct.pool.Config().ConnConfig
	proxy := faultproxy.New(t, net.JoinHostPort(u.Host, strconv.Itoa(int(u.Port))))
	host, port, err := net.SplitHostPort(proxy.Addr())
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	config := direct.pool.Config()
	config.ConnConfig.Host, config.ConnConfig.Port = host, uint16(n)
	config.ConnConfig.Fallbacks = nil
	config.MaxConns = 20
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	s := NewStore(pool, "w1", testLimit)
	if err := s.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	proxy.Blackhole()
	t.Cleanup(func() { proxy.Heal(); proxy.Cut() })
	var calls sync.WaitGroup
	for name, call := range map[string]func(context.Context) error{
		"add":       func(ctx context.Context) error { _, err := s.Add(ctx, event("x", 1)); return err },
		"malformed": func(ctx context.Context) error { return s.AddMalformed(ctx, request.Malformed{}) },
		"claim":     func(ctx context.Context) error { _, err := s.claim(ctx, 1); return err },
		"record": func(ctx context.Context) error {
			_, err := s.record(ctx, record{move: request.Move{To: request.Pending}})
			return err
		},
		"take lookups": func(ctx context.Context) error { _, err := s.Lookups.Take(ctx, 1, 0, nil); return err },
		"resolve": func(ctx context.Context) error {
			_, err := s.Lookups.Resolve(ctx, lookup.Input{}, request.Finding{}, request.Move{To: request.Uncertain}, 0)
			return err
		},
		"pause lookups": func(ctx context.Context) error { return s.Lookups.Pause(ctx, time.Second) },
		"lapse":         func(ctx context.Context) error { _, err := s.lapse(ctx); return err },
		"expire":        func(ctx context.Context) error { _, err := s.expire(ctx); return err },
		"prune":         func(ctx context.Context) error { _, err := s.prune(ctx, time.Hour); return err },
		"strays":        func(ctx context.Context) error { _, err := s.Results.Unpublished(ctx, &results.Cursor{}); return err },
		"asking":        func(ctx context.Context) error { _, err := s.Results.Asking(ctx, &results.Cursor{}); return err },
		"mark": func(ctx context.Context) error {
			return s.Results.MarkPublished(ctx, []results.Answer{{Kind: results.Final, ID: 1, Number: 1}})
		},
		"renew": func(ctx context.Context) error {
			return (&gate.Registry{Pool: s.pool, Name: s.worker, WentBack: s.WentBack, Standing: standingOK, Log: quiet}).Renew(ctx)
		},
		"follow rate": func(ctx context.Context) error {
			_, _, err := (&gate.Registry{Pool: s.pool, Name: s.worker}).FollowRate(ctx)
			return err
		},
		"backlog":  func(ctx context.Context) error { _, err := s.desk().Backlog(ctx); return err },
		"ready":    func(ctx context.Context) error { return s.Ready(ctx) },
		"set rate": func(ctx context.Context) error { return s.SetRate(ctx, 1) },
	} {
		calls.Go(func() { // all at once: each waits for its limit
			// The loops' contexts end with the process only; this one ends so
			// that a call which hangs is seen and not waited for.
			ctx, cancel := context.WithTimeout(t.Context(), 2*database.WriteLimit)
			defer cancel()
			begun := time.Now()
			err := call(ctx)
			if took := time.Since(begun); err == nil || took > database.WriteLimit+5*time.Second {
				t.Errorf("%s: after %v: %v", name, took, err)
			}
		})
	}
	calls.Wait()
}

// TestPeers_05_NoNotification: what nobody announced is found by the poll
// (timgit/pg-boss#850). There is no LISTEN to go silent.
func TestPeers_05_NoNotification(t *testing.T) {
	t.Parallel()
	srv := flextest.New(t)
	s := newStore(t)
	start(t, newDeliverer(t, s, srv))
	mustAdd(t, s.another("w2"), "a", 1) // whose hint stays in its own process
	inState(t, s, request.Created, 1)
}

// TestPeers_06_LateCommit: a row with a lower id that is committed later is not
// passed over (ThreeDotsLabs/watermill#311).
func TestPeers_06_LateCommit(t *testing.T) {
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

// TestPeers_09_RetentionInBatches: more old rows than a batch are removed in one
// turn, by one replica at a time; those unpublished stay (svix/svix-webhooks#1933).
// Ten million are cmd/bench's.
func TestPeers_09_RetentionInBatches(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	ids := mustAdd(t, s, "a", 3*pruneBatch/2, faulty("no"))
	exec(t, s.pool, `UPDATE outbox SET settled_at = now() - interval '2 days', published_at = now() WHERE request_id <> $1`, ids[0])
	other, err := s.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Exec(t.Context(), `SELECT pg_advisory_xact_lock($1)`, pruneLock); err != nil {
		t.Fatal(err)
	}
	p := &Pruner{Store: s, Retention: time.Hour, Log: logger(t), Counters: &Counters{}}
	if n := p.turn(t.Context()); n != 0 {
		t.Errorf("%d removed while another replica prunes", n)
	}
	if err := other.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := p.turn(t.Context()); n != len(ids)-1 || p.Counters.Pruned.Load() != int64(n) {
		t.Errorf("%d removed", n)
	}
	if n := one[int](t, s.pool, `SELECT count(*) FROM outbox`); n != 1 {
		t.Errorf("%d rows are left, want the one that is not published", n)
	}
}

// TestPeers_10_DeadRowsBlockNoReplay: what was settled for bad can be sent again,
// by retry under the same id, or by the id's owner once retention removed it
// (0xfurai/peekaping#266).
func TestPeers_10_DeadRowsBlockNoReplay(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	id := mustAdd(t, s, "a", 1)[0]
	l := mustClaim(t, s, 1)[0]
	done, err := s.record(t.Context(), record{lease: l, outcome: "rejected", told: flex.Outcome{Kind: flex.Rejected, ErrorKind: "http_400"}, move: request.Move{To: request.Rejected}})
	if err != nil {
		t.Fatal(err)
	}
	first := done.MessageID()
	if ids, err := s.retry(t.Context(), person, operator.Filter{RequestIDs: []string{id}}); err != nil || len(ids) != 1 {
		t.Fatal(ids, err)
	}
	l = mustClaim(t, s, 1)[0]
	done, err = s.record(t.Context(), record{lease: l, outcome: "rejected", told: flex.Outcome{Kind: flex.Rejected, ErrorKind: "http_400"}, move: request.Move{To: request.Rejected}})
	if err != nil {
		t.Fatal(err)
	}
	if done.MessageID() == first {
		t.Error("the second result would be dropped as a repeat of the first")
	}
	exec(t, s.pool, `UPDATE outbox SET settled_at = now() - interval '2 days', published_at = now()`)
	if n, err := s.prune(t.Context(), time.Hour); err != nil || n != 1 {
		t.Fatal(n, err)
	}
	if a, err := s.Add(t.Context(), event(id, 2)); err != nil || a != Accepted {
		t.Errorf("asked anew after it was removed: %v, %v", a, err)
	}
}

// TestPeers_15_NumbersAndTimes: attempts are numbered from 1 at the claim, no
// number is ever used twice, and the times are Postgres's (hookdeck/outpost#740).
func TestPeers_15_NumbersAndTimes(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	id := mustAdd(t, s, "a", 1)[0]
	for want := 1; want <= 3; want++ {
		l := mustClaim(t, s, 1)[0]
		if l.Attempt != want {
			t.Fatalf("attempt %d, want %d", l.Attempt, want)
		}
		if err := s.putBack(t.Context(), l); err != nil {
			t.Fatal(err)
		}
	}
	if got := s.histories(t, id); got != "1 put_back, 2 put_back, 3 put_back" {
		t.Error(got)
	}
	if n := one[int](t, s.pool, `SELECT count(*) FROM outbox_attempts WHERE started_at > clock_timestamp() OR started_at < clock_timestamp() - interval '1 minute'`); n != 0 {
		t.Errorf("%d attempts at other times than Postgres's", n)
	}
}
