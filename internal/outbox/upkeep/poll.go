package upkeep

import (
	"context"
	"time"

	"flexworker/internal/database"
	"flexworker/internal/loop"
	"flexworker/internal/outbox/gate"
	"flexworker/internal/outbox/results"
)

// Poll asks until ctx ends. A replica that has nothing to do asks Postgres nothing else.
func (u *Upkeep) Poll(ctx context.Context) {
	for ctx.Err() == nil {
		began := time.Now()
		err := u.polls.Tried(ctx, u.pool, began, u.PollOnce(ctx))
		u.polling.Tell(u.Log, "the table cannot be looked at; trying again", err)
		// Also while the table is locked: what this worker says of itself is then what people look for.
		if (err == nil || database.IsLockTrouble(err)) && u.Registry != nil {
			began = time.Now()
			err = u.renewals.Tried(ctx, u.pool, began, u.Registry.Renew(ctx))
			u.renewing.Tell(u.Log, "this worker's row of outbox_replicas cannot be renewed; trying again", err)
		}
		loop.Rest(ctx, loop.Jittered(gate.RenewEvery), nil)
	}
}

// pollSQL asks, and pollPastSQL is the same while somebody holds outbox_malformed, outbox_repeats or outbox_setups: it takes it
// that something waits there. Whoever reads that finds out.
var (
	pollSQL = pollStatement(`EXISTS (SELECT FROM outbox_malformed WHERE published_at IS NULL)
		       OR EXISTS (SELECT FROM outbox_repeats r JOIN outbox o ON o.id = r.outbox_id WHERE r.published_at IS NULL AND o.settled_at IS NOT NULL)`,
		`EXISTS (SELECT FROM outbox_setups WHERE word IS NOT NULL AND published_at IS NULL)`)
	pollPastSQL = pollStatement(`true`, `true`)
)

func pollStatement(unanswered, words string) string {
	return `/* poll */
		SELECT EXISTS (SELECT FROM outbox WHERE state = 'pending' AND attempt = 0 AND priority = ANY ('{0,1,2,3,4,5,6,7,8,9}') AND due_at <= now())
		       OR EXISTS (SELECT FROM outbox WHERE state = 'pending' AND attempt > 0 AND priority = ANY ('{0,1,2,3,4,5,6,7,8,9}') AND due_at <= now()),
		       EXISTS (SELECT FROM outbox WHERE state = 'sending' AND leased_until < now())
		       OR EXISTS (SELECT FROM outbox WHERE state = 'pending' AND expires_at <= now()),
		       EXISTS (SELECT FROM outbox WHERE state = 'uncertain' AND due_at <= now()),
		       EXISTS (SELECT FROM outbox WHERE settled_at IS NOT NULL AND published_at IS NULL AND settled_at < now() - $1::interval)
		       OR EXISTS (SELECT FROM outbox WHERE state = 'uncertain' AND ` + results.ForPerson + ` AND announced_at IS NULL),
		       ` + unanswered + `, ` + words
}

// PollOnce wakes the loops for which something waits. Each question is answered by the first row
// of one loop's partial index.
func (u *Upkeep) PollOnce(ctx context.Context) error {
	if !u.wary.Now() {
		err := u.ask(ctx, pollSQL)
		if !database.RowsLocked(ctx, u.pool, err, "outbox") { // else another of our tables is held, and what needs none of it goes on
			return err
		}
		u.wary.Met()
	}
	return u.ask(ctx, pollPastSQL)
}

func (u *Upkeep) ask(ctx context.Context, sql string) error {
	ctx, cancel := database.Bounded(ctx)
	defer cancel()
	var due, overdue, uncertain, left, unanswered, words bool
	err := u.pool.QueryRow(ctx, sql, results.UnpublishedAge).Scan(&due, &overdue, &uncertain, &left, &unanswered, &words)
	if err != nil {
		return database.Wrap("poll", err)
	}
	for _, l := range []struct {
		waits bool
		loop  loop.Signal
	}{{due, u.Due}, {overdue, u.Overdue}, {uncertain, u.Uncertain}, {left, u.Results.Left}, {unanswered, u.Results.Asked}, {words, u.Results.Words}} {
		if l.waits {
			l.loop.Raise()
		}
	}
	return nil
}
