package outbox

import (
	"context"
	"encoding/json"
	"errors"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"flexworker/internal/crash"
)

// leaseMargin is what a lease lasts beyond the longest call: time to start the
// call after the claim and to record its outcome.
const leaseMargin = 5 * time.Second

// sendMargin is what must be left of a lease beyond the longest call when the
// call starts.
const sendMargin = time.Second

// Lease is the right to make one attempt: (ID, Attempt) names it.
type Lease struct {
	ID         int64
	RequestID  string
	Source     string
	Request    json.RawMessage
	LookupKey  string
	Attempt    int
	Spared     int
	ReceivedAt time.Time
	// Traceparent is the trace that the request belongs to; "" for none.
	Traceparent string

	// until is the end of the lease on this process's monotonic clock, counted
	// from before the claim: never later than the stored end.
	until time.Time
	// deadline is expires_at on that clock; zero: none.
	deadline time.Time
}

// A claimed batch.
type claimed struct {
	leases []Lease
	// gate is why there are no more of them, as far as the gate is the reason;
	// probed: it is shut until a read succeeds.
	gate   GateState
	probed bool
	// rest is how long it makes sense to wait for more.
	rest time.Duration
}

// claim: pending -> sending. It leases at most slots requests that are due, as
// many as the gate lets pass. When it returns, the intent to send is committed.
// After an error the claim may have committed all the same; what it leased then
// lapses and is uncertain.
func (s *Store) claim(ctx context.Context, slots int) (claimed, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	before := time.Now()
	var c claimed
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		p, err := passes(ctx, tx, slots)
		c.gate, c.rest, c.probed = p.state, p.rest, p.probed
		if err != nil || p.n == 0 {
			return err
		}
		if c.leases, err = s.lease(ctx, tx, p.n, before.Add(s.leaseFor)); err != nil {
			return err
		}
		if len(c.leases) < p.n {
			if c.rest, err = untilDue(ctx, tx); err != nil {
				return err
			}
			c.gate = GateOpen
		}
		crash.At("claiming")
		return p.spend(ctx, tx, len(c.leases))
	})
	crash.At("claimed")
	if err != nil {
		return claimed{}, wrap("claim", err)
	}
	return c, nil
}

// lease takes up to n due requests. Of those that are tried again it takes no
// more than half while there are new ones: a backlog of retries, however old,
// never starves what has just come.
func (s *Store) lease(ctx context.Context, tx pgx.Tx, n int, until time.Time) ([]Lease, error) {
	fresh, again := s.share.split(n)
	leases, err := s.lock(ctx, tx, fresh, again, until)
	if err != nil {
		return nil, err
	}
	retried := 0
	for _, l := range leases {
		if l.Attempt > 1 {
			retried++
		}
	}
	s.share.again.Store(retried > 0)
	if rest := n - len(leases); rest > 0 && again > 0 && len(leases)-retried == fresh {
		// There were fewer to try again than their share; new ones may have it.
		more, err := s.lock(ctx, tx, rest, 0, until)
		return append(leases, more...), err
	}
	return leases, nil
}

// share parts the slots of a claim between new requests and those tried again.
type share struct {
	again atomic.Bool   // the latest claim found some to try again
	turns atomic.Uint32 // of claims
}

// split gives each kind half while both are there. Where the latest claim found
// none to try again they get what new ones leave, and now and then their half,
// so that they are noticed behind any number of new ones.
func (s *share) split(n int) (fresh, again int) {
	turn := s.turns.Add(1)
	if !s.again.Load() && turn%8 != 0 {
		return n, 0
	}
	if turn%2 == 0 {
		return n / 2, n - n/2 // the odd slot alternates
	}
	return n - n/2, n / 2
}

