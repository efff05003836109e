package outbox

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"flexworker/internal/database"
)

// Each statement that leases signs with a signature of its own, the worker's name
// and a number: leased_by. When Postgres, or the connection to it, goes between
// the statement's commit and its answer, nobody here knows what was leased, if
// anything was. But no call is made under it, so whatever bears that signature
// can be taken back.

// untold are the signatures of statements whose answer did not come.
type untold struct {
	mu sync.Mutex
	// signatures with the time since when Postgres says that there is no trace of
	// them; zero: it was not asked yet.
	signatures map[string]time.Time
	asked      time.Time
}

// traceless is how long Postgres has to say that there is no trace: at first the
// statement may still be on its way, on a connection that was cut, and then be
// carried out. No statement lasts longer than writeLimit.
const traceless = database.ArriveLimit + database.WriteLimit + 2*time.Second

// sign gives a signature that no other statement has.
func (s *Store) sign() string { return fmt.Sprintf("%s/%d", s.worker, s.signed.Add(1)) }

// notTold notes that a statement which leases has failed: it may be committed all
// the same, unless that is known (notCommitted). Whoever says so must begin nothing
// that was leased by it.
func (s *Store) notTold(signature string, err error) {
	if notCommitted(err) || errors.Is(err, errNoGate) {
		return
	}
	s.untold.mu.Lock()
	defer s.untold.mu.Unlock()
	if s.untold.signatures == nil {
		s.untold.signatures = map[string]time.Time{}
	}
	s.untold.signatures[signature] = time.Time{}
	s.Due.Raise() // the Deliverer may rest for long
}

// notCommitted says whether a statement that failed is surely not committed: it never
// left, or Postgres has answered it with an error, which rolls back. An error that ends
// the session is no such answer: it may come while the commit waits for a standby. Nor
// is one of class 08, of a pooler that has lost the server.
func notCommitted(err error) bool {
	var never *pgconn.ConnectError
	var said *pgconn.PgError
	return errors.As(err, &never) || pgconn.SafeToRetry(err) ||
		errors.As(err, &said) && !database.Fatal(said) && !strings.HasPrefix(said.Code, "08")
}

// any says whether there is something to take back, or may be.
func (u *untold) any() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.signatures) > 0
}

// next are the signatures to ask for; none when they were asked for a moment ago.
func (u *untold) next(now time.Time, every time.Duration) []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.signatures) == 0 || now.Sub(u.asked) < every {
		return nil
	}
	u.asked = now
	all := make([]string, 0, len(u.signatures))
	for signature := range u.signatures {
		all = append(all, signature)
	}
	return all
}

// told notes what Postgres has answered: done are those whose leases it had. They were
// all committed together, so there are no more of them. held are those of which it
// has some that could not be taken back yet.
func (u *untold) told(asked, done, held []string, now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, signature := range asked {
		switch since := u.signatures[signature]; {
		case slices.Contains(held, signature):
			u.signatures[signature] = time.Time{}
		case since.IsZero():
			u.signatures[signature] = now
		case now.Sub(since) >= traceless:
			delete(u.signatures, signature)
		}
	}
	for _, signature := range done {
		delete(u.signatures, signature)
	}
}

// forget gives up on signatures: what was leased under them lapses.
func (u *untold) forget(signatures []string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, signature := range signatures {
		delete(u.signatures, signature)
	}
}

// takeBack: sending, or lapsed -> pending, for what was leased under signatures of
// which nobody was told: no call was made, and the attempt is spared. It returns how
// many requests it has moved, the signatures that are done with, and those of which
// somebody holds a request locked: ask for these again.
//
// The signature alone names such a lease. By (id, attempt) it cannot be named:
// nobody knows the ids, and where the statement was not committed the next claim
// has the same number. From there on (id, attempt) is enough: it is sending under
// that signature or, if it lapsed meanwhile, uncertain, until somebody decides. What a
// person cancelled meanwhile is cancelled, not pending; where an earlier attempt may have
// created it, lookups go on.
func (s *Store) takeBack(ctx context.Context, signatures []string) (moved int, done, held []string, err error) {
	ctx, cancel := database.Bounded(ctx)
	defer cancel()
	rows, err := s.pool.Query(ctx, `/* take back */
		WITH untold AS MATERIALIZED (
			SELECT id, attempt, leased_by AS signature FROM outbox
			 WHERE state = 'sending' AND leased_by = ANY ($1)
			UNION ALL
			SELECT o.id, o.attempt, a.worker FROM outbox o
			 CROSS JOIN LATERAL (
				SELECT worker FROM outbox_attempts
				 WHERE outbox_id = o.id AND kind = 'attempt' AND number = o.attempt AND outcome = 'lapsed' AND worker = ANY ($1)
				 LIMIT 1) AS a
			 WHERE o.state = 'uncertain' AND o.ends_as IS NULL AND NOT (o.undecided AND o.cancel_requested_at IS NOT NULL)),
		standing AS MATERIALIZED (
			SELECT o.id, u.signature, coalesce(o.leased_until, o.uncertain_since) AS until
			  FROM outbox o JOIN untold u ON u.id = o.id
			 WHERE o.attempt = u.attempt AND o.state IN ('sending', 'uncertain')
			 ORDER BY o.id FOR UPDATE OF o SKIP LOCKED),
		moved AS (
			UPDATE outbox o
			   SET state = CASE WHEN cancel_requested_at IS NULL THEN 'pending' ELSE 'cancelled' END, leased_by = NULL, leased_until = NULL,
			       due_at = CASE WHEN cancel_requested_at IS NULL THEN clock_timestamp() END, spared = least(spared + 1, attempt), for_person_since = NULL,
			       settled_at = CASE WHEN cancel_requested_at IS NOT NULL THEN clock_timestamp() END,
			       resolved_by = CASE WHEN cancel_requested_at IS NOT NULL THEN 'operator' END,
			       error_kind = CASE WHEN cancel_requested_at IS NOT NULL THEN 'cancelled' END,
			       error_message = CASE WHEN cancel_requested_at IS NOT NULL THEN 'cancelled by an operator' END, http_status = NULL, twilio_code = NULL, twilio_request_id = NULL,
			       answered = undecided AND answered, lookups = CASE WHEN o.state = 'uncertain' THEN o.lookups + 1 ELSE 0 END, announced_at = NULL
			  FROM standing WHERE o.id = standing.id
			RETURNING o.id, o.attempt, standing.signature, CASE WHEN o.undecided THEN standing.until - $3::interval ELSE o.attempt_began_at END AS began),
		history AS (
			INSERT INTO outbox_attempts (outbox_id, kind, number, worker, started_at, outcome, applied)
			SELECT id, 'attempt', attempt, $2, began, 'put_back', true FROM moved)
		SELECT signature, false FROM moved
		UNION ALL
		SELECT signature, true FROM untold WHERE id NOT IN (SELECT id FROM standing)`, signatures, s.worker, s.leaseFor)
	if err != nil {
		return 0, nil, nil, database.Wrap("take back", err)
	}
	var signature string
	var isHeld bool
	_, err = pgx.ForEachRow(rows, []any{&signature, &isHeld}, func() error {
		if isHeld {
			held = append(held, signature)
		} else {
			moved++
			done = append(done, signature)
		}
		return nil
	})
	if err != nil {
		return 0, nil, nil, database.Wrap("take back", err)
	}
	done = slices.DeleteFunc(done, func(signature string) bool { return slices.Contains(held, signature) })
	return moved, done, held, nil
}
