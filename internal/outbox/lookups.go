package outbox

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
)

// searchable: the fleet may search for tasks, at the latest in $1. No pause is longer
// than maxRetryAfter: what is later was said by a clock that has gone back since.
const searchable = `NOT lookup_at BETWEEN clock_timestamp() + $1::interval AND clock_timestamp() + interval '61 minutes'`

// lookable: a request that has no task to look for, or whose task may be searched for.
const lookable = `(lookup_attribute IS NULL OR ` + searchable + `)`

// workspaceOf is the workspace in which a request has a task to look for; ” for none.
const workspaceOf = `coalesce(CASE WHEN lookup_attribute IS NOT NULL THEN request #>> '{routing,properties,workspace_sid}' END, '')`

// takeLookups takes what may be asked in one search, at most most requests:
// uncertain ones that are due, of the workspace and the time of the one that is due
// longest. It postpones them past the limit of a lookup. Those without a task come
// alone, and cost no search: they are taken also while the fleet has made its searches
// for the moment, or TaskRouter has paused them, and while it is held, when there are
// no credentials to ask with.
func (s *Store) takeLookups(ctx context.Context, most int) (inquiry, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	var q inquiry
	err := s.pool.QueryRow(ctx, `
		SELECT EXISTS (SELECT FROM outbox, outbox_gate WHERE state = 'uncertain' AND due_at <= now() AND `+lookable+`)`,
		lookupEvery).Scan(&q.waiting)
	if err != nil || !q.waiting {
		return q, wrap("take lookups", err)
	}
	// Not in the transaction: whoever has a request's row must not wait for the gate's. The row is let go
	// at once; that it could be had shows that nobody holds the one that is due longest.
	var since time.Time
	err = s.pool.QueryRow(ctx, `
		SELECT `+workspaceOf+`, coalesce(lookup_attribute, ''), uncertain_since
		  FROM outbox, outbox_gate
		 WHERE state = 'uncertain' AND due_at <= now() AND `+lookable+`
		 ORDER BY due_at, outbox.id LIMIT 1 FOR UPDATE OF outbox SKIP LOCKED`, time.Duration(0)).Scan(&q.workspace, &q.attribute, &since)
	if errors.Is(err, pgx.ErrNoRows) {
		return q, nil
	}
	if err != nil {
		return inquiry{}, wrap("take lookups", err)
	}
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if q.workspace != "" {
			tag, err := tx.Exec(ctx, `
				UPDATE outbox_gate SET lookup_at = clock_timestamp() + $2::interval WHERE `+searchable, time.Duration(0), lookupEvery)
			if err != nil || tag.RowsAffected() == 0 {
				return err
			}
		}
		if q.attribute == s.Attribute {
			q.control = s.controls.key(q.workspace, time.Now())
		}
		var err error
		q.asked, err = s.postpone(ctx, tx, q.workspace, q.attribute, since, most)
		return err
	})
	if err != nil {
		return inquiry{}, wrap("take lookups", err)
	}
	for _, u := range q.asked {
		if u.lookupKey == q.control {
			q.control = ""
		}
	}
	return q, nil
}

func (s *Store) postpone(ctx context.Context, tx pgx.Tx, workspace, attribute string, since time.Time, most int) ([]uncertain, error) {
	rows, err := tx.Query(ctx, `
		WITH due AS MATERIALIZED (
			SELECT id FROM outbox
			 WHERE state = 'uncertain' AND due_at <= now()
			   AND `+workspaceOf+` = $1 AND coalesce(lookup_attribute, '') = $6
			   AND uncertain_since BETWEEN $2::timestamptz - $3::interval AND $2::timestamptz + $3::interval
			 ORDER BY due_at, id LIMIT $4 FOR UPDATE SKIP LOCKED)
		UPDATE outbox o SET due_at = clock_timestamp() + $5::interval, lookups = lookups + 1
		  FROM due WHERE o.id = due.id
		RETURNING o.id, request_id, coalesce(CASE WHEN $1 <> '' THEN lookup_key END, ''), attempt, spared, lookups, answered,
		          uncertain_since, clock_timestamp() - uncertain_since`, workspace, since, lookupSpan, most, lookupLimit, attribute)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (uncertain, error) {
		var u uncertain
		err := row.Scan(&u.id, &u.requestID, &u.lookupKey, &u.attempt, &u.spared, &u.lookups, &u.answered, &u.since, &u.age)
		return u, err
	})
}

