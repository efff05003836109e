package outbox

import (
	"context"
	"encoding/json"
	"time"

	"github.com/jackc/pgx/v5"

	"flexworker/internal/database"
	"flexworker/internal/outbox/request"
)

// GateState says in one word whether the gate lets requests pass, and if not
// why: the words of /readyz.
type GateState string

// The states of the gate.
const (
	GateOpen    GateState = "ok"
	GateLimited GateState = "limited" // the fleet's rate is used up for the moment
	GatePaused  GateState = "paused"  // Flex asked for a pause: 429 with Retry-After
	GateHeld    GateState = "held"    // until a person releases it
)

// Gate is the row of outbox_gate as people see it.
type Gate struct {
	State     GateState
	Rate      float64       // attempts a second, all replicas; 0: no limit
	PausedFor time.Duration // from now; 0: not paused
	HeldSince time.Time     // zero: not held
	Reason    string
	ChangedBy string
	ChangedAt time.Time
	ReadOnly  bool // Postgres answers and cannot write: a standby, or a database made read-only
}

// MarshalJSON gives names and nulls as everywhere: what does not apply is null.
func (g Gate) MarshalJSON() ([]byte, error) {
	out := struct {
		State     GateState  `json:"state"`
		Rate      float64    `json:"rate"`
		PausedFor *float64   `json:"paused_for_seconds"`
		HeldSince *time.Time `json:"held_since"`
		Reason    *string    `json:"reason"`
		ChangedBy string     `json:"changed_by"`
		ChangedAt time.Time  `json:"changed_at"`
		ReadOnly  bool       `json:"read_only"`
	}{State: g.State, Rate: g.Rate, ChangedBy: g.ChangedBy, ChangedAt: g.ChangedAt, ReadOnly: g.ReadOnly}
	if left := g.PausedFor.Seconds(); left > 0 {
		out.PausedFor = &left
	}
	if !g.HeldSince.IsZero() {
		out.HeldSince = &g.HeldSince
	}
	if g.Reason != "" {
		out.Reason = &g.Reason
	}
	return json.Marshal(out)
}

// burstTime is how much unused rate may be kept: the most that passes at
// once is the rate times burstTime, plus one. It has to cover how late a
// claim can come after its pass was due.
const burstTime = 100 * time.Millisecond

// longestPause is longer than any pause that Flex can ask for, maxRetryAfter, by a minute: what ends later was
// said by a database's clock that has gone back since, and is over.
const longestPause = `interval '61 minutes'`

// burst is the most passes that can have been saved up.
func burst(rate float64) float64 { return 1 + rate*burstTime.Seconds() }

// gateSQL are the first CTEs of a statement that claims: passes is one row, of
// which n is how many calls may begin now, at most $1. Where a rate is set the
// gate's row stays locked until the commit, so that the fleet takes its passes one
// replica after the other, by the clock after the lock was had. Without one nobody
// waits. Gate and requests are read in one snapshot, or the gate's later: a pause
// that is committed together with a request's return to pending is never missed.
// spendSQL has to follow behind what claims.
const gateSQL = `
	locked AS MATERIALIZED (SELECT * FROM outbox_gate WHERE rate > 0 AND $1::integer > 0 FOR UPDATE),` + refillSQL

// freeGateSQL are the same for a statement that can do without passes: where it
// would have to wait for the gate's row, passes has no row.
const freeGateSQL = `
	locked AS MATERIALIZED (SELECT * FROM outbox_gate WHERE rate > 0 AND $1::integer > 0 FOR UPDATE SKIP LOCKED),` + refillSQL

const refillSQL = `
	gate AS MATERIALIZED (
		SELECT *, clock_timestamp() AS at FROM locked
		UNION ALL
		SELECT *, clock_timestamp() FROM outbox_gate WHERE rate = 0 OR $1 = 0),
	refilled AS MATERIALIZED (
		SELECT rate, at, held_since IS NOT NULL AS held, paused_until - at AS paused, refilled_at > at AS late,
		       CASE WHEN rate = 0 THEN $1::integer
		            ELSE least(1 + rate * $2::double precision, tokens + rate * greatest(extract(epoch FROM at - refilled_at), 0)) END AS tokens
		  FROM gate),
	passes AS MATERIALIZED (
		SELECT *, CASE WHEN held OR paused > '0' AND paused <= ` + longestPause + ` THEN 0 ELSE least($1, floor(tokens)::integer) END AS n FROM refilled)`

