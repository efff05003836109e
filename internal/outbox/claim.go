package outbox

import (
	"context"
	"encoding/json"
	"errors"
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
}

// A claimed batch.
type claimed struct {
	leases []Lease
	// gate is why there are no more of them, as far as the gate is the reason.
	gate GateState
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
		c.gate, c.rest = p.state, p.rest
		if err != nil || p.n == 0 {
			return err
		}
		if c.leases, err = s.lock(ctx, tx, p.n, before.Add(s.lease)); err != nil {
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

// lock leases up to n due requests, the higher priority and then the longer due
// first. The CTE is materialized, or a nested loop may lock far more than n
// (1,330 rows for a limit of 10 were seen). One index probe a priority, so that
// requests not yet due are never read.
func (s *Store) lock(ctx context.Context, tx pgx.Tx, n int, until time.Time) ([]Lease, error) {
	rows, err := tx.Query(ctx, `
		WITH due AS MATERIALIZED (
			SELECT o.id
			  FROM (VALUES (9::smallint), (8), (7), (6), (5), (4), (3), (2), (1), (0)) AS p (priority)
			 CROSS JOIN LATERAL (
				SELECT id FROM outbox
				 WHERE state = 'pending' AND priority = p.priority AND due_at <= now()
				   AND (expires_at IS NULL OR expires_at > now())
				 ORDER BY due_at, id LIMIT $1 FOR UPDATE SKIP LOCKED) AS o
			 LIMIT $1)
		UPDATE outbox
		   SET state = 'sending', due_at = NULL, attempt = attempt + 1,
		       leased_by = $2, leased_until = clock_timestamp() + $3::interval
		  FROM due WHERE outbox.id = due.id
		RETURNING outbox.id, request_id, source, request, coalesce(lookup_key, ''), attempt, spared, received_at, coalesce(traceparent, '')`,
		n, s.worker, s.lease)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (Lease, error) {
		l := Lease{until: until}
		err := row.Scan(&l.ID, &l.RequestID, &l.Source, &l.Request, &l.LookupKey, &l.Attempt, &l.Spared, &l.ReceivedAt, &l.Traceparent)
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
			SELECT due_at FROM outbox
			 WHERE state = 'pending' AND priority = p.priority AND (expires_at IS NULL OR expires_at > now())
			 ORDER BY due_at LIMIT 1) AS o
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
