package upkeep

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"flexworker/internal/crash"
	"flexworker/internal/database"
	"flexworker/internal/loop"
	"flexworker/internal/outbox/gate"
	"flexworker/internal/outbox/results"
	"flexworker/internal/trouble"
)

const (
	// SweepBatch is how many rows of one kind one statement moves.
	SweepBatch = 500
	// sweepMost is how many batches one turn takes: a backlog of one kind must not
	// keep the others waiting.
	sweepMost = 20
	// LapsedRest is how long a lapsed request rests before its first lookup. When
	// Postgres was away its holder lives, and knows what a lookup can at best find
	// out: it records that, or takes the lease back, within a try or two.
	LapsedRest = 4 * time.Second
)

// Sweep moves leases that ran out, requests whose deadline passed, and times that the clock cannot have said, until ctx ends.
func (u *Upkeep) Sweep(ctx context.Context) {
	clock := time.NewTimer(loop.Jittered(clockFirst)) // the clock may have gone back before this process started
	defer clock.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-u.WentBack:
			u.setAllBack(ctx, true)
		case <-clock.C:
			u.setAllBack(ctx, false)
			clock.Reset(loop.Jittered(clockEvery))
		case <-u.Overdue:
			u.sweep(ctx, "lapse", u.Lapse, &u.Counters.Lapsed, &u.lapsing, &u.lapses)
			u.sweep(ctx, "expire", u.Expire, &u.Counters.Expired, &u.expiring, &u.expiries)
		}
	}
}

// setAllBack sets right what the database's clock said before it went back.
func (u *Upkeep) setAllBack(ctx context.Context, back bool) {
	more := true
	for batch := 0; more && batch < sweepMost && ctx.Err() == nil; batch++ {
		var n int
		var err error
		n, more, err = u.SetBack(ctx, back)
		u.setting.Tell(u.Log, "times that the database's clock cannot have said cannot be set right; trying again", err)
		if err != nil {
			return
		}
		if n > 0 {
			u.Log.Warn("the database's clock went back: what it had said before is set right", "rows", n)
			u.Due.Raise()
			u.Uncertain.Raise()
		}
	}
}

// sweep repeats one step until it finds less than a batch, or it is the others' turn.
func (u *Upkeep) sweep(ctx context.Context, step string, do func(context.Context) (int, error), count *atomic.Int64, failing *trouble.Trouble, stall *gate.Stall) {
	n := SweepBatch
	for batch := 0; n == SweepBatch && batch < sweepMost && ctx.Err() == nil; batch++ {
		var err error
		began := time.Now()
		n, err = do(ctx)
		err = stall.Tried(ctx, u.pool, began, err)
		failing.Tell(u.Log, "sweeping failed; trying again", err, "step", step)
		if err != nil {
			return
		}
		count.Add(int64(n))
		if n > 0 {
			u.Log.Info("swept", "step", step, "requests", n)
		}
	}
}

// Lapse moves sending -> uncertain, where the lease ran out: its holder died, or
// cannot reach Postgres. Nobody knows whether it sent. The attempt could have
// been under way until the lease's end.
func (u *Upkeep) Lapse(ctx context.Context) (int, error) {
	return u.move(ctx, "lapse", `
		WITH over AS MATERIALIZED (
			SELECT id, leased_by, leased_until FROM outbox
			 WHERE state = 'sending' AND leased_until < clock_timestamp()
			 ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED),
		moved AS (
			UPDATE outbox o
			   SET state = 'uncertain', leased_by = NULL, leased_until = NULL, due_at = clock_timestamp() + $3::interval,
			       uncertain_since = over.leased_until, answered = undecided AND answered, lookups = 0, announced_at = NULL,
			       error_kind = 'lapsed', http_status = NULL, twilio_code = NULL, twilio_request_id = NULL,
			       error_message = 'worker ' || over.leased_by || ' claimed it and has not recorded what came of the call'
			  FROM over WHERE o.id = over.id
			RETURNING over.leased_by AS lapsed_by, CASE WHEN o.undecided THEN over.leased_until - $2::interval ELSE o.attempt_began_at END AS began, `+results.SettledColumns+`),
		history AS (
			INSERT INTO outbox_attempts (outbox_id, kind, number, worker, started_at, outcome, error, applied)
			SELECT id, 'attempt', attempt, lapsed_by, began, 'lapsed', error_message, true FROM moved)
		SELECT `+results.SettledNames+` FROM moved`, SweepBatch, u.leaseFor, LapsedRest)
}

// Expire moves pending -> expired, where the deadline passed. It says how far the request
// had come: a lease under which no call was made is no attempt. Or -> uncertain, where an
// earlier attempt may have created it: what came of that is found out before it is said. What
// is pending and not undecided is proved absent, or Flex has refused it.
func (u *Upkeep) Expire(ctx context.Context) (int, error) {
	return u.move(ctx, "expire", expireSQL, SweepBatch)
}

const expireSQL = `
	WITH over AS MATERIALIZED (
		SELECT id FROM outbox
		 WHERE state = 'pending' AND expires_at <= now()
		 ORDER BY expires_at, id LIMIT $1 FOR UPDATE SKIP LOCKED)
	UPDATE outbox o
	   SET state = CASE WHEN undecided THEN 'uncertain' ELSE 'expired' END, due_at = CASE WHEN undecided THEN clock_timestamp() END,
	       settled_at = CASE WHEN NOT undecided THEN clock_timestamp() END, error_kind = 'expired',
	       ends_as = CASE WHEN undecided THEN 'expired' END, lookups = lookups + 1, announced_at = NULL,
	       attempt_began_at = coalesce(attempt_began_at, received_at), uncertain_since = coalesce(uncertain_since, clock_timestamp()),
	       error_message = 'expires_at passed ' || coalesce((
	              SELECT format('after %s; the last one: %s', CASE count(*) WHEN 1 THEN 'one attempt' ELSE count(*) || ' attempts' END,
	                            (array_agg(a.outcome || coalesce(', ' || a.error, '') ORDER BY a.id DESC))[1])
	                     || CASE WHEN o.undecided THEN '' ELSE '; its attempts are proved to have created nothing' END
	                FROM outbox_attempts a WHERE a.outbox_id = o.id AND a.kind = 'attempt' AND a.applied AND a.outcome <> 'released'
	              HAVING count(*) > 0), 'before it was sent')
	  FROM over WHERE o.id = over.id
	RETURNING ` + results.SettledColumns

// move runs a statement that returns the rows it moved, and offers their
// results.
func (u *Upkeep) move(ctx context.Context, step, sql string, args ...any) (int, error) {
	ctx, cancel := database.Bounded(ctx)
	defer cancel()
	rows, err := u.pool.Query(ctx, sql, args...)
	if err != nil {
		return 0, database.Wrap(step, err)
	}
	moved, err := pgx.CollectRows(rows, results.ScanSettled)
	if err != nil {
		return 0, database.Wrap(step, err)
	}
	if len(moved) > 0 {
		crash.At("swept")
	}
	for i := range moved {
		if moved[i].Owed() {
			u.Results.Offer(&moved[i])
		}
	}
	return len(moved), nil
}
