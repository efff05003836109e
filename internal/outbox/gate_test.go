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
)

// shut raises alarms as recording them does.
func shut(t testing.TB, s *Store, alarms ...alarm) {
	t.Helper()
	records := make([]record, len(alarms))
	for i, a := range alarms {
		records[i].alarm = a
	}
	var b pgx.Batch
	shutGate(&b, s.worker, records)
	if err := s.pool.SendBatch(t.Context(), &b).Close(); err != nil {
		t.Fatal(err)
	}
}

func gate(t testing.TB, s *Store) Gate {
	t.Helper()
	g, err := s.Gate(t.Context())
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
	exec(t, s.pool, `UPDATE outbox_gate SET tokens = 0, refilled_at = clock_timestamp()`)
	begun := one[time.Time](t, s.pool, `SELECT refilled_at FROM outbox_gate`)
	var passed atomic.Int64
	var aged time.Duration
	for turn := range turns {
		step := []time.Duration{50 * time.Millisecond, 30 * time.Millisecond, time.Second}[turn%3]
		if turn > 0 {
			exec(t, s.pool, `UPDATE outbox_gate SET refilled_at = refilled_at - $1::interval`, step)
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
				if len(c.leases) == 0 && (c.gate != GateLimited || c.rest > idlePoll || c.rest < 0) {
					t.Errorf("nothing passed: gate %s, rests %v", c.gate, c.rest)
				}
				passed.Add(int64(len(c.leases)))
			})
		}
		all.Wait()
		real := one[time.Time](t, s.pool, `SELECT clock_timestamp()`).Sub(begun)
		if most := burst(rate) + rate*(aged+real).Seconds(); float64(passed.Load()) > most {
			t.Fatalf("turn %d: %d passed, at most %.1f may", turn, passed.Load(), most)
		}
	}
	// A second that nobody used is lost but for the burst; each shorter step counts in full.
	if least := int64(rate*0.05*float64(turns/3)) + int64(turns/3-1); passed.Load() < least {
		t.Errorf("%d passed, at least %d should", passed.Load(), least)
	}
	if sending := one[int64](t, s.pool, `SELECT count(*) FROM outbox WHERE state = 'sending'`); sending != passed.Load() {
		t.Errorf("%d are sending, %d passed", sending, passed.Load())
	}
}

