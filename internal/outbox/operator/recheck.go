package operator

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"flexworker/internal/database"
	"flexworker/internal/outbox/request"
)

// recheckBatch is how many requests Recheck moves in one transaction.
const recheckBatch = 1000

// ErrNotHeld is returned by Recheck while the fleet may send: what it asks about could be
// sent before it is asked.
var ErrNotHeld = errors.New("outbox: the fleet is not held")

// Rechecked is what Recheck moves and marks, or would.
type Rechecked struct {
	LookedUp  int `json:"looked_up"`            // become uncertain, or were, and are looked up
	ForPerson int `json:"for_person"`           // have no task to look for: a person decides
	IfRetried int `json:"looked_up_if_retried"` // have settled unsent: their answers stay, and a retry looks first
}

// recheckable: what may have been sent in the time that was lost. The state stands first: the
// text of a request is read for few. A request that was
// pending when the tables were last as they are now may have been claimed since, whenever
// it was received; one that was uncertain may have been proved absent and sent again. Not
// before not_before, which nothing goes round.
//
// So may every request that has settled without an interaction, whenever that was. What
// settled since then was pending until then: its deadline passed, or a person cancelled
// it, before anybody rechecked. What settled earlier may have been retried in that time: the
// act was lost with the rest, and nothing that is left says that there was none. The only
// bound is RETENTION. A mark costs one lookup, and only where somebody retries. What the
// check refused (faults) no retry sends.
const recheckable = `((state = 'pending' OR ` + unsentEnd + `) AND coalesce(` + request.NotBeforeSQL + `, '-infinity') <= clock_timestamp()
	OR state = 'uncertain' OR state = 'sending' AND leased_until <= clock_timestamp())`

// unsentEnd: settled without an interaction, and a retry would send it.
const unsentEnd = `(state IN ('rejected', 'abandoned', 'expired', 'cancelled') AND faults IS NULL)`

// undecidedYet: an attempt of which the row knows was not decided, whatever was lost.
const undecidedYet = `(state IN ('sending', 'uncertain') OR undecided OR ` + undecidedEnd + `)`

// carriedUnder is the task attribute under which a rechecked request is looked for, null
// where it has no task to look for. $1 is the attribute of the lost time, empty where its
// calls carried no key. That of an attempt which is undecided yet stays.
const carriedUnder = `CASE WHEN lookup_key IS NOT NULL THEN coalesce(CASE WHEN ` + undecidedYet + ` THEN lookup_attribute END, nullif($1, '')) END`

// Recheck moves what is pending, lapsed or uncertain to uncertain, after the tables have lost
// what was written from since on: a failover to a standby that lagged, or a restore. Each request
// that may have been sent in that time is looked up before it is sent, and the lost
// attempt, if there was one, counts as made at any moment from since, or from when the
// request came if that was later, until now. It has a number of its own, so that a record
// which its holder still has is of no later attempt. What has no task to look for waits for
// a person.
//
// What has settled unsent keeps its state and the answer that was given; its latest attempt
// is the lost one, which nobody has decided: a retry looks for it first.
//
// A request that the stream delivered again to a table which had lost it is one of these:
// then its message is older than its row, and so may its task be.
//
// attribute is the task attribute that calls of that time carried their keys in; "": that
// of the worker which was seen last. dry: nothing is changed.
func (desk *Desk) Recheck(ctx context.Context, a Act, since time.Time, attribute string, dry bool) (Rechecked, error) {
	if err := desk.mayAct(a); err != nil {
		return Rechecked{}, err
	}
	var held bool
	var leases *time.Time
	err := desk.pool.QueryRow(ctx, `
		SELECT (SELECT held_since IS NOT NULL FROM outbox_gate),
		       (SELECT max(leased_until) FROM outbox WHERE state = 'sending' AND leased_until > clock_timestamp()),
		       coalesce(nullif($1, ''), (SELECT lookup_attribute FROM outbox_replicas ORDER BY seen_at DESC LIMIT 1), 'interaction_request')`,
		attribute).Scan(&held, &leases, &attribute)
	switch {
	case err != nil:
		return Rechecked{}, database.Wrap("recheck", err)
	case !held:
		return Rechecked{}, ErrNotHeld
	case leases != nil:
		return Rechecked{}, fmt.Errorf("%w: calls are still under way; their leases end at %s: try again then", ErrRefused, request.ShowTime(*leases))
	}
	var would, sum Rechecked
	var ids []int64
	err = desk.pool.QueryRow(ctx, `
		SELECT coalesce(array_agg(id ORDER BY id), '{}'), count(*) FILTER (WHERE NOT settled AND askable),
		       count(*) FILTER (WHERE NOT settled AND NOT askable), count(*) FILTER (WHERE settled)
		  FROM (SELECT id, `+unsentEnd+` AS settled, `+carriedUnder+` IS NOT NULL AS askable FROM outbox WHERE `+recheckable+`) AS o`,
		attribute).Scan(&ids, &would.LookedUp, &would.ForPerson, &would.IfRetried)
	if err != nil || dry {
		return would, database.Wrap("recheck", err)
	}
	for from := 0; from < len(ids); from += recheckBatch {
		rows, err := desk.pool.Query(ctx, recheckSQL, attribute, ids[from:min(from+recheckBatch, len(ids))], since, desk.caller.Name, a.Why)
		if err != nil {
			return sum, database.Wrap("recheck", err)
		}
		var settled, askable bool
		_, err = pgx.ForEachRow(rows, []any{&settled, &askable}, func() error {
			switch {
			case settled:
				sum.IfRetried++
			case askable:
				sum.LookedUp++
			default:
				sum.ForPerson++
			}
			return nil
		})
		if err != nil {
			return sum, database.Wrap("recheck", err)
		}
	}
	return sum, nil
}

