//go:build faults

package main

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"flexworker/internal/outbox/gate"
	"flexworker/internal/testing/pgtest"
)

// connectionsOfOne is how many connections to Postgres one replica may have: the pool of the worker and that of the
// senders' questions. Page and API, which are off here, would add theirs.
const connectionsOfOne = connections + 2

// TestTwentyReplicas: under load one replica becomes twenty and one again. The fleet keeps to one rate, no replica has
// more connections than its share, nothing becomes uncertain, and nothing is lost or doubled.
func TestTwentyReplicas(t *testing.T) {
	const most, rate = 20, 25.0
	r := rigOn(t, pgtest.NewServerWith(t, pgtest.Options{Settings: map[string]string{"max_connections": "400"}}).DSN("postgres"))
	r.program = plainWorker(t)
	r.redeliversSoon()
	r.must(`CREATE TABLE stamps (at timestamptz, passed int)`)
	r.must(`CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		INSERT INTO stamps VALUES (NEW.refilled_at, round(least(` + fmt.Sprint(gate.Burst(rate)) + `, OLD.tokens +
			OLD.rate * extract(epoch FROM NEW.refilled_at - OLD.refilled_at)) - NEW.tokens)); RETURN NEW; END $$`)
	in := r.read()
	start := func() *child {
		t.Helper()
		return r.command(r.environment(fmt.Sprint("FLEX_RATE=", rate), "FLEX_TIMEOUT=30s"), "run")
	}
	fleet := []*child{start()}
	r.says(fleet[0].address, "ok", 200)
	r.must(`CREATE TRIGGER stamp BEFORE UPDATE OF tokens, refilled_at ON outbox_gate FOR EACH ROW WHEN (OLD.rate > 0) EXECUTE FUNCTION stamp()`)
	opened := r.countConnections()
	sending := r.load()
	in.goesOn()
	for len(fleet) < most {
		fleet = append(fleet, start())
	}
	for _, w := range fleet {
		r.eventually(func() error {
			if got, code, err := word(w.address); err != nil || code != 200 {
				return fmt.Errorf("%s %d %w", got, code, err)
			}
			return nil
		})
	}
	in.goesOn()
	in.goesOn()
	sent := sending.stop()
	if n := r.count(`SELECT count(*) FROM outbox_replicas`); n != most {
		t.Errorf("%d replicas are known, want %d", n, most)
	}
	for _, w := range fleet[1:] {
		stopped(t, w)
	}
	in.balanced(sent)
	if n := r.count(`SELECT count(*) FROM outbox_replicas`); n != 1 {
		t.Errorf("%d replicas are known, want 1", n)
	}
	if n := r.count(`SELECT count(*) FROM outbox_attempts WHERE kind = 'attempt' AND outcome NOT IN ('created', 'released')`); n != 0 {
		t.Errorf("%d attempts came to no good end: %s", n, r.states())
	}
	peak := opened()
	if peak > most*connectionsOfOne {
		t.Errorf("%d connections at once, and %d replicas may have %d", peak, most, most*connectionsOfOne)
	}
	claims := pgtest.One[[]time.Time](t, r.pool, `SELECT array_agg(at ORDER BY at) FROM stamps, generate_series(1, passed)`)
	over := 0.0
	for i := range claims {
		for j := i; j < len(claims); j++ {
			over = max(over, float64(j-i+1)-rate*claims[j].Sub(claims[i]).Seconds())
		}
	}
	if over > gate.Burst(rate)+0.01 { // what microseconds round off
		t.Errorf("a window has %.2f claims more than the rate allows, a burst is %.1f", over, gate.Burst(rate))
	}
	if len(claims) < sent {
		t.Errorf("%d claims are stamped, for %d requests", len(claims), sent)
	}
	workers := r.count(`SELECT count(DISTINCT worker) FROM outbox_attempts`)
	fmt.Printf("%s: %d requests by %d replicas of %d, at most %d connections at once (%d are allowed), at most %.1f claims over %v a second (a burst is %.1f)\n",
		t.Name(), sent, workers, most, peak, most*connectionsOfOne, over, rate, gate.Burst(rate))
}

// countConnections looks ten times a second; the returned function ends that and says how many there were at once.
func (r *rig) countConnections() func() (most int) {
	ctx, cancel := context.WithCancel(r.t.Context())
	var most int
	var looking sync.WaitGroup
	looking.Go(func() {
		again := time.NewTicker(100 * time.Millisecond)
		defer again.Stop()
		for ctx.Err() == nil {
			most = max(most, r.count(`SELECT count(*) FROM pg_stat_activity WHERE application_name = 'flexworker'`))
			select {
			case <-ctx.Done():
			case <-again.C:
			}
		}
	})
	stop := func() int { cancel(); looking.Wait(); return most }
	r.t.Cleanup(func() { stop() })
	return stop
}
