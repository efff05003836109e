package outbox

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"flexworker/internal/database"
	"flexworker/internal/loop"
)

// Ambiguous commits: Postgres, or the connection to it, went between a statement's commit and its
// answer. Whoever sent the statement then knows neither that it was committed nor that it was not.
//
// A lease: each statement that leases has a lease token of its own, the worker's name and a number:
// leased_by. A token whose statement was not answered is in doubt. No call is made under such a
// lease, so whatever bears the token can be reclaimed.
//
// A record: the history is asked whether it stands there.

// inDoubt are the lease tokens of statements whose answer did not come.
type inDoubt struct {
	mu sync.Mutex
	// tokens with the time since when Postgres says that there is no trace of
	// them; zero: it was not asked yet.
	tokens map[string]time.Time
	asked  time.Time
	marked loop.Signal // there is one more
}

// traceless is how long Postgres has to say that there is no trace: at first the
// statement may still be on its way, on a connection that was cut, and then be
// carried out. No statement lasts longer than database.WriteLimit, but for a COMMIT that waits for a
// synchronous standby: a lease that leaves its trace only after this time lapses, and no call was made under it.
const traceless = database.ArriveLimit + database.WriteLimit + 2*time.Second

// leaseToken gives a token that no other statement has.
func (s *Store) leaseToken() string { return fmt.Sprintf("%s/%d", s.worker, s.leased.Add(1)) }

// markInDoubt marks the lease of a statement that has failed as in doubt: its COMMIT may have
// succeeded, unless database.NotCommitted. Callers must not start a call under that lease.
func (s *Store) markInDoubt(token string, err error) {
	if database.NotCommitted(err) || errors.Is(err, errNoGate) {
		return
	}
	s.inDoubt.mu.Lock()
	defer s.inDoubt.mu.Unlock()
	if s.inDoubt.tokens == nil {
		s.inDoubt.tokens = map[string]time.Time{}
	}
	s.inDoubt.tokens[token] = time.Time{}
	s.inDoubt.marked.Raise()
}

// any says whether a lease is in doubt.
func (d *inDoubt) any() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.tokens) > 0
}

// next are the tokens to ask for; none when they were asked for a moment ago.
func (d *inDoubt) next(now time.Time, every time.Duration) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.tokens) == 0 || now.Sub(d.asked) < every {
		return nil
	}
	d.asked = now
	return slices.Collect(maps.Keys(d.tokens))
}

// answered notes what Postgres has answered: done are those whose leases it had. They were
// all committed together, so there are no more of them. held are those of which it
// has some that could not be reclaimed yet.
func (d *inDoubt) answered(asked, done, held []string, now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, token := range asked {
		switch since := d.tokens[token]; {
		case slices.Contains(held, token):
			d.tokens[token] = time.Time{}
		case since.IsZero():
			d.tokens[token] = now
		case now.Sub(since) >= traceless:
			delete(d.tokens, token)
		}
	}
	for _, token := range done {
		delete(d.tokens, token)
	}
}

// forget gives up on tokens: what was leased under them lapses.
func (d *inDoubt) forget(tokens []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, token := range tokens {
		delete(d.tokens, token)
	}
}

// reclaiming reclaims leases in doubt until ctx ends: at once when one is marked, and then each idlePoll until
// Postgres has told of each, or has said for traceless that there is no trace.
func (d *Dispatcher) reclaiming(ctx context.Context) {
	for ctx.Err() == nil {
		d.reclaim(ctx, idlePoll)
		rest := longestRest
		if d.Store.inDoubt.any() {
			rest = idlePoll
		}
		loop.Rest(ctx, rest, d.Store.inDoubt.marked)
	}
}

// reclaim asks once for all leases in doubt. It does nothing when they were asked for less than every ago.
func (d *Dispatcher) reclaim(ctx context.Context, every time.Duration) {
	asked := d.Store.inDoubt.next(time.Now(), every)
	if len(asked) == 0 {
		return
	}
	moved, done, held, err := d.Store.reclaim(ctx, asked)
	switch {
	case Away(err):
		// As it was for the statement that failed. The next claim says why.
	case err != nil:
		d.Log.Error("leases in doubt cannot be reclaimed; they lapse", "error", err)
		d.Store.inDoubt.forget(asked)
	default:
		d.Store.inDoubt.answered(asked, done, held, time.Now())
	}
	if moved > 0 {
		d.Log.Info("leases in doubt are reclaimed", "requests", moved)
		d.Counters.Released.Add(int64(moved))
		d.Store.Due.Raise()
	}
}