// resolve stores a finding: the row of history always, the move only while the
// request still waits for this answer. It returns nil when it does not.
func (s *Store) resolve(ctx context.Context, u uncertain, f Finding, m move, took time.Duration) (*settlement, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	kind, why := verdict(f, m)
	rows, err := s.pool.Query(ctx, `
		WITH moved AS (
			UPDATE outbox o
			   SET state = $4, due_at = CASE WHEN $4 IN ('pending', 'uncertain') AND NOT $5 THEN clock_timestamp() + $6::interval END,
			       interaction_sid = $7, task_sid = coalesce($8, o.task_sid), assignment_status = coalesce($9, o.assignment_status),
			       response = CASE WHEN $4 = 'created' THEN $10::text::json ELSE o.response END,
			       resolved_by = CASE WHEN $4 IN ('created', 'abandoned') THEN 'lookup' END,
			       error_kind = CASE WHEN $4 = 'created' THEN $11 ELSE coalesce($11, o.error_kind) END,
			       error_message = CASE WHEN $4 = 'created' THEN $12 ELSE coalesce($12, o.error_message) END,
			       settled_at = CASE WHEN $4 IN ('created', 'abandoned') THEN clock_timestamp() END
			 WHERE o.id = $1 AND o.attempt = $2 AND o.state = 'uncertain' AND o.lookups = $3
			RETURNING `+settlementColumns+`),
		history AS (
			INSERT INTO outbox_attempts (outbox_id, kind, number, worker, started_at, took, outcome, error, applied)
			VALUES ($1, 'lookup', $3, $13, clock_timestamp() - $14::interval, $14, $15, $16, EXISTS (SELECT FROM moved)))
		SELECT `+settlementNames+` FROM moved`,
		u.id, u.attempt, u.lookups, string(m.to), m.person, m.delay,
		orNull(f.Outcome.InteractionSID), orNull(text(f.TaskSID)), orNull(text(f.Outcome.AssignmentStatus)), jsonOrNull(f.Outcome.Response),
		kind, why, s.worker, took, f.Kind.String(), orNull(text(f.Why+f.duplicate())))
	if err != nil {
		return nil, wrap("resolve", err)
	}
	moved, err := pgx.CollectRows(rows, scanSettlement)
	if err != nil || len(moved) == 0 {
		return nil, wrap("resolve", err)
	}
	return &moved[0], nil
}

// verdict is the reason that stands in the row after a finding; nil leaves the
// one that is there.
func verdict(f Finding, m move) (kind, why *string) {
	switch {
	case f.Kind == Found:
		if d := f.duplicate(); d != "" {
			return orNull("duplicate"), orNull(text(d))
		}
		return nil, nil
	case m.person:
		return orNull("undecided"), orNull("a person has to decide whether it exists: " + text(f.Why))
	case m.undecided && m.to == Pending:
		return orNull("undecided"), orNull("whether it exists cannot be found out, and UNCERTAIN_POLICY=retry sends it again: " + text(f.Why))
	case m.undecided && m.to == Abandoned:
		return orNull("undecided"), orNull("whether it exists cannot be found out, and UNCERTAIN_POLICY or the number of attempts ends it; a retry may create it twice: " + text(f.Why))
	case m.to == Abandoned:
		return orNull("attempts_used_up"), orNull("the last attempt is proved absent and no attempt is left: " + text(f.Why))
	case m.to == Pending:
		return orNull("absent"), orNull("the attempt did not create it: " + text(f.Why))
	default:
		return nil, nil
	}
}

// pauseLookups keeps the whole fleet from asking TaskRouter for so long.
func (s *Store) pauseLookups(ctx context.Context, d time.Duration) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	_, err := s.pool.Exec(ctx, `
		UPDATE outbox_gate SET lookup_at = greatest(lookup_at, clock_timestamp() + $1::interval)`, min(d, maxRetryAfter))
	return wrap("pause lookups", err)
}
