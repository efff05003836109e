package operator

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"

	"github.com/jackc/pgx/v5"

	"flexworker/internal/database"
	"flexworker/internal/flex"
	"flexworker/internal/outbox/request"
)

// A Decision is what a person says of an uncertain request: its interaction exists, under a sid, or it does not. The
// zero value says neither, and is refused.
type Decision struct {
	Created    string // the sid of its interaction
	Absent     bool   // there is none
	Unverified bool   // neither Flex nor TaskRouter is asked: the person is believed
}

// A Resolution is what a decision rests on, and the request.
type Resolution struct {
	// Request is as it is now; as it was found, where nothing was changed or it could not be read again.
	Request Detail
	// Became is the state that the decision has led to; "": nothing was changed.
	Became request.State
	// Unread says why the request could not be read again once the decision was carried out; nil: it was.
	Unread error
	// Said is what Flex or TaskRouter said, a sentence each; none: they were not asked.
	Said []string
	// Found are the interactions that TaskRouter shows of a request which is said to have none.
	Found []string
}

// Why a decision was refused. Nothing was changed.
var (
	// ErrNoAttempt is returned for a decision that does not name the attempt it speaks of.
	ErrNoAttempt = errors.New("outbox: a decision names the attempt that it is about")
	// ErrLookedUp is returned for a request that is said to have no interaction while lookups may still find one.
	ErrLookedUp = errors.New("outbox: lookups still go on")
	// ErrExists is returned for a request that is said to have no interaction, and has one: Resolution.Found.
	ErrExists = errors.New("outbox: its interaction exists")
	// ErrUnproved is returned for a request that is said to have no interaction where what TaskRouter says does not
	// prove that.
	ErrUnproved = errors.New("outbox: that it does not exist is not proved")
	// ErrNotShown is returned for a sid that Flex does not show.
	ErrNotShown = errors.New("outbox: Flex does not show the interaction")
	// ErrNotIts is returned for an interaction that is another request's, by what Flex shows of it.
	ErrNotIts = errors.New("outbox: the interaction is another request's")
	// ErrCannotAsk is returned where the settings do not let Flex be asked.
	ErrCannotAsk = errors.New("outbox: Flex cannot be asked")
)

var sidForm = regexp.MustCompile(`^KD[0-9a-fA-F]{32}$`)

// IsSID says whether a text has the form of the sid of an interaction: KD and 32 hexadecimal digits.
func IsSID(text string) bool { return sidForm.MatchString(text) }

// Resolve carries out a decision about an uncertain request, if Preview has nothing against it.
//
// Created: uncertain -> created. The interaction must not be another request's, and none gets it at the same moment: its
// sid is locked as it is for a record.
//
// Not created: uncertain -> pending, or the end that it waits for. If the person is wrong it is created twice. A request
// that was cancelled is not sent again: it ends as cancelled. Whether an attempt created it stays undecided: nothing has
// proved what the person says.
func (desk *Desk) Resolve(ctx context.Context, a Act, requestID string, decision Decision) (Resolution, error) {
	r, seen, err := desk.weigh(ctx, a, requestID, decision)
	if err != nil {
		return r, err
	}
	if decision.Absent {
		r.Became, err = desk.resolveAbsent(ctx, a, requestID, decision.Unverified)
	} else {
		r.Became, err = desk.resolveCreated(ctx, a, requestID, decision, seen)
	}
	now, unread := desk.Show(ctx, requestID)
	if unread == nil {
		r.Request = now
	} else if err == nil { // it is done all the same
		r.Unread = unread
	}
	return r, err
}

// Preview says what Resolve would rest on, or why it would refuse. It asks Flex and TaskRouter, and changes nothing.
func (desk *Desk) Preview(ctx context.Context, a Act, requestID string, decision Decision) (Resolution, error) {
	r, _, err := desk.weigh(ctx, a, requestID, decision)
	return r, err
}