// reclaim: sending, or lapsed -> pending, for what was leased under tokens that are
// in doubt: no call was made, and the attempt is uncounted. It returns how
// many requests it has moved, the tokens that are done with, and those of which
// somebody holds a request locked: ask for these again.
//
// The token alone names such a lease. By (id, attempt) it cannot be named:
// nobody knows the ids, and where the statement was not committed the next claim
// has the same number. From there on (id, attempt) is enough: it is sending under
// that token or, if it lapsed meanwhile, uncertain, until somebody decides. What a
// person cancelled meanwhile is cancelled, not pending; where an earlier attempt may have
// created it, lookups go on.
func (s *Store) reclaim(ctx context.Context, tokens []string) (moved int, done, held []string, err error) {
	ctx, cancel := database.Bounded(ctx)
	defer cancel()
	rows, err := s.pool.Query(ctx, `/* reclaim */
		WITH doubted AS MATERIALIZED (
			SELECT id, attempt, leased_by AS token FROM outbox
			 WHERE state = 'sending' AND leased_by = ANY ($1)
			UNION ALL
			SELECT o.id, o.attempt, a.worker FROM outbox o
			 CROSS JOIN LATERAL (
				SELECT worker FROM outbox_attempts
				 WHERE outbox_id = o.id AND kind = 'attempt' AND number = o.attempt AND outcome = 'lapsed' AND worker = ANY ($1)
				 LIMIT 1) AS a
			 WHERE o.state = 'uncertain' AND o.ends_as IS NULL AND NOT (o.undecided AND o.cancel_requested_at IS NOT NULL)),
		standing AS MATERIALIZED (
			SELECT o.id, u.token, coalesce(o.leased_until, o.uncertain_since) AS until
			  FROM outbox o JOIN doubted u ON u.id = o.id
			 WHERE o.attempt = u.attempt AND o.state IN ('sending', 'uncertain')
			 ORDER BY o.id FOR UPDATE OF o SKIP LOCKED),
		moved AS (
			UPDATE outbox o
			   SET state = CASE WHEN cancel_requested_at IS NULL THEN 'pending' ELSE 'cancelled' END, leased_by = NULL, leased_until = NULL,
			       due_at = CASE WHEN cancel_requested_at IS NULL THEN clock_timestamp() END, uncounted = least(uncounted + 1, attempt), for_person_since = NULL,
			       settled_at = CASE WHEN cancel_requested_at IS NOT NULL THEN clock_timestamp() END,
			       resolved_by = CASE WHEN cancel_requested_at IS NOT NULL THEN 'operator' END,
			       error_kind = CASE WHEN cancel_requested_at IS NOT NULL THEN 'cancelled' END,
			       error_message = CASE WHEN cancel_requested_at IS NOT NULL THEN 'cancelled' END, http_status = NULL, twilio_code = NULL, twilio_request_id = NULL,
			       answered = undecided AND answered, lookups = CASE WHEN o.state = 'uncertain' THEN o.lookups + 1 ELSE 0 END, announced_at = NULL
			  FROM standing WHERE o.id = standing.id
			RETURNING o.id, o.attempt, standing.token, CASE WHEN o.undecided THEN standing.until - $3::interval ELSE o.attempt_began_at END AS began),
		history AS (
			INSERT INTO outbox_attempts (outbox_id, kind, number, worker, started_at, outcome, applied)
			SELECT id, 'attempt', attempt, $2, began, 'released', true FROM moved)
		SELECT token, false FROM moved
		UNION ALL
		SELECT token, true FROM doubted WHERE id NOT IN (SELECT id FROM standing)`, tokens, s.worker, s.leaseFor)
	if err != nil {
		return 0, nil, nil, database.Wrap("reclaim", err)
	}
	var token string
	var isHeld bool
	_, err = pgx.ForEachRow(rows, []any{&token, &isHeld}, func() error {
		if isHeld {
			held = append(held, token)
		} else {
			moved++
			done = append(done, token)
		}
		return nil
	})
	if err != nil {
		return 0, nil, nil, database.Wrap("reclaim", err)
	}
	done = slices.DeleteFunc(done, func(token string) bool { return slices.Contains(held, token) })
	return moved, done, held, nil
}