// spendSQL notes the passes that were used: a row of used each. Where the
// database's clock went back, what was saved up counts from now. Who asked for no
// passes has not locked the gate and leaves it alone.
const spendSQL = `
	spent AS (
		UPDATE outbox_gate SET tokens = passes.tokens - (SELECT count(*) FROM used), refilled_at = passes.at
		  FROM passes WHERE passes.rate > 0 AND $1 > 0 AND (passes.late OR EXISTS (SELECT FROM used)))`

// passes is that row.
type passes struct {
	n            int
	rate, tokens float64
	held         bool
	paused       *time.Duration
}

// passesColumns are what targets reads.
const passesColumns = `passes.n, passes.rate, passes.tokens, passes.held, passes.paused`

func (p *passes) targets() []any {
	return []any{&p.n, &p.rate, &p.tokens, &p.held, &p.paused}
}

// state is why there were no more passes, and how long it makes sense to wait
// for the next; GateOpen when the gate was not the reason.
func (p *passes) state() (GateState, time.Duration) {
	switch {
	case p.held:
		return GateHeld, idlePoll
	case p.paused != nil && *p.paused > 0 && *p.paused <= request.MaxRetryAfter+time.Minute:
		return GatePaused, min(*p.paused, idlePoll)
	case p.n == 0 && p.rate > 0:
		return GateLimited, p.untilNext()
	default:
		return GateOpen, 0
	}
}

// untilNext is the time until there is a whole pass again, where a rate is set; of a
// rate near 0 that is more than a time.Duration holds.
func (p *passes) untilNext() time.Duration {
	seconds := (1 - min(p.tokens, 1)) / p.rate
	return time.Duration(min(seconds, idlePoll.Seconds()) * float64(time.Second))
}

// pause pauses the gate as far as the outcomes ask for it, before they are recorded and
// apart from that: who has the gate may wait for a row, so who has rows never waits for
// the gate. Where somebody holds the gate's row for longer than patience the outcomes go
// on without: their own requests wait for Retry-After, and the next 429 asks again.
func (s *Store) pause(ctx context.Context, records []record) error {
	var b pgx.Batch
	b.Queue(`SELECT ` + database.Patiently)
	if pauseGate(&b, s.worker, records); b.Len() == 1 {
		return nil
	}
	if err := s.pool.SendBatch(ctx, &b).Close(); !database.IsLockTrouble(err) {
		return err
	}
	return nil
}

// pauseGate queues the pause that the outcomes ask for, if any does. The longer pause stands, also behind a hold: it
// goes on when the hold is over.
func pauseGate(b *pgx.Batch, worker string, records []record) {
	var longest *record
	for i := range records {
		if r := &records[i]; r.pause > 0 && (longest == nil || r.pause > longest.pause) {
			longest = r
		}
	}
	if longest == nil {
		return
	}
	b.Queue(`
		UPDATE outbox_gate
		   SET paused_until = clock_timestamp() + $1::interval,
		       reason = CASE WHEN held_since IS NULL THEN $2 ELSE reason END,
		       changed_by = CASE WHEN held_since IS NULL THEN $3 ELSE changed_by END,
		       changed_at = CASE WHEN held_since IS NULL THEN clock_timestamp() ELSE changed_at END
		 WHERE clock_timestamp() + $1::interval > coalesce(paused_until, '-infinity') OR paused_until > clock_timestamp() + `+longestPause,
		longest.pause, database.Text(longest.told.Message), worker)
}

// Gate reads the gate. It is also the cheapest question that shows whether
// Postgres answers.
func (s *Store) Gate(ctx context.Context) (Gate, error) {
	ctx, cancel := database.Bounded(ctx)
	defer cancel()
	var g Gate
	var held *time.Time
	var reason *string
	err := s.pool.QueryRow(ctx, `
		SELECT rate, CASE WHEN paused_until - clock_timestamp() BETWEEN '0' AND `+longestPause+` THEN paused_until - clock_timestamp() ELSE '0' END, held_since, reason, changed_by, changed_at,
		       current_setting('transaction_read_only') = 'on'
		  FROM outbox_gate`).Scan(&g.Rate, &g.PausedFor, &held, &reason, &g.ChangedBy, &g.ChangedAt, &g.ReadOnly)
	if err != nil {
		return Gate{State: GateHeld, Reason: "the gate cannot be read"}, database.Wrap("gate", err)
	}
	if g.ReadOnly {
		s.pool.Reset() // its other sessions are likely to be as this one, and who only reads would never find out
	}
	g.State = GateOpen
	if held != nil {
		g.State, g.HeldSince = GateHeld, *held
	} else if g.PausedFor > 0 {
		g.State = GatePaused
	}
	if reason != nil && g.State != GateOpen {
		g.Reason = *reason
	}
	return g, nil
}
