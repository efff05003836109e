package outbox

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
)

// GateState says in one word whether the gate lets requests pass, and if not
// why: the words of /readyz.
type GateState string

// The states of the gate.
const (
	GateOpen    GateState = "ok"
	GateLimited GateState = "limited" // the fleet's rate is used up for the moment
	GatePaused  GateState = "paused"  // Flex asked for a pause, or cannot be reached
	GateHeld    GateState = "held"    // until credentials or account are right, or a person releases it
)

// Gate is the row of outbox_gate as people see it.
type Gate struct {
	State     GateState
	Rate      float64       // attempts a second, all replicas; 0: no limit
	PausedFor time.Duration // from now; 0: not paused
	HeldSince time.Time     // zero: not held
	Probed    bool          // it opens by itself once a read succeeds
	Reason    string
	ChangedBy string
	ChangedAt time.Time
}

const (
	// probeEvery is the time between two reads that ask, for the whole fleet,
	// whether Flex can be used again.
	probeEvery = 2 * time.Second
	// burstTime is how much unused rate may be kept: the most that passes at
	// once is the rate times burstTime, plus one. It has to cover how late a
	// claim can come after its pass was due.
	burstTime = 100 * time.Millisecond
)

// burst is the most passes that can have been saved up.
func burst(rate float64) float64 { return 1 + rate*burstTime.Seconds() }

// A pass is the right to n calls, taken in the transaction that claims.
type pass struct {
	n       int
	state   GateState
	rest    time.Duration // until it is worth asking again, where n is 0
	probed  bool
	limited bool
	tokens  float64
	at      time.Time
}

// passes asks the gate for the right to at most want calls. Where a rate is
// set, the gate's row stays locked until the transaction ends, so that the
// fleet takes its passes one replica after the other. Without one nobody waits.
func passes(ctx context.Context, tx pgx.Tx, want int) (pass, error) {
	p, err := readGate(ctx, tx, ` WHERE rate > 0 FOR UPDATE`)
	if errors.Is(err, pgx.ErrNoRows) {
		p, err = readGate(ctx, tx, ``)
		p.tokens = float64(want)
	} else {
		p.limited = true
	}
	if err != nil || p.state != GateOpen {
		return pass{state: p.state, rest: p.rest, probed: p.probed}, err
	}
	p.n = min(want, int(p.tokens))
	if p.n == 0 {
		p.state = GateLimited
	}
	return p, nil
}

// readGate reads the row; tokens are brought up to date by the clock after the
// lock was had. An unreadable gate is shut: the error says so.
func readGate(ctx context.Context, tx pgx.Tx, lock string) (pass, error) {
	var p pass
	var rate, since float64
	var paused *time.Duration
	var held bool
	err := tx.QueryRow(ctx, `
		SELECT rate, tokens, clock_timestamp(), extract(epoch FROM clock_timestamp() - refilled_at)::double precision,
		       paused_until - clock_timestamp(), held_since IS NOT NULL, probe_at IS NOT NULL
		  FROM outbox_gate`+lock).Scan(&rate, &p.tokens, &p.at, &since, &paused, &held, &p.probed)
	if err != nil {
		return p, err
	}
	p.state, p.rest = GateOpen, busyPoll
	switch {
	case held:
		p.state, p.rest = GateHeld, probeEvery/2
	case p.probed:
		p.state, p.rest = GatePaused, probeEvery/2
	case paused != nil && *paused > 0:
		p.state, p.rest = GatePaused, min(*paused, idlePoll)
	case rate > 0:
		if since < 0 {
			// The database's clock went back: what was saved up counts from now.
			if _, err := tx.Exec(ctx, `UPDATE outbox_gate SET refilled_at = $1`, p.at); err != nil {
				return p, err
			}
		}
		p.tokens = min(burst(rate), p.tokens+rate*max(since, 0))
		p.rest = min(time.Duration((1-min(p.tokens, 1))/rate*float64(time.Second)), idlePoll)
	}
	return p, nil
}