// weigh holds a decision against what is known and, unless the person is to be believed, against what Flex and
// TaskRouter say now. seen is what Flex shows of the interaction that was named.
func (desk *Desk) weigh(ctx context.Context, a Act, requestID string, decision Decision) (r Resolution, seen flex.Outcome, err error) {
	if err = desk.mayAct(a); err != nil {
		return r, seen, err
	}
	switch {
	case decision.Absent && decision.Created != "":
		return r, seen, fmt.Errorf("%w: an interaction either exists or does not", ErrRefused)
	case !decision.Absent && !IsSID(decision.Created):
		return r, seen, fmt.Errorf("%w: %s is not the sid of an interaction: KD and 32 hexadecimal digits", ErrRefused, decision.Created)
	}
	if r.Request, err = desk.Show(ctx, requestID); err != nil {
		return r, seen, err
	}
	attempt := a.attempt()
	switch {
	case attempt != nil && *attempt != r.Request.Attempt:
		return r, seen, ErrOtherAttempt
	case a.Seen != "" && a.Seen != r.Request.Tag():
		return r, seen, ErrStale
	case r.Request.State != request.Uncertain:
		return r, seen, ErrNotUncertain
	case attempt == nil:
		return r, seen, ErrNoAttempt
	}
	if err = notAnothers(ctx, desk.pool, decision.Created, requestID); err != nil { // not even unverified
		return r, seen, err
	}
	switch {
	case decision.Unverified:
		return r, seen, nil
	case decision.Absent && !r.Request.WaitsForPerson():
		return r, seen, ErrLookedUp
	}
	finder, settle, err := desk.finder()
	if err != nil {
		return r, seen, err
	}
	if !decision.Absent {
		if seen = finder.Fetch(ctx, decision.Created); seen.Kind != flex.Created {
			return r, seen, fmt.Errorf("%w: %s", ErrNotShown, seen.Message)
		}
		r.Said = []string{portrait(decision.Created, seen) + "."}
		if why := notOf(r.Request, decision.Created, seen); why != "" {
			return r, seen, fmt.Errorf("%w: %s", ErrNotIts, why)
		}
		r.Said = append(r.Said, kinship(r.Request, seen))
		return r, seen, nil
	}
	e := desk.ask(ctx, finder, r.Request, settle)
	r.Said = e.Said
	for _, task := range e.Found {
		r.Found = append(r.Found, task.InteractionSID)
	}
	switch {
	case len(e.Found) > 0:
		err = ErrExists
	case !e.Absent:
		err = ErrUnproved
	}
	return r, seen, err
}

// notAnothers refuses the interaction of another request; sid may be empty.
func notAnothers(ctx context.Context, db interface {
	QueryRow(context.Context, string, ...any) pgx.Row
}, sid, requestID string) error {
	var other *string
	err := db.QueryRow(ctx, `SELECT min(request_id) FROM outbox WHERE interaction_sid = nullif($1, '') AND request_id <> $2`, sid, requestID).Scan(&other)
	if err == nil && other != nil {
		return fmt.Errorf("%w: %s is the interaction of %s: nothing was changed", ErrRefused, sid, *other)
	}
	return database.Wrap("resolve", err)
}

// resolveCreated: uncertain -> created. seen is what Flex shows of the interaction, as far as it was asked.
func (desk *Desk) resolveCreated(ctx context.Context, a Act, requestID string, decision Decision, seen flex.Outcome) (became request.State, err error) {
	ctx, cancel := database.Bounded(ctx)
	defer cancel()
	tx, err := desk.pool.Begin(ctx)
	if err != nil {
		return "", database.Wrap("resolve", err)
	}
	defer func() { _ = tx.Rollback(ctx) }() // what is committed stays
	if _, err := tx.Exec(ctx, database.LockSIDs, []string{decision.Created}); err != nil {
		return "", database.Wrap("resolve", err)
	}
	if err := notAnothers(ctx, tx, decision.Created, requestID); err != nil {
		return "", err
	}
	id, became, err := desk.resolve(ctx, tx, a, "resolve created", decision.Unverified, requestID, `
		state = 'created', due_at = NULL, interaction_sid = $7, task_sid = coalesce(nullif($8, ''), task_sid),
		assignment_status = nullif($9, ''), response = coalesce($10::text::json, response), for_person_since = NULL, ends_as = NULL,
		resolved_by = 'operator', error_kind = NULL, error_message = NULL, settled_at = clock_timestamp()`,
		decision.Created, seen.TaskSID, seen.AssignmentStatus, database.JSONOrNull(seen.Response))
	if err == nil {
		err = database.Wrap("resolve", tx.Commit(ctx))
	}
	if err != nil {
		return "", err
	}
	desk.tell(id)
	return became, nil
}

