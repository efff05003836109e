package gate

import (
	"context"
	"encoding/json"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"flexworker/internal/database"
	"flexworker/internal/outbox/request"
)

// State says in one word whether the gate lets requests pass, and if not
// why: the words of /readyz.
type State string

// The states of the gate.
const (
	Open    State = "ok"
	Limited State = "limited" // the fleet's rate is used up for the moment
	Paused  State = "paused"  // Flex asked for a pause: 429 with Retry-After
	Held    State = "held"    // until a person releases it
)

// Status is the row of outbox_gate as people see it.
type Status struct {
	State     State
	Rate      float64       // attempts a second, all replicas; 0: no limit
	PausedFor time.Duration // from now; 0: not paused
	HeldSince time.Time     // zero: not held
	Reason    string
	ChangedBy string
	ChangedAt time.Time
	ReadOnly  bool // Postgres answers and cannot write: a standby, or a database made read-only
}

// MarshalJSON gives names and nulls as everywhere: what does not apply is null.
func (g Status) MarshalJSON() ([]byte, error) {
	out := struct {
		State     State      `json:"state"`
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

// restMost bounds how long a claim rests for the gate: another replica, or a person, may open it.
const restMost = time.Second

// BurstTime is how much unused rate may be kept: the most calls that may begin at
// once are the rate times BurstTime, plus one. It has to cover how late a
// claim can come after its token was due.
const BurstTime = 100 * time.Millisecond

// LongestPause is longer than any pause that Flex can ask for, request.MaxRetryAfter, by a minute: what ends later was
// said by a database's clock that has gone back since, and is over.
const LongestPause = `interval '61 minutes'`

// Burst is the most tokens that can have been saved up.
func Burst(rate float64) float64 { return 1 + rate*BurstTime.Seconds() }

// LockSQL are the first CTEs of a statement that claims: granted is one row, of
// which n is how many calls may begin now, at most $1. Where a rate is set the
// gate's row stays locked until the commit, so that the fleet takes its tokens one
// replica after the other, by the clock after the lock was had. Without one nobody
// waits. Gate and requests are read in one snapshot, or the gate's later. A pause is
// committed before the request returns to pending, so a claim that sees the request sees
// the pause.
// SpendSQL has to follow behind what claims.
const LockSQL = `
	locked AS MATERIALIZED (SELECT * FROM outbox_gate WHERE rate > 0 AND $1::integer > 0 FOR UPDATE),` + refillSQL

// TryLockSQL are the same for a statement that can do without tokens: where it
// would have to wait for the gate's row, granted has no row.
const TryLockSQL = `
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
	granted AS MATERIALIZED (
		SELECT *, CASE WHEN held OR paused > '0' AND paused <= ` + LongestPause + ` THEN 0 ELSE least($1, floor(tokens)::integer) END AS n FROM refilled)`

// SpendSQL notes the tokens that were used: a row of used each. Where the
// database's clock went back, what was saved up counts from now. Who asked for no
// tokens has not locked the gate and leaves it alone.
const SpendSQL = `
	spent AS (
		UPDATE outbox_gate SET tokens = granted.tokens - (SELECT count(*) FROM used), refilled_at = granted.at
		  FROM granted WHERE granted.rate > 0 AND $1 > 0 AND (granted.late OR EXISTS (SELECT FROM used)))`

// Tokens is the row granted: how many calls may begin now, and why no more.
type Tokens struct {
	N            int
	Rate, Tokens float64
	held         bool
	paused       *time.Duration
}

// TokensColumns are what Targets reads.
const TokensColumns = `granted.n, granted.rate, granted.tokens, granted.held, granted.paused`

// Targets are what TokensColumns are scanned into.
func (p *Tokens) Targets() []any {
	return []any{&p.N, &p.Rate, &p.Tokens, &p.held, &p.paused}
}

// State is why there were no more tokens, and how long it makes sense to wait
// for the next; Open when the gate was not the reason.
func (p *Tokens) State() (State, time.Duration) {
	switch {
	case p.held:
		return Held, restMost
	case p.paused != nil && *p.paused > 0 && *p.paused <= request.MaxRetryAfter+time.Minute:
		return Paused, min(*p.paused, restMost)
	case p.N == 0 && p.Rate > 0:
		return Limited, p.UntilNext()
	default:
		return Open, 0
	}
}

// UntilNext is the time until there is a whole token again, where a rate is set; of a
// rate near 0 that is more than a time.Duration holds.
func (p *Tokens) UntilNext() time.Duration {
	seconds := (1 - min(p.Tokens, 1)) / p.Rate
	return time.Duration(min(seconds, restMost.Seconds()) * float64(time.Second))
}

// Pause pauses the gate as far as the outcomes ask for it, before they are recorded and
// apart from that: who has the gate may wait for a row, so who has rows never waits for
// the gate. Where somebody holds the gate's row for longer than patience the outcomes go
// on without: their own requests wait for Retry-After, and the next 429 asks again.
func Pause(ctx context.Context, pool *pgxpool.Pool, by string, d time.Duration, why string) error {
	var b pgx.Batch
	b.Queue(`SELECT ` + database.Patiently)
	b.Queue(pauseSQL, d, request.Text(why), by)
	if err := pool.SendBatch(ctx, &b).Close(); !database.IsLockTrouble(err) {
		return err
	}
	return nil
}

// pauseSQL: The longer pause stands, also behind a hold: it
// goes on when the hold is over.
const pauseSQL = `
		UPDATE outbox_gate
		   SET paused_until = clock_timestamp() + $1::interval,
		       reason = CASE WHEN held_since IS NULL THEN $2 ELSE reason END,
		       changed_by = CASE WHEN held_since IS NULL THEN $3 ELSE changed_by END,
		       changed_at = CASE WHEN held_since IS NULL THEN clock_timestamp() ELSE changed_at END
		 WHERE clock_timestamp() + $1::interval > coalesce(paused_until, '-infinity') OR paused_until > clock_timestamp() + ` + LongestPause

// Read reads the gate. It is also the cheapest question that shows whether
// Postgres answers.
func Read(ctx context.Context, pool *pgxpool.Pool) (Status, error) {
	ctx, cancel := database.Bounded(ctx)
	defer cancel()
	g, err := read(ctx, pool)
	if g.ReadOnly {
		pool.Reset() // its other sessions are likely to be as this one, and who only reads would never find out
	}
	return g, err
}

// ReadLocked reads the gate as it is and, until the transaction ends, stays.
func ReadLocked(ctx context.Context, tx pgx.Tx) (Status, error) {
	if _, err := tx.Exec(ctx, `SELECT FROM outbox_gate FOR UPDATE`); err != nil {
		return Status{}, database.Wrap("gate", err)
	}
	return read(ctx, tx)
}

func read(ctx context.Context, db interface {
	QueryRow(context.Context, string, ...any) pgx.Row
}) (Status, error) {
	var g Status
	var held *time.Time
	var reason *string
	err := db.QueryRow(ctx, `
		SELECT rate, CASE WHEN paused_until - clock_timestamp() BETWEEN '0' AND `+LongestPause+` THEN paused_until - clock_timestamp() ELSE '0' END, held_since, reason, changed_by, changed_at,
		       current_setting('transaction_read_only') = 'on'
		  FROM outbox_gate`).Scan(&g.Rate, &g.PausedFor, &held, &reason, &g.ChangedBy, &g.ChangedAt, &g.ReadOnly)
	if err != nil {
		return Status{State: Held, Reason: "the gate cannot be read"}, database.Wrap("gate", err)
	}
	g.State = Open
	if held != nil {
		g.State, g.HeldSince = Held, *held
	} else if g.PausedFor > 0 {
		g.State = Paused
	}
	if reason != nil && g.State != Open {
		g.Reason = *reason
	}
	return g, nil
}