// recheckSQL: pending, lapsed, uncertain -> uncertain. What has settled unsent stays there, undecided.
//
// A request can have come no earlier than its row was written, or the stream had the first
// message that asked for it: of a request that is stored again several may be older than its row.
//
// A lookup that is under way over an uncertain row does not know of this: its number is used up.
//
// Where an earlier attempt is undecided as well and carried its key under another attribute, or
// carried none, finding nothing proves nothing.
const recheckSQL = `
	WITH chosen AS MATERIALIZED (
		SELECT id, state AS was, leased_by AS holder, ` + unsentEnd + ` AS settled, ` + undecidedYet + ` AS open, ` + carriedUnder + ` AS under,
		       least(received_at, stream_time, (SELECT min(stream_time) FROM outbox_repeats WHERE outbox_id = outbox.id), clock_timestamp()) AS came
		  FROM outbox WHERE id = ANY ($2) AND ` + recheckable + ` ORDER BY id FOR UPDATE),
	moved AS (
		UPDATE outbox o
		   SET state = CASE WHEN settled THEN state ELSE 'uncertain' END, leased_by = NULL, leased_until = NULL,
		       attempt = attempt + CASE WHEN settled OR was = 'pending' THEN 1 ELSE 0 END,
		       uncounted = uncounted + CASE WHEN settled OR was = 'pending' THEN 1 ELSE 0 END,
		       received_at = CASE WHEN received_at >= $3 AND NOT settled THEN came ELSE received_at END,
		       attempt_began_at = CASE WHEN open THEN least(attempt_began_at, greatest($3, came)) ELSE greatest($3, came) END,
		       uncertain_since = clock_timestamp(), lookups = CASE WHEN was = 'uncertain' THEN lookups + 1 ELSE 0 END,
		       undecided = undecided OR settled,
		       answered = answered AND open AND (was <> 'sending' OR undecided)
		                  OR open AND lookup_key IS NOT NULL AND lookup_attribute IS DISTINCT FROM nullif($1, ''),
		       announced_at = CASE WHEN settled OR was = 'uncertain' THEN announced_at END,
		       lookup_attribute = under,
		       due_at = CASE WHEN NOT settled AND under IS NOT NULL THEN clock_timestamp() END,
		       for_person_since = CASE WHEN settled THEN NULL WHEN under IS NULL THEN coalesce(for_person_since, clock_timestamp()) ELSE for_person_since END,
		       error_kind = CASE WHEN settled THEN error_kind ELSE 'lost' END,
		       error_message = CASE WHEN settled THEN error_message ELSE ` + lostMessage + ` END,
		       http_status = CASE WHEN settled THEN http_status END, twilio_code = CASE WHEN settled THEN twilio_code END,
		       twilio_request_id = CASE WHEN settled THEN twilio_request_id END
		  FROM chosen WHERE o.id = chosen.id
		RETURNING o.id, o.request_id, o.attempt, was, holder, settled, under, CASE WHEN was = 'sending' THEN o.attempt_began_at ELSE greatest($3, came) END AS began),
	history AS (
		INSERT INTO outbox_attempts (outbox_id, kind, number, worker, started_at, outcome, error, applied)
		SELECT id, 'attempt', attempt, coalesce(holder, 'unknown'), began, CASE WHEN was = 'sending' THEN 'lapsed' ELSE 'lost' END, ` + lostMessage + `, true
		  FROM moved WHERE was <> 'uncertain'),
	acts AS (
		INSERT INTO outbox_acts (who, why, act, request_id, was) SELECT $4, $5, 'recheck', request_id, was FROM moved)
	SELECT settled, under IS NOT NULL FROM moved`

// lostMessage is the reason of what may have been sent in a time that was lost from $3 on.
const lostMessage = `'what was written here from ' || to_char($3 AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') || ' UTC on was lost: it may have been sent since'`
