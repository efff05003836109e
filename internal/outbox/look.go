package outbox

import (
	"context"
	"log/slog"

	"flexworker/internal/database"
	"flexworker/internal/loop"
	"flexworker/internal/outbox/gate"
	"flexworker/internal/outbox/results"
	"flexworker/internal/trouble"
)

// Lookout asks the table, for all loops of this process in one statement, whether
// there is something for them, and wakes those for whom there is. Hints within
// the process are faster and may be lost; correctness rests on this poll. A
// replica that has nothing to do asks Postgres nothing else.
type Lookout struct {
	Store *Store
	// Registry is renewed with each look; nil: this process is no worker of a fleet.
	Registry *gate.Registry
	Log      *slog.Logger

	looking, renewing trouble.Trouble
}

// Run looks until ctx ends.
func (l *Lookout) Run(ctx context.Context) {
	for ctx.Err() == nil {
		err := l.Store.look(ctx)
		l.looking.Tell(l.Log, "the table cannot be looked at; trying again", err)
		// Also while the table is locked: what this worker says of itself is then what people look for.
		if (err == nil || database.IsLockTrouble(err)) && l.Registry != nil {
			l.renewing.Tell(l.Log, "this worker's row of outbox_replicas cannot be renewed; trying again", l.Registry.Renew(ctx))
		}
		loop.Rest(ctx, loop.Jittered(gate.RenewEvery), nil)
	}
}

// look wakes whom something waits for. Each question is answered by the first row
// of one loop's partial index.
func (s *Store) look(ctx context.Context) error {
	ctx, cancel := database.Bounded(ctx)
	defer cancel()
	var due, overdue, doubtful, stray, unanswered bool
	err := s.pool.QueryRow(ctx, `/* look */
		SELECT EXISTS (SELECT FROM outbox WHERE state = 'pending' AND attempt = 0 AND priority = ANY ('{0,1,2,3,4,5,6,7,8,9}') AND due_at <= now())
		       OR EXISTS (SELECT FROM outbox WHERE state = 'pending' AND attempt > 0 AND priority = ANY ('{0,1,2,3,4,5,6,7,8,9}') AND due_at <= now()),
		       EXISTS (SELECT FROM outbox WHERE state = 'sending' AND leased_until < now())
		       OR EXISTS (SELECT FROM outbox WHERE state = 'pending' AND expires_at <= now()),
		       EXISTS (SELECT FROM outbox WHERE state = 'uncertain' AND due_at <= now()),
		       EXISTS (SELECT FROM outbox WHERE settled_at IS NOT NULL AND published_at IS NULL AND settled_at < now() - $1::interval)
		       OR EXISTS (SELECT FROM outbox WHERE state = 'uncertain' AND `+results.ForPerson+` AND announced_at IS NULL),
		       EXISTS (SELECT FROM outbox_malformed WHERE published_at IS NULL)
		       OR EXISTS (SELECT FROM outbox_repeats r JOIN outbox o ON o.id = r.outbox_id WHERE r.published_at IS NULL AND o.settled_at IS NOT NULL)`,
		results.StrayAge).Scan(&due, &overdue, &doubtful, &stray, &unanswered)
	if err != nil {
		return database.Wrap("look", err)
	}
	for _, l := range []struct {
		waits bool
		loop  loop.Signal
	}{{due, s.Due}, {overdue, s.overdue}, {doubtful, s.Lookups.Waiting}, {stray, s.Results.Stray}, {unanswered, s.Results.Asked}} {
		if l.waits {
			l.loop.Raise()
		}
	}
	return nil
}