// TestGateUnusedPasses: passes that found nothing to send are not spent.
func TestGateUnusedPasses(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	if err := s.SetRate(t.Context(), 0.001); err != nil {
		t.Fatal(err)
	}
	exec(t, s.pool, `UPDATE outbox_gate SET tokens = 1`)
	for range 3 {
		mustClaim(t, s, 0)
	}
	mustAdd(t, s, "u", 2)
	mustClaim(t, s, 1)
	c, err := s.claim(t.Context(), 1)
	if err != nil || len(c.leases) != 0 || c.gate != GateLimited || c.rest != idlePoll {
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
	if c, err := NewStore(impatient, "w2", testLimit).claim(t.Context(), 10); !errors.As(err, &pg) || pg.Code != "55P03" {
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
		exec(t, s.pool, `UPDATE outbox_gate SET tokens = 1`)
		for _, tt := range []struct {
			set   string
			state GateState
			rest  time.Duration
		}{
			{"paused_until = clock_timestamp() + interval '1 hour'", GatePaused, idlePoll},
			{"held_since = clock_timestamp()", GateHeld, probeEvery / 2},
			{"held_since = clock_timestamp(), probe_at = clock_timestamp()", GateHeld, probeEvery / 2},
			{"probe_at = clock_timestamp() - interval '1 hour'", GatePaused, probeEvery / 2},
		} {
			exec(t, s.pool, `UPDATE outbox_gate SET reason = 'because', paused_until = NULL, held_since = NULL, probe_at = NULL`)
			exec(t, s.pool, `UPDATE outbox_gate SET `+tt.set)
			c, err := s.claim(t.Context(), 1)
			if err != nil || len(c.leases) != 0 || c.gate != tt.state || c.rest != tt.rest {
				t.Errorf("rate %v, %s: %d leases, gate %s, rests %v, %v", rate, tt.set, len(c.leases), c.gate, c.rest, err)
			}
			if g := gate(t, s); g.State != tt.state || g.Reason != "because" {
				t.Errorf("rate %v, %s: %+v", rate, tt.set, g)
			}
		}
		exec(t, s.pool, `UPDATE outbox_gate SET held_since = NULL, probe_at = NULL, paused_until = clock_timestamp() - interval '1 ms'`)
		if g := gate(t, s); g.State != GateOpen || g.Reason != "" {
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
	exec(t, s.pool, `DELETE FROM outbox_gate`)
	if c, err := s.claim(t.Context(), 1); err == nil || len(c.leases) != 0 {
		t.Errorf("%+v, %v", c, err)
	}
	if n := one[int](t, s.pool, `SELECT count(*) FROM outbox WHERE state = 'sending'`); n != 0 {
		t.Errorf("%d leased without a gate", n)
	}
	if g, err := s.Gate(t.Context()); err == nil || g.State != GateHeld {
		t.Errorf("%+v, %v", g, err)
	}
	if err := s.Ready(t.Context()); err == nil {
		t.Error("ready")
	}
}

// TestRaise: how alarms add up. What is shut for longer, or more, stays so.
func TestRaise(t *testing.T) {
	t.Parallel()
	hold, away := alarm{hold: true, why: "401"}, alarm{away: true, why: "gone"}
	pause := func(d time.Duration) alarm { return alarm{pause: d, why: "429 " + d.String()} }
	for _, tt := range []struct {
		name   string
		alarms []alarm // one after the other
		state  GateState
		probed bool
		reason string
		pause  time.Duration
	}{
		{"nothing", []alarm{{}}, GateOpen, false, "", 0},
		{"pause", []alarm{pause(time.Minute)}, GatePaused, false, "429 1m0s", time.Minute},
		{"longer pause stays", []alarm{pause(time.Hour), pause(time.Minute)}, GatePaused, false, "429 1h0m0s", time.Hour},
		{"longer pause wins", []alarm{pause(time.Minute), pause(time.Hour)}, GatePaused, false, "429 1h0m0s", time.Hour},
		{"hold", []alarm{hold}, GateHeld, true, "401", 0},
		{"hold over pause", []alarm{pause(time.Minute), hold}, GateHeld, true, "401", time.Minute},
		{"pause after hold", []alarm{hold, pause(time.Minute)}, GateHeld, true, "401", time.Minute}, // for when the hold is over
		{"away", []alarm{away}, GatePaused, true, "gone", 0},
		{"away after hold", []alarm{hold, away}, GateHeld, true, "401", 0},
		{"hold after away", []alarm{away, hold}, GateHeld, true, "401", 0},
		{"bad text", []alarm{{hold: true, why: "nul \x00 \xff"}}, GateHeld, true, "nul \uFFFD \uFFFD", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			for _, a := range tt.alarms {
				shut(t, s, a)
			}
			g := gate(t, s)
			if g.State != tt.state || g.Probed != tt.probed || g.Reason != tt.reason || g.PausedFor > tt.pause || g.PausedFor < tt.pause-soon {
				t.Errorf("%+v", g)
			}
			if tt.state != GateOpen && g.ChangedBy != "w1" {
				t.Errorf("changed by %s", g.ChangedBy)
			}
			// The same in one write.
			one := newStore(t)
			shut(t, one, tt.alarms...)
			if g := gate(t, one); g.State != tt.state || g.Probed != tt.probed {
				t.Errorf("in one write: %+v", g)
			}
		})
	}
}

// TestRecordShutsGate: an outcome and what it means for the fleet are one commit.
func TestRecordShutsGate(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	mustAdd(t, s, "b", 1)
	l := mustClaim(t, s, 1)[0]
	if _, err := s.record(t.Context(), told(l, flex.Outcome{Kind: flex.Blocked, HTTPStatus: 401, ErrorKind: "http_401", Message: "Authenticate"})); err != nil {
		t.Fatal(err)
	}
	since := gate(t, s).HeldSince
	if g := gate(t, s); g.State != GateHeld || !strings.HasSuffix(g.Reason, "HTTP 401, code 0: Authenticate") || !g.Probed {
		t.Errorf("%+v", g)
	}
	// A second one, from elsewhere, leaves the beginning as it is.
	shut(t, s.another("w2"), alarm{hold: true, why: "again"})
	if g := gate(t, s); !g.HeldSince.Equal(since) || !strings.HasSuffix(g.Reason, "HTTP 401, code 0: Authenticate") || g.ChangedBy != "w1" {
		t.Errorf("%+v", g)
	}
}

// TestTakeProbe: of many replicas one asks, and none before its time.
func TestTakeProbe(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	turns := func() int64 {
		var n atomic.Int64
		var all sync.WaitGroup
		for range 10 {
			w := s.another("w")
			all.Go(func() {
				_, mine, err := w.takeProbe(t.Context())
				if err != nil {
					t.Error(err)
				}
				if mine {
					n.Add(1)
				}
			})
		}
		all.Wait()
		return n.Load()
	}
	if n := turns(); n != 0 {
		t.Errorf("%d probe an open gate", n)
	}
	shut(t, s, alarm{away: true, why: "gone"})
	exec(t, s.pool, `UPDATE outbox_gate SET probe_at = clock_timestamp() + interval '1 minute'`)
	if n := turns(); n != 0 {
		t.Errorf("%d probe before it is time", n)
	}
	exec(t, s.pool, `UPDATE outbox_gate SET probe_at = clock_timestamp()`)
	if n := turns(); n != 1 {
		t.Errorf("%d probe, want 1", n)
	}
}

// TestReopen: a good probe opens what a probe can judge, and nothing else.
func TestReopen(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		set  string
		want GateState
	}{
		{"held_since = clock_timestamp(), probe_at = clock_timestamp()", GateOpen},
		{"probe_at = clock_timestamp()", GateOpen},
		{"held_since = clock_timestamp()", GateHeld}, // a person's
		{"paused_until = clock_timestamp() + interval '1 hour'", GatePaused},
		{"probe_at = clock_timestamp(), paused_until = clock_timestamp() + interval '1 hour'", GatePaused},
	} {
		s := newStore(t)
		exec(t, s.pool, `UPDATE outbox_gate SET reason = 'because', `+tt.set)
		if _, err := s.reopen(t.Context(), gate(t, s).ChangedAt); err != nil {
			t.Fatal(err)
		}
		if g := gate(t, s); g.State != tt.want || g.Probed {
			t.Errorf("%s: %+v", tt.set, g)
		}
	}
}

// checker is a Flex that can be used again; during happens while it is asked.
type checker struct{ during func() }

func (checker) Create(context.Context, flex.Interaction) flex.Outcome { return flex.Outcome{} }

func (c checker) Check(context.Context) flex.Outcome {
	c.during()
	return flex.Outcome{Kind: flex.Rejected}
}

// TestStaleProbe: a probe opens the gate as it stood when the probe began. About
// what shut it since then nobody has asked.
func TestStaleProbe(t *testing.T) {
	t.Parallel()
	hold, away := alarm{hold: true, why: "401"}, alarm{away: true, why: "gone"}
	probe := func(s *Store, during func()) { // as soon as it is time for one
		exec(t, s.pool, `UPDATE outbox_gate SET probe_at = clock_timestamp() WHERE probe_at IS NOT NULL`)
		(&Deliverer{Store: s, Flex: checker{during}, Log: logger(t)}).probe(t.Context())
	}
	another := func(s *Store) { probe(s.another("w2"), func() {}) }
	by := func(act func(context.Context, Act) error) {
		if err := act(t.Context(), ann); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name   string
		before alarm
		during func(*Store)
		want   GateState
		person bool // who alone can open it
	}{
		{"nothing", away, func(*Store) {}, GateOpen, false},
		{"nothing, held", hold, func(*Store) {}, GateOpen, false},
		{"held", away, func(s *Store) { shut(t, s, hold) }, GateHeld, false},
		{"a call from before the hold", hold, func(s *Store) { shut(t, s, hold) }, GateOpen, false},
		{"opened and held", hold, func(s *Store) { another(s); shut(t, s, hold) }, GateHeld, false},
		{"opened and away", away, func(s *Store) { another(s); shut(t, s, away) }, GatePaused, false},
		{"another asks too", away, func(s *Store) {
			exec(t, s.pool, `UPDATE outbox_gate SET probe_at = clock_timestamp()`)
			if _, mine, err := s.another("w2").takeProbe(t.Context()); !mine || err != nil {
				t.Errorf("%v, %v", mine, err)
			}
		}, GateOpen, false},
		{"held by a person", hold, func(s *Store) { by(s.Hold) }, GateHeld, true},
		{"away, held by a person", away, func(s *Store) { by(s.Hold) }, GateHeld, true},
		{"released", hold, func(s *Store) { by(s.Release) }, GateOpen, false},
		{"released and held", hold, func(s *Store) { by(s.Release); shut(t, s, hold) }, GateHeld, false},
		{"held by a person, released and held", away, func(s *Store) { by(s.Hold); by(s.Release); shut(t, s, hold) }, GateHeld, false},
		{"held, and by a person", away, func(s *Store) { shut(t, s, hold); by(s.Hold) }, GateHeld, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			shut(t, s, tt.before)
			probe(s, func() { tt.during(s) })
			if g := gate(t, s); g.State != tt.want {
				t.Errorf("%+v", g)
			}
			another(s)
			if g := gate(t, s); (g.State == GateHeld) != tt.person {
				t.Errorf("after the next probe: %+v", g)
			}
		})
	}
}

func TestSetRate(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	exec(t, s.pool, `UPDATE outbox_gate SET tokens = 1000`)
	for _, rate := range []float64{5, 5, 0.5, 0} {
		if err := s.SetRate(t.Context(), rate); err != nil {
			t.Fatal(err)
		}
		if g := gate(t, s); g.Rate != rate {
			t.Errorf("%+v, want %v", g, rate)
		}
		if tokens := one[float64](t, s.pool, `SELECT tokens FROM outbox_gate`); tokens > burst(5) {
			t.Errorf("%v passes saved up at rate %v", tokens, rate)
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
		p := passes{tokens: tt.tokens, rate: tt.rate}
		if got := p.untilNext(); got != tt.want {
			t.Errorf("%v passes, %v a second: %v, want %v", tt.tokens, tt.rate, got, tt.want)
		}
	}
}