const (
	// pastDeadline says whether an uncertain request would have to be sent after its deadline, if it does not exist.
	pastDeadline = `(ends_as IS NULL AND expires_at <= now())`
	// waitingEnd is the final state that an uncertain request gets if it does not exist; null: it is sent again.
	waitingEnd = `coalesce(ends_as, CASE WHEN ` + pastDeadline + ` THEN 'expired' END)`
	// absentEnd is what becomes of an uncertain request that does not exist.
	absentEnd = `CASE WHEN cancel_requested_at IS NOT NULL THEN 'cancelled' ELSE coalesce(` + waitingEnd + `, 'pending') END`
)

// resolveAbsent: uncertain -> pending, or the end that it waits for; expired where the deadline has passed, or Expire would
// have it looked up, and the person asked, once more; cancelled where that was asked.
func (desk *Desk) resolveAbsent(ctx context.Context, a Act, requestID string, unverified bool) (became request.State, err error) {
	id, became, err := desk.resolve(ctx, desk.pool, a, "resolve absent", unverified, requestID, `
		state = `+absentEnd+`,
		due_at = CASE WHEN `+absentEnd+` = 'pending' THEN clock_timestamp() END,
		settled_at = CASE WHEN `+absentEnd+` <> 'pending' THEN clock_timestamp() END,
		resolved_by = CASE WHEN `+absentEnd+` <> 'pending' THEN 'operator' END,
		undecided = true, for_person_since = NULL, ends_as = NULL,
		error_kind = CASE WHEN ends_as = 'rejected' THEN coalesce('http_' || http_status, error_kind) ELSE coalesce(`+waitingEnd+`, 'absent') END,
		error_message = CASE WHEN cancel_requested_at IS NOT NULL THEN 'cancelled; ' WHEN `+pastDeadline+` THEN 'expires_at has passed; ' ELSE '' END
			|| 'an operator says that it does not exist' || CASE WHEN `+waitingEnd+` IS NULL THEN '' ELSE '; before: ' || coalesce(error_message, '') END`)
	if became.Final() {
		desk.tell(id)
	}
	return became, err
}

// resolve moves the request, if it is still uncertain after the attempt and under the tag that the act speaks of, and
// records the act, and that its sender had been told that a person has to look: the next attempt empties announced_at. It gives the
// request's row and the state that it has then.
func (desk *Desk) resolve(ctx context.Context, db interface {
	SendBatch(context.Context, *pgx.Batch) pgx.BatchResults
}, a Act, act string, unverified bool, requestID, set string, args ...any) (id int64, became request.State, err error) {
	ctx, cancel := database.Bounded(ctx)
	defer cancel()
	var moved struct {
		id    *int64
		state *request.State
	}
	var other, uncertain bool
	var b pgx.Batch
	// In a statement of its own: the tag counts acts, and the next statement sees all that were committed before the lock.
	b.Queue(`SELECT FROM outbox WHERE request_id = $1 FOR NO KEY UPDATE`, requestID)
	b.Queue(`
		WITH moved AS (
			UPDATE outbox SET `+set+` WHERE request_id = $1 AND state = 'uncertain' AND attempt = $5 AND ($6 = '' OR `+tagSQL+` = $6) RETURNING id, request_id, state, announced_at, `+actedAt("outbox")+` AS at),
		acts AS (
			INSERT INTO outbox_acts (at, who, why, act, request_id, was, attempt, unverified) SELECT at, $2, $3, $4, request_id,
			       'uncertain' || coalesce('; its sender was told so at ' || to_char(announced_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') || ' UTC', ''), $5, `+strconv.FormatBool(unverified)+` FROM moved)
		SELECT (SELECT id FROM moved), (SELECT state FROM moved), EXISTS (SELECT FROM outbox WHERE request_id = $1 AND attempt <> $5),
		       EXISTS (SELECT FROM outbox WHERE request_id = $1 AND state = 'uncertain')`,
		append([]any{requestID, desk.caller.Name, a.Why, act, a.attempt(), string(a.Seen)}, args...)...).QueryRow(func(row pgx.Row) error { return row.Scan(&moved.id, &moved.state, &other, &uncertain) })
	err = db.SendBatch(ctx, &b).Close()
	switch {
	case err != nil:
		return 0, "", database.Wrap("resolve", err)
	case moved.state != nil:
		return *moved.id, *moved.state, nil
	case other:
		return 0, "", ErrOtherAttempt
	case uncertain && a.Seen != "":
		return 0, "", ErrStale
	default:
		return 0, "", ErrNotUncertain
	}
}