// spend notes the passes that were used, in the claim's transaction.
func (p pass) spend(ctx context.Context, tx pgx.Tx, used int) error {
	if !p.limited || used == 0 {
		return nil
	}
	_, err := tx.Exec(ctx, `UPDATE outbox_gate SET tokens = $1, refilled_at = $2`, p.tokens-float64(used), p.at)
	return err
}

// raise shuts the gate as far as the recorded outcomes ask for it, in the
// transaction that records them. What is shut for longer stays shut.
func raise(ctx context.Context, tx pgx.Tx, worker string, records []record) error {
	var sum alarm
	for _, r := range records {
		sum = sum.and(r.alarm)
	}
	if sum == (alarm{}) {
		return nil
	}
	_, err := tx.Exec(ctx, `
		UPDATE outbox_gate
		   SET held_since = CASE WHEN $1 THEN coalesce(held_since, clock_timestamp()) ELSE held_since END,
		       paused_until = greatest(paused_until, clock_timestamp() + $2::interval),
		       probe_at = CASE WHEN $3 THEN coalesce(probe_at, clock_timestamp() + $4::interval) ELSE probe_at END,
		       reason = CASE WHEN held_since IS NULL OR $1 THEN $5 ELSE reason END,
		       changed_by = $6, changed_at = clock_timestamp()
		 WHERE ($1 AND held_since IS NULL)
		    OR (held_since IS NULL AND $3 AND probe_at IS NULL)
		    OR (held_since IS NULL AND clock_timestamp() + $2::interval > coalesce(paused_until, '-infinity'))`,
		sum.hold, sum.pause, sum.hold || sum.away, probeEvery, text(sum.why), worker)
	return err
}

// takeProbe says whether this replica is the one to ask now whether Flex can be
// used again. At most one is, every probeEvery.
func (s *Store) takeProbe(ctx context.Context) (bool, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	tag, err := s.pool.Exec(ctx, `
		UPDATE outbox_gate SET probe_at = clock_timestamp() + $1::interval
		 WHERE probe_at <= clock_timestamp() OR probe_at > clock_timestamp() + interval '1 hour'`, probeEvery)
	return tag.RowsAffected() > 0, wrap("probe", err)
}

// reopen opens a gate that was shut until a probe succeeds. A hold by a person
// and a pause that Flex asked for stay.
func (s *Store) reopen(ctx context.Context) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	_, err := s.pool.Exec(ctx, `
		UPDATE outbox_gate
		   SET held_since = NULL, probe_at = NULL, changed_by = $1, changed_at = clock_timestamp()
		 WHERE probe_at IS NOT NULL`, s.worker)
	return wrap("reopen", err)
}

// SetRate makes rate the whole fleet's: attempts a second, 0 for no limit. The
// latest worker to start decides.
func (s *Store) SetRate(ctx context.Context, rate float64) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	_, err := s.pool.Exec(ctx, `
		UPDATE outbox_gate SET rate = $1, tokens = least(tokens, $2), changed_by = $3, changed_at = clock_timestamp()
		 WHERE rate <> $1`, rate, burst(rate), s.worker)
	return wrap("set rate", err)
}

// Gate reads the gate. It is also the cheapest question that shows whether
// Postgres answers.
func (s *Store) Gate(ctx context.Context) (Gate, error) {
	var g Gate
	var held *time.Time
	var reason *string
	err := s.pool.QueryRow(ctx, `
		SELECT rate, greatest(coalesce(paused_until - clock_timestamp(), '0'), '0'), held_since, probe_at IS NOT NULL,
		       reason, changed_by, changed_at
		  FROM outbox_gate`).Scan(&g.Rate, &g.PausedFor, &held, &g.Probed, &reason, &g.ChangedBy, &g.ChangedAt)
	if err != nil {
		return Gate{State: GateHeld, Reason: "the gate cannot be read"}, wrap("gate", err)
	}
	g.State = GateOpen
	if held != nil {
		g.State, g.HeldSince = GateHeld, *held
	} else if g.PausedFor > 0 || g.Probed {
		g.State = GatePaused
	}
	if reason != nil && g.State != GateOpen {
		g.Reason = *reason
	}
	return g, nil
}
