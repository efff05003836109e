package outbox

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"flexworker/internal/flex"
	"flexworker/internal/outbox/attempt"
	"flexworker/internal/outbox/gate"
	"flexworker/internal/outbox/request"
	"flexworker/internal/testing/pgtest"
)

const busy = 30 * time.Second // how late a busy machine may read what is left of a pause

// pause pauses the gate as recording a 429 that asks for this wait does.
func pause(t testing.TB, s *Store, d time.Duration) {
	t.Helper()
	if d == 0 {
		return // a record that asks for none leaves the gate alone
	}
	if err := gate.Pause(t.Context(), s.pool, s.worker, d, "429 "+d.String()); err != nil {
		t.Fatal(err)
	}
}

func readGate(t testing.TB, s *Store) gate.Status {
	t.Helper()
	g, err := gate.Read(t.Context(), s.pool)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// TestGateRate: however many claim, and however time goes, no more pass than the
// rate allows and what may have been saved up. Time is made by ageing the row.
func TestGateRate(t *testing.T) {
	t.Parallel()
	const rate, claimers, turns = 20.0, 6, 12
	s := newStore(t)
	mustAdd(t, s, "g", 400)
	if err := s.SetRate(t.Context(), rate); err != nil {
		t.Fatal(err)
	}
	// The gate begins empty at a known instant of Postgres's clock.
	pgtest.Exec(t, s.pool, `UPDATE outbox_gate SET tokens = 0, refilled_at = clock_timestamp()`)
	begun := pgtest.One[time.Time](t, s.pool, `SELECT refilled_at FROM outbox_gate`)
	var passed atomic.Int64
	var aged time.Duration
	for turn := range turns {
		step := []time.Duration{50 * time.Millisecond, 30 * time.Millisecond, time.Second}[turn%3]
		if turn > 0 {
			pgtest.Exec(t, s.pool, `UPDATE outbox_gate SET refilled_at = refilled_at - $1::interval`, step)
			aged += step
		}
		var all sync.WaitGroup
		for range claimers {
			w := s.another("w")
			all.Go(func() {
				c, err := w.claim(t.Context(), 16)
				if err != nil {
					t.Error(err)
				}
				if len(c.leases) == 0 && (c.gate != gate.Limited || c.rest > idlePoll || c.rest < 0) {
					t.Errorf("nothing passed: gate %s, rests %v", c.gate, c.rest)
				}
				passed.Add(int64(len(c.leases)))
			})
		}
		all.Wait()
		real := pgtest.One[time.Time](t, s.pool, `SELECT clock_timestamp()`).Sub(begun)
		if most := gate.Burst(rate) + rate*(aged+real).Seconds(); float64(passed.Load()) > most {
			t.Fatalf("turn %d: %d passed, at most %.1f may", turn, passed.Load(), most)
		}
	}
	// A second that nobody used is lost but for the burst; each shorter step counts in full.
	if least := int64(rate*0.05*float64(turns/3)) + int64(turns/3-1); passed.Load() < least {
		t.Errorf("%d passed, at least %d should", passed.Load(), least)
	}
	if sending := pgtest.One[int64](t, s.pool, `SELECT count(*) FROM outbox WHERE state = 'sending'`); sending != passed.Load() {
		t.Errorf("%d are sending, %d passed", sending, passed.Load())
	}
}

// TestGateUnusedTokens: tokens that found nothing to send are not spent.
func TestGateUnusedTokens(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	if err := s.SetRate(t.Context(), 0.001); err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, s.pool, `UPDATE outbox_gate SET tokens = 1`)
	for range 3 {
		mustClaim(t, s, 0)
	}
	mustAdd(t, s, "u", 2)
	mustClaim(t, s, 1)
	c, err := s.claim(t.Context(), 1)
	if err != nil || len(c.leases) != 0 || c.gate != gate.Limited || c.rest != idlePoll {
		t.Errorf("%+v, %v", c, err)
	}
}

