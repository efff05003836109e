package outbox

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// recheckBatch is how many requests Recheck moves in one transaction.
const recheckBatch = 1000

// ErrNotHeld is returned by Recheck while the fleet may send: what it asks about could be
// sent before it is asked.
var ErrNotHeld = errors.New("outbox: the fleet is not held")

// Rechecked is what Recheck moves, or would move.
type Rechecked struct {
	LookedUp  int `json:"looked_up"`  // become uncertain, or were, and are looked up
	ForPerson int `json:"for_person"` // have no task to look for: a person decides
}

// recheckable: what may have been sent in the time that was lost. A request that was
// pending when the tables were last as they are now may have been claimed since, whenever
// it was received; one that was uncertain may have been proved absent and sent again. Not
// before not_before, which nothing goes round.
const recheckable = `(state = 'pending' AND coalesce(` + notBefore + `, '-infinity') <= clock_timestamp() OR state = 'uncertain'
	OR state = 'sending' AND leased_until <= clock_timestamp())`

// Recheck moves what is pending, lapsed or uncertain to uncertain, after the tables have lost
// what was written from since on: a failover to a standby that lagged, or a restore. Each request
// that may have been sent in that time is looked up before it is sent, and the lost
// attempt, if there was one, counts as made at any moment from since until now. It has a
// number of its own, so that a record which its holder still has is of no later attempt.
// What has no task to look for waits for a person.
//
// A request that the stream delivered again to a table which had lost it is one of these:
// then its message is older than its row, and so may its task be.
//
// attribute is the task attribute that calls of that time carried their keys in; "": that
// of the worker which was seen last. dry: nothing is changed.
func (s *Store) Recheck(ctx context.Context, a Act, since time.Time, attribute string, dry bool) (Rechecked, error) {
	var sum Rechecked
	var held bool
	var leases *time.Time
	var ids []int64
	err := s.pool.QueryRow(ctx, `
		SELECT (SELECT held_since IS NOT NULL FROM outbox_gate),
		       (SELECT max(leased_until) FROM outbox WHERE state = 'sending' AND leased_until > clock_timestamp()),
		       coalesce((SELECT array_agg(id ORDER BY id) FROM outbox WHERE `+recheckable+`), '{}'),
		       (SELECT count(*) FROM outbox WHERE `+recheckable+` AND lookup_key IS NOT NULL),
		       (SELECT count(*) FROM outbox WHERE `+recheckable+` AND lookup_key IS NULL)`).Scan(&held, &leases, &ids, &sum.LookedUp, &sum.ForPerson)
	switch {
	case err != nil:
		return Rechecked{}, wrap("recheck", err)
	case !held:
		return Rechecked{}, ErrNotHeld
	case leases != nil:
		return Rechecked{}, fmt.Errorf("%w: calls are still under way; their leases end at %s: try again then", ErrRefused, clock(*leases))
	case dry:
		return sum, nil
	}
	sum = Rechecked{}
	for from := 0; from < len(ids); from += recheckBatch {
		rows, err := s.pool.Query(ctx, recheckSQL, ids[from:min(from+recheckBatch, len(ids))], since, attribute, a.Who, a.Why)
		if err != nil {
			return sum, wrap("recheck", err)
		}
		var person bool
		_, err = pgx.ForEachRow(rows, []any{&person}, func() error {
			if person {
				sum.ForPerson++
			} else {
				sum.LookedUp++
			}
			return nil
		})
		if err != nil {
			return sum, wrap("recheck", err)
		}
	}
	return sum, nil
}

const recheckSQL = `
	WITH chosen AS MATERIALIZED (
		SELECT id, state AS was, leased_by AS holder FROM outbox WHERE id = ANY ($1) AND ` + recheckable + ` ORDER BY id FOR UPDATE),
	sent AS MATERIALIZED (
		SELECT coalesce(nullif($3, ''), (SELECT lookup_attribute FROM outbox_replicas ORDER BY seen_at DESC LIMIT 1), 'interaction_request') AS attribute),
	moved AS (
		UPDATE outbox o
		   SET state = 'uncertain', leased_by = NULL, leased_until = NULL,
		       attempt = attempt + CASE WHEN was = 'pending' THEN 1 ELSE 0 END,
		       spared = spared + CASE WHEN was = 'pending' THEN 1 ELSE 0 END,
		       received_at = least(received_at, stream_time),
		       attempt_began_at = CASE WHEN was = 'pending' AND NOT undecided THEN $2 ELSE least(attempt_began_at, $2) END,
		       uncertain_since = clock_timestamp(), lookups = 0,
		       answered = answered AND was = 'uncertain', announced_at = CASE WHEN was = 'uncertain' THEN announced_at END,
		       lookup_attribute = CASE WHEN lookup_key IS NOT NULL THEN coalesce(lookup_attribute, sent.attribute) END,
		       due_at = CASE WHEN lookup_key IS NOT NULL THEN clock_timestamp() END,
		       for_person_since = CASE WHEN lookup_key IS NULL THEN coalesce(for_person_since, clock_timestamp()) ELSE for_person_since END,
		       error_kind = 'lost', http_status = NULL, twilio_code = NULL, twilio_request_id = NULL,
		       error_message = 'what was written here from ' || to_char($2 AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') || ' UTC on was lost: it may have been sent since'
		  FROM chosen, sent WHERE o.id = chosen.id
		RETURNING o.id, o.request_id, o.attempt, o.lookup_key, o.error_message, was, holder),
	history AS (
		INSERT INTO outbox_attempts (outbox_id, kind, number, worker, started_at, outcome, error, applied)
		SELECT id, 'attempt', attempt, coalesce(holder, $4), $2, CASE WHEN was = 'pending' THEN 'lost' ELSE 'lapsed' END, error_message, true
		  FROM moved WHERE was <> 'uncertain'),
	acts AS (
		INSERT INTO outbox_acts (who, why, act, request_id, was) SELECT $4, $5, 'recheck', request_id, was FROM moved)
	SELECT lookup_key IS NULL FROM moved`