// lock leases up to fresh due requests that were never tried, and again that
// were, or as many more as the first leave; of each the higher priority and then
// the longer due first. The CTEs are materialized, or a nested loop may lock far
// more rows (1,330 for a limit of 10 were seen). One index probe a priority, so
// that requests not yet due are never read.
func (s *Store) lock(ctx context.Context, tx pgx.Tx, fresh, again int, until time.Time) ([]Lease, error) {
	rows, err := tx.Query(ctx, `
		WITH fresh AS MATERIALIZED (
			SELECT o.id
			  FROM (VALUES (9::smallint), (8), (7), (6), (5), (4), (3), (2), (1), (0)) AS p (priority)
			 CROSS JOIN LATERAL (
				SELECT id FROM outbox
				 WHERE state = 'pending' AND attempt = 0 AND priority = p.priority AND due_at <= now()
				   AND (expires_at IS NULL OR expires_at > now())
				 ORDER BY due_at, id LIMIT $1 FOR UPDATE SKIP LOCKED) AS o
			 LIMIT $1),
		again AS MATERIALIZED (
			SELECT o.id
			  FROM (VALUES (9::smallint), (8), (7), (6), (5), (4), (3), (2), (1), (0)) AS p (priority)
			 CROSS JOIN LATERAL (
				SELECT id FROM outbox
				 WHERE state = 'pending' AND attempt > 0 AND priority = p.priority AND due_at <= now()
				   AND (expires_at IS NULL OR expires_at > now())
				 ORDER BY due_at, id LIMIT (SELECT $1 + $2 - count(*) FROM fresh) FOR UPDATE SKIP LOCKED) AS o
			 LIMIT (SELECT $1 + $2 - count(*) FROM fresh)),
		due AS MATERIALIZED (SELECT id FROM fresh UNION ALL SELECT id FROM again)
		UPDATE outbox
		   SET state = 'sending', due_at = NULL, attempt = attempt + 1,
		       leased_by = $3, leased_until = clock_timestamp() + $4::interval,
		       lookup_attribute = CASE WHEN lookup_key IS NOT NULL THEN nullif($5, '') END
		  FROM due WHERE outbox.id = due.id
		RETURNING outbox.id, request_id, source, request, coalesce(lookup_key, ''), attempt, spared, received_at, coalesce(traceparent, ''),
		          expires_at - clock_timestamp()`,
		fresh, again, s.worker, s.leaseFor, s.Attribute)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (Lease, error) {
		l := Lease{until: until}
		var left *time.Duration
		err := row.Scan(&l.ID, &l.RequestID, &l.Source, &l.Request, &l.LookupKey, &l.Attempt, &l.Spared, &l.ReceivedAt, &l.Traceparent, &left)
		if left != nil {
			l.deadline = time.Now().Add(*left)
		}
		return l, err
	})
}

// untilDue is the time until the next pending request is due; idlePoll when
// there is none or it is later than that.
func untilDue(ctx context.Context, tx pgx.Tx) (time.Duration, error) {
	var next time.Duration
	err := tx.QueryRow(ctx, `
		SELECT min(o.due_at) - clock_timestamp()
		  FROM (VALUES (9::smallint), (8), (7), (6), (5), (4), (3), (2), (1), (0)) AS p (priority)
		 CROSS JOIN LATERAL (
			(SELECT due_at FROM outbox
			  WHERE state = 'pending' AND attempt = 0 AND priority = p.priority AND (expires_at IS NULL OR expires_at > now())
			  ORDER BY due_at LIMIT 1)
			UNION ALL
			(SELECT due_at FROM outbox
			  WHERE state = 'pending' AND attempt > 0 AND priority = p.priority AND (expires_at IS NULL OR expires_at > now())
			  ORDER BY due_at LIMIT 1)) AS o
		HAVING min(o.due_at) IS NOT NULL`).Scan(&next)
	if errors.Is(err, pgx.ErrNoRows) {
		return idlePoll, nil
	}
	// A request that is due already is in the hands of another replica's claim.
	return min(max(next, busyPoll), idlePoll), err
}

// putBack: sending -> pending, for leases under which no call was made. It is
// written as an outcome of its own, so that every lease leaves a row.
func (s *Store) putBack(ctx context.Context, l Lease) error {
	_, err := s.record(ctx, record{lease: l, outcome: "put_back", move: move{to: Pending, spared: true}})
	return err
}