// TestGateWithoutRate: then nobody waits for the gate's row; with a rate one does.
func TestGateWithoutRate(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	mustAdd(t, s, "n", 20)
	locked := func() pgx.Tx {
		tx, err := s.pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(t.Context(), `SELECT FROM outbox_gate FOR UPDATE`); err != nil {
			t.Fatal(err)
		}
		return tx
	}
	tx := locked()
	mustClaim(t, s, 10)
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.SetRate(t.Context(), 1000); err != nil {
		t.Fatal(err)
	}
	tx = locked()
	impatient := planned(t, s.pool, "lock_timeout=50")
	var pg *pgconn.PgError
	if c, err := NewStore(impatient, "w2", testLimit, "interaction_request").claim(t.Context(), 10); !errors.As(err, &pg) || pg.Code != "55P03" {
		t.Errorf("claimed beside a locked gate: %+v, %v", c, err)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestGateShut: what each way of being shut means for a claim and for people.
func TestGateShut(t *testing.T) {
	t.Parallel()
	for _, rate := range []float64{0, 50} {
		s := newStore(t)
		mustAdd(t, s, "s", 1)
		if err := s.SetRate(t.Context(), rate); err != nil {
			t.Fatal(err)
		}
		pgtest.Exec(t, s.pool, `UPDATE outbox_gate SET tokens = 1`)
		for _, tt := range []struct {
			set   string
			state gate.State
			rest  time.Duration
		}{
			{"paused_until = clock_timestamp() + interval '1 hour'", gate.Paused, idlePoll},
			{"held_since = clock_timestamp()", gate.Held, idlePoll},
		} {
			pgtest.Exec(t, s.pool, `UPDATE outbox_gate SET reason = 'because', paused_until = NULL, held_since = NULL`)
			pgtest.Exec(t, s.pool, `UPDATE outbox_gate SET `+tt.set)
			c, err := s.claim(t.Context(), 1)
			if err != nil || len(c.leases) != 0 || c.gate != tt.state || c.rest != tt.rest {
				t.Errorf("rate %v, %s: %d leases, gate %s, rests %v, %v", rate, tt.set, len(c.leases), c.gate, c.rest, err)
			}
			if g := readGate(t, s); g.State != tt.state || g.Reason != "because" {
				t.Errorf("rate %v, %s: %+v", rate, tt.set, g)
			}
		}
		pgtest.Exec(t, s.pool, `UPDATE outbox_gate SET held_since = NULL, paused_until = clock_timestamp() - interval '1 ms'`)
		if g := readGate(t, s); g.State != gate.Open || g.Reason != "" {
			t.Errorf("%+v", g)
		}
		mustClaim(t, s, 1)
	}
}

// TestGateLost: a gate that cannot be read lets nothing pass.
func TestGateLost(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	mustAdd(t, s, "l", 1)
	pgtest.Exec(t, s.pool, `DELETE FROM outbox_gate`)
	if c, err := s.claim(t.Context(), 1); err == nil || len(c.leases) != 0 {
		t.Errorf("%+v, %v", c, err)
	}
	if n := pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox WHERE state = 'sending'`); n != 0 {
		t.Errorf("%d leased without a gate", n)
	}
	if g, err := gate.Read(t.Context(), s.pool); err == nil || g.State != gate.Held {
		t.Errorf("%+v, %v", g, err)
	}
	if err := s.Ready(t.Context()); err == nil {
		t.Error("ready")
	}
}

// TestPause: how 429s add up. The longer pause stands, and a hold stands over both.
func TestPause(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		asked  []time.Duration // one after the other
		hold   bool            // by a person, before
		state  gate.State
		reason string
		pause  time.Duration
	}{
		{"nothing", []time.Duration{0}, false, gate.Open, "", 0},
		{"one", []time.Duration{time.Minute}, false, gate.Paused, "429 1m0s", time.Minute},
		{"longer stays", []time.Duration{time.Hour, time.Minute}, false, gate.Paused, "429 1h0m0s", time.Hour},
		{"longer wins", []time.Duration{time.Minute, time.Hour}, false, gate.Paused, "429 1h0m0s", time.Hour},
		{"behind a hold", []time.Duration{time.Minute}, true, gate.Held, ann.Why, time.Minute}, // for when the hold is over
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			if tt.hold {
				if _, err := s.desk().Hold(t.Context(), ann); err != nil {
					t.Fatal(err)
				}
			}
			for _, d := range tt.asked {
				pause(t, s, d)
			}
			g := readGate(t, s)
			if g.State != tt.state || g.Reason != tt.reason || g.PausedFor > tt.pause || g.PausedFor < tt.pause-busy {
				t.Errorf("%+v", g)
			}
			if by := map[gate.State]string{gate.Paused: "w1", gate.Held: "ann@desk", gate.Open: "migration"}[tt.state]; g.ChangedBy != by {
				t.Errorf("changed by %s, want %s", g.ChangedBy, by)
			}
		})
	}
}

// TestRecordPauses: an outcome is recorded behind the pause that it asks for; what
// concerns this replica or one tenant leaves the gate alone.
func TestRecordPauses(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	mustAdd(t, s, "b", 3)
	leases := mustClaim(t, s, 3)
	for i, o := range []flex.Outcome{{Kind: flex.Blocked, HTTPStatus: 401, ErrorKind: "http_401", Message: "Authenticate"}, {ErrorKind: "timeout"},
		{Kind: flex.Refused, Limited: true, HTTPStatus: 429, RetryAfter: 1e6 * time.Hour, ErrorKind: "http_429", Message: "nul \x00 \xff"}} {
		if g := readGate(t, s); g.State != gate.Open {
			t.Fatalf("before %d: %+v", i, g)
		}
		if _, err := s.record(t.Context(), attempt.Decide(testPolicy, leases[i], o, 0)); err != nil {
			t.Fatal(err)
		}
	}
	if g := readGate(t, s); g.State != gate.Paused || g.Reason != "nul \uFFFD \uFFFD" || g.PausedFor > request.MaxRetryAfter || g.PausedFor < request.MaxRetryAfter-busy {
		t.Errorf("%+v", g)
	}
}

func TestSetRate(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	pgtest.Exec(t, s.pool, `UPDATE outbox_gate SET tokens = 1000`)
	for _, rate := range []float64{5, 5, 0.5, 0} {
		if err := s.SetRate(t.Context(), rate); err != nil {
			t.Fatal(err)
		}
		if g := readGate(t, s); g.Rate != rate {
			t.Errorf("%+v, want %v", g, rate)
		}
		if tokens := pgtest.One[float64](t, s.pool, `SELECT tokens FROM outbox_gate`); tokens > gate.Burst(5) {
			t.Errorf("%v tokens saved up at rate %v", tokens, rate)
		}
	}
	if err := s.SetRate(t.Context(), -1); err == nil || !strings.Contains(err.Error(), "rate_is_not_negative") {
		t.Errorf("a negative rate: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.SetRate(ctx, 7); err != nil { // no caller cuts a write
		t.Error(err)
	}
}

// TestUntilNext: however low the rate, a rest is neither negative nor long.
func TestUntilNext(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		tokens, rate float64
		want         time.Duration
	}{
		{0, 50, 20 * time.Millisecond}, {0.5, 50, 10 * time.Millisecond}, {3, 50, 0},
		{0, 0.001, idlePoll}, {0, 1e-10, idlePoll}, {0, 5e-324, idlePoll},
	} {
		p := gate.Tokens{Tokens: tt.tokens, Rate: tt.rate}
		if got := p.UntilNext(); got != tt.want {
			t.Errorf("%v tokens, %v a second: %v, want %v", tt.tokens, tt.rate, got, tt.want)
		}
	}
}

// TestPauseOfAnotherTime: a pause that ends later than any that Flex can ask for was
// said by a clock that has gone back since. It is over, and a new one counts.
func TestPauseOfAnotherTime(t *testing.T) {
	t.Parallel()
	for _, rate := range []float64{0, 50} {
		s := newStore(t)
		mustAdd(t, s, "p", 1)
		pgtest.Exec(t, s.pool, `UPDATE outbox_gate SET rate = $1, tokens = 1, reason = 'x', paused_until = clock_timestamp() + interval '2 hours'`, rate)
		if g := readGate(t, s); g.State != gate.Open || g.PausedFor != 0 {
			t.Errorf("rate %v: %+v", rate, g)
		}
		mustClaim(t, s, 1)
		pause(t, s, time.Minute)
		if g := readGate(t, s); g.State != gate.Paused || g.PausedFor > time.Minute {
			t.Errorf("rate %v, paused anew: %+v", rate, g)
		}
	}
}
