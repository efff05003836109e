package operator

import (
	"context"
	"fmt"
	"regexp"

	"github.com/jackc/pgx/v5"

	"flexworker/internal/database"
	"flexworker/internal/flex"
)

var sidForm = regexp.MustCompile(`^KD[0-9a-fA-F]{32}$`)

// ResolveCreated settles an uncertain request as created: a person has found its interaction. seen is what Flex shows of
// it, as far as it could be read. The interaction must not be another request's, and none gets it at the same moment:
// the sid is locked as it is for a record.
func (desk *Desk) ResolveCreated(ctx context.Context, a Act, requestID, sid string, seen flex.Outcome) error {
	if !sidForm.MatchString(sid) {
		return fmt.Errorf("%w: %s is not the sid of an interaction: KD and 32 hexadecimal digits", ErrRefused, sid)
	}
	ctx, cancel := database.Bounded(ctx)
	defer cancel()
	tx, err := desk.pool.Begin(ctx)
	if err != nil {
		return database.Wrap("resolve", err)
	}
	defer func() { _ = tx.Rollback(ctx) }() // what is committed stays
	if _, err := tx.Exec(ctx, database.LockSIDs, []string{sid}); err != nil {
		return database.Wrap("resolve", err)
	}
	var other *string
	err = tx.QueryRow(ctx, `SELECT min(request_id) FROM outbox WHERE interaction_sid = $1 AND request_id <> $2`, sid, requestID).Scan(&other)
	if err != nil {
		return database.Wrap("resolve", err)
	}
	if other != nil {
		return fmt.Errorf("%w: %s is the interaction of %s: nothing was changed", ErrRefused, sid, *other)
	}
	err = resolveByHand(ctx, tx, a, "resolve created", requestID, `
		state = 'created', due_at = NULL, interaction_sid = $6, task_sid = coalesce(nullif($7, ''), task_sid),
		assignment_status = nullif($8, ''), response = coalesce($9::text::json, response), for_person_since = NULL, ends_as = NULL,
		resolved_by = 'operator', error_kind = NULL, error_message = NULL, settled_at = clock_timestamp()`,
		sid, seen.TaskSID, seen.AssignmentStatus, database.JSONOrNull(seen.Response))
	if err != nil {
		return err
	}
	return database.Wrap("resolve", tx.Commit(ctx))
}

// absentEnd is what becomes of an uncertain request that does not exist.
const absentEnd = `CASE WHEN cancel_requested_at IS NOT NULL THEN 'cancelled' ELSE coalesce(ends_as, 'pending') END`

// ResolveAbsent leads an uncertain request back to pending: a person knows that
// its interaction does not exist. If they are wrong it is created twice. A request that
// was cancelled is not sent again: it ends as cancelled. Whether
// an attempt created it stays undecided: nothing has proved what the person says.
func (desk *Desk) ResolveAbsent(ctx context.Context, a Act, requestID string) error {
	return resolveByHand(ctx, desk.pool, a, "resolve absent", requestID, `
		state = `+absentEnd+`,
		due_at = CASE WHEN `+absentEnd+` = 'pending' THEN clock_timestamp() END,
		settled_at = CASE WHEN `+absentEnd+` <> 'pending' THEN clock_timestamp() END,
		resolved_by = CASE WHEN `+absentEnd+` <> 'pending' THEN 'operator' END,
		undecided = true, for_person_since = NULL, ends_as = NULL,
		error_kind = CASE WHEN ends_as = 'rejected' THEN coalesce('http_' || http_status, error_kind) ELSE coalesce(ends_as, 'absent') END,
		error_message = CASE WHEN cancel_requested_at IS NULL THEN '' ELSE 'cancelled by an operator; before: ' END || 'an operator says that it does not exist'
			|| CASE WHEN ends_as IS NULL THEN '' ELSE '; before: ' || coalesce(error_message, '') END`)
}

func resolveByHand(ctx context.Context, db interface {
	QueryRow(context.Context, string, ...any) pgx.Row
}, a Act, act, requestID, set string, args ...any) error {
	ctx, cancel := database.Bounded(ctx)
	defer cancel()
	var moved, other bool
	err := db.QueryRow(ctx, `
		WITH moved AS (
			UPDATE outbox SET `+set+` WHERE request_id = $1 AND state = 'uncertain' AND ($5::integer IS NULL OR attempt = $5) RETURNING request_id),
		acts AS (
			INSERT INTO outbox_acts (who, why, act, request_id, was, attempt) SELECT $2, $3, $4, request_id, 'uncertain', $5 FROM moved)
		SELECT EXISTS (SELECT FROM moved), EXISTS (SELECT FROM outbox WHERE request_id = $1 AND attempt <> $5)`,
		append([]any{requestID, a.Who, a.Why, act, a.Attempt}, args...)...).Scan(&moved, &other)
	switch {
	case err != nil || moved:
		return database.Wrap("resolve", err)
	case other:
		return ErrOtherAttempt
	default:
		return ErrNotUncertain
	}
}
