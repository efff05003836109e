package outbox

import (
	"cmp"
	"context"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"flexworker/internal/database"
	"flexworker/internal/flex"
	"flexworker/internal/outbox/gate"
	"flexworker/internal/outbox/request"
)

// Filter chooses requests; what is not set does not restrict.
type Filter struct {
	RequestIDs []string
	State      request.State
	Source     string
	ErrorKind  string
	OlderThan  time.Duration // since it was received
	Since      time.Duration // settled within this time before now
	Limit      int           // 0: ListMost for List, no limit for acts
}

// where is the condition of a filter, for the parameters that args gives.
const where = ` ($1::text[] IS NULL OR request_id = ANY($1)) AND ($2 = '' OR state = $2) AND ($3 = '' OR source = $3)
	AND ($4 = '' OR error_kind = $4) AND ($5::interval = '0' OR received_at < clock_timestamp() - $5::interval)
	AND ($6::interval = '0' OR settled_at > clock_timestamp() - $6::interval)`

func (f Filter) args(more ...any) []any {
	return append([]any{f.RequestIDs, string(f.State), f.Source, f.ErrorKind, f.OlderThan, f.Since}, more...)
}

// A Change is an act on requests: which ones it takes, what becomes of each, and how.
type Change struct {
	// Name is the act as outbox_acts records it.
	Name string
	// can is the condition, in SQL, that a request has to meet.
	can string
	// what names in words, as a text in SQL, what becomes of a request.
	what string
	// set are the assignments of the UPDATE.
	set string
}

// undecidedEnd: a settled request of which nobody knows whether an attempt created it.
const undecidedEnd = `(state IN ('rejected', 'abandoned', 'expired', 'cancelled') AND attempt > 0 AND (undecided OR error_kind = 'undecided'))`

// notBefore is a request's not_before, which is kept in its text alone; null when
// there is none, or one that Postgres does not take: no offset beyond 15:59, which
// RFC 3339 does, and what an earlier version let in.
//
// A text that has no such member, nor letters as escapes, is not read: one that cannot be
// would stop an act on many.
const notBefore = `CASE WHEN request::text !~ 'not_before|\\u00[567]' THEN NULL
		WHEN request ->> 'not_before' ~ '^\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,30})?([Zz]|[+-](0\d|1[0-5]):[0-5]\d)$'
		THEN (request ->> 'not_before')::timestamptz END`

// lostReason is why the latest attempt may have been made in a time that was lost; null: it was not lost.
const lostReason = `(SELECT error FROM outbox_attempts WHERE outbox_id = o.id AND kind = 'attempt' AND number = o.attempt AND outcome = 'lost' AND applied LIMIT 1)`

// The words for what a retry makes of a request.
const (
	SentAgain   = "sent again"
	AskedFirst  = "looked up before they are sent again"
	DueNow      = "pending, due now"
	Unsent      = "cancelled"
	NeverResent = "uncertain, never sent again: lookups go on and may adopt them"
)

// ToRetry leads settled requests that were not created back to pending, with a
// fresh count of attempts and without the deadline that passed, though not sooner
// than their not_before; one that is pending already it makes due now. What was rejected
// for its faults stays: it would be refused again.
//
// A request of which nobody knows whether an attempt created it becomes uncertain: it is
// looked up, and sent again only when it is proved absent. unverified sends it at once. Where
// a recheck has marked it, it is in doubt as any that was rechecked: a person decides what no
// lookup can, and its task may be older than its row.
func ToRetry(unverified bool) Change {
	first := undecidedEnd
	if unverified {
		first = `false`
	}
	return Change{
		Name: "retry",
		can: ` AND (state IN ('rejected', 'abandoned', 'expired', 'cancelled') AND faults IS NULL
			OR state = 'pending' AND due_at > greatest(clock_timestamp(), ` + notBefore + `))`,
		what: `CASE WHEN state = 'pending' THEN 'pending' WHEN ` + first + ` THEN '` + AskedFirst + `' WHEN attempt = 0 THEN 'sent' ELSE '` + SentAgain + `' END ||
			CASE WHEN ` + first + ` THEN ''
			     WHEN ` + notBefore + ` > clock_timestamp() THEN ', due ' || to_char((` + notBefore + `) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') || ', its not_before'
			     WHEN state = 'pending' THEN ', due now' ELSE '' END ||
			CASE WHEN state <> 'pending' AND expires_at <= clock_timestamp() THEN '; its expires_at has passed and no longer counts' ELSE '' END`,
		set: `
			state = CASE WHEN ` + first + ` THEN 'uncertain' ELSE 'pending' END,
			due_at = CASE WHEN ` + first + ` THEN clock_timestamp() ELSE greatest(clock_timestamp(), ` + notBefore + `) END,
			lookups = CASE WHEN ` + first + ` THEN 0 ELSE lookups END,
			error_kind = CASE WHEN ` + first + ` AND ` + lostReason + ` IS NOT NULL THEN 'lost' ELSE error_kind END,
			error_message = CASE WHEN ` + first + ` THEN coalesce(` + lostReason + `, error_message) ELSE error_message END,
			received_at = CASE WHEN ` + first + ` AND ` + lostReason + ` IS NOT NULL THEN least(received_at, attempt_began_at) ELSE received_at END,
			attempt_began_at = coalesce(attempt_began_at, received_at),
			uncertain_since = CASE WHEN ` + first + ` THEN coalesce(uncertain_since, settled_at) ELSE uncertain_since END,
			undecided = undecided OR NOT ` + first + ` AND ` + undecidedEnd + `,
			for_person_since = NULL, cancel_requested_at = NULL,
			spared = CASE WHEN state = 'pending' THEN spared ELSE attempt END,
			expires_at = CASE WHEN state = 'pending' OR expires_at > clock_timestamp() THEN expires_at END,
			settlement = settlement + CASE WHEN state = 'pending' THEN 0 ELSE 1 END,
			settled_at = NULL, published_at = NULL, announced_at = NULL, resolved_by = NULL`,
	}
}

// unsentYet: a pending request that no attempt can have created.
const unsentYet = `(state = 'pending' AND NOT undecided)`

// ToCancel ends pending requests unsent. One that is uncertain may exist, and so may one
// that was sent again though an attempt was never decided: lookups go on
// and may adopt it, but it is never sent again. What a lookup that is under way decides
// is not obeyed, as it does not know of this. Why a request had not been created yet
// stays in its reason, so that a retry can choose by it.
func ToCancel() Change {
	return Change{
		Name: "cancel",
		can:  ` AND (state = 'pending' OR state = 'uncertain' AND cancel_requested_at IS NULL)`,
		what: `CASE WHEN ` + unsentYet + ` THEN '` + Unsent + `' ELSE '` + NeverResent + `' END`,
		set: `
			state = CASE WHEN ` + unsentYet + ` THEN 'cancelled' ELSE 'uncertain' END,
			due_at = CASE WHEN NOT ` + unsentYet + ` THEN due_at END,
			cancel_requested_at = CASE WHEN NOT ` + unsentYet + ` THEN clock_timestamp() END, lookups = lookups + 1,
			attempt_began_at = coalesce(attempt_began_at, received_at), uncertain_since = coalesce(uncertain_since, clock_timestamp()),
			settled_at = CASE WHEN ` + unsentYet + ` THEN clock_timestamp() END,
			resolved_by = CASE WHEN ` + unsentYet + ` THEN 'operator' END,
			error_kind = coalesce(error_kind, 'cancelled'),
			error_message = CASE WHEN ` + unsentYet + ` THEN ` + cancelledMessage + ` ELSE error_message END`,
	}
}

// cancelledMessage says that a person stopped a request, and what its reason was before.
const cancelledMessage = `'cancelled by an operator' || coalesce('; before: ' || nullif(regexp_replace(error_message, '^cancelled by an operator(; before: )?', ''), ''), '')`

// ToRepublish has results published once more, under the ids they have: the
// stream drops what it still remembers.
func ToRepublish() Change {
	return Change{Name: "republish", can: ` AND settled_at IS NOT NULL AND published_at IS NOT NULL`, what: `'published again'`, set: `published_at = NULL`}
}

// ToLookUp has uncertain requests looked up as soon as the fleet may search.
func ToLookUp() Change {
	return Change{Name: "lookup", can: ` AND state = 'uncertain'`, what: `'looked up now'`, set: `due_at = clock_timestamp()`}
}

// Affected are the requests that a change takes, or has taken.
type Affected struct {
	IDs []string       // of Matching the first five, in the order of their ids
	N   int            // of all
	Of  map[string]int // how many, by what becomes of them
	// Locked are those that another session held, so that they were left out.
	Locked []string
}

// Matching says what a change would take. It changes nothing.
func (desk *Desk) Matching(ctx context.Context, c Change, a Act, f Filter) (Affected, error) {
	rows, err := desk.pool.Query(ctx, `
		WITH chosen AS MATERIALIZED (
			SELECT id, request_id, `+c.what+` AS what FROM outbox WHERE`+where+c.can+` AND ($8::integer IS NULL OR attempt = $8)
			 ORDER BY id LIMIT nullif($7, 0))
		SELECT what, count(*), (SELECT array_agg(request_id) FROM (SELECT request_id FROM chosen ORDER BY id LIMIT 5) AS first)
		  FROM chosen GROUP BY what`, f.args(f.Limit, a.Attempt)...)
	if err != nil {
		return Affected{}, database.Wrap(c.Name, err)
	}
	all := Affected{IDs: []string{}, Of: map[string]int{}}
	var what string
	var n int
	_, err = pgx.ForEachRow(rows, []any{&what, &n, &all.IDs}, func() error {
		all.Of[what], all.N = n, all.N+n
		return nil
	})
	return all, database.Wrap(c.Name, err)
}

// Do changes what the filter chooses and the change can take, and records it, in
// one statement. Rows are locked in the order of ids. An act that speaks of an attempt
// changes nothing where another has been made since. What somebody holds locked for longer than
// patience is left out, and named: one row must not keep a thousand from what a person decided.
func (desk *Desk) Do(ctx context.Context, c Change, a Act, f Filter) (Affected, error) {
	all, _, err := desk.do(ctx, c, a, f, "")
	if database.WaitedForLock(err) && database.RowsLocked(ctx, desk.pool, err) {
		var left []int64
		if all, left, err = desk.do(ctx, c, a, f, "SKIP LOCKED"); len(left) > 0 && err == nil {
			all.Locked, err = desk.stillMatching(ctx, c, left)
		}
	}
	return all, database.Wrap(c.Name, err)
}

// do is Do, with what to do about locked rows. It returns, too, what matched and could not be
// had: another session holds it, or has changed it since.
func (desk *Desk) do(ctx context.Context, c Change, a Act, f Filter, locked string) (Affected, []int64, error) {
	matches := where + c.can + ` AND ($11::integer IS NULL OR attempt = $11)`
	var b pgx.Batch
	b.Queue(`SELECT ` + database.Patiently)
	b.Queue(`
		WITH matching AS MATERIALIZED (
			SELECT id AS match FROM outbox WHERE`+matches+` ORDER BY id LIMIT nullif($7, 0)),
		chosen AS MATERIALIZED (
			SELECT id, state AS was, `+c.what+` AS what FROM outbox JOIN matching ON id = match WHERE`+matches+`
			 ORDER BY id FOR NO KEY UPDATE OF outbox `+locked+`),
		moved AS (
			UPDATE outbox o SET `+c.set+` FROM chosen WHERE o.id = chosen.id
			RETURNING o.id, o.request_id, chosen.was, chosen.what),
		acts AS (
			INSERT INTO outbox_acts (who, why, act, request_id, was, attempt) SELECT $8, $9, $10, request_id, was, $11 FROM moved)
		SELECT match, coalesce(request_id, ''), coalesce(what, '') FROM matching LEFT JOIN moved ON id = match ORDER BY match`,
		f.args(f.Limit, a.Who, a.Why, c.Name, a.Attempt)...)
	all := Affected{IDs: []string{}, Of: map[string]int{}}
	sent := desk.pool.SendBatch(ctx, &b)
	if _, err := sent.Exec(); err != nil {
		return all, nil, cmp.Or(err, sent.Close())
	}
	rows, err := sent.Query()
	if err != nil {
		return all, nil, cmp.Or(err, sent.Close())
	}
	var left []int64
	var id int64
	var requestID, what string
	_, err = pgx.ForEachRow(rows, []any{&id, &requestID, &what}, func() error {
		if requestID == "" {
			left = append(left, id)
			return nil
		}
		all.IDs = append(all.IDs, requestID)
		all.N++
		all.Of[what]++
		return nil
	})
	return all, left, cmp.Or(err, sent.Close()) // which waits for the commit
}

// stillMatching names those of the requests that the change can still take.
func (desk *Desk) stillMatching(ctx context.Context, c Change, ids []int64) ([]string, error) {
	rows, err := desk.pool.Query(ctx, `SELECT request_id FROM outbox WHERE id = ANY ($1)`+c.can+` ORDER BY id`, ids)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

var sidForm = regexp.MustCompile(`^KD[0-9a-fA-F]{32}$`)

// ResolveCreated settles an uncertain request as created: a person has found
// its interaction. seen is what Flex shows of it, as far as it could be read.
func (desk *Desk) ResolveCreated(ctx context.Context, a Act, requestID, sid string, seen flex.Outcome) error {
	if !sidForm.MatchString(sid) {
		return fmt.Errorf("%w: %s is not the sid of an interaction: KD and 32 hexadecimal digits", ErrRefused, sid)
	}
	var other *string
	err := desk.pool.QueryRow(ctx, `SELECT min(request_id) FROM outbox WHERE interaction_sid = $1 AND request_id <> $2`, sid, requestID).Scan(&other)
	if err != nil {
		return database.Wrap("resolve", err)
	}
	if other != nil {
		return fmt.Errorf("%w: %s is the interaction of %s: nothing was changed", ErrRefused, sid, *other)
	}
	return desk.resolveByHand(ctx, a, "resolve created", requestID, `
		state = 'created', due_at = NULL, interaction_sid = $6, task_sid = coalesce(nullif($7, ''), task_sid),
		assignment_status = nullif($8, ''), response = coalesce($9::text::json, response), for_person_since = NULL, ends_as = NULL,
		resolved_by = 'operator', error_kind = NULL, error_message = NULL, settled_at = clock_timestamp()`,
		sid, seen.TaskSID, seen.AssignmentStatus, database.JSONOrNull(seen.Response))
}

// absentEnd is what becomes of an uncertain request that does not exist.
const absentEnd = `CASE WHEN cancel_requested_at IS NOT NULL THEN 'cancelled' ELSE coalesce(ends_as, 'pending') END`

// ResolveAbsent leads an uncertain request back to pending: a person knows that
// its interaction does not exist. If they are wrong it is created twice. A request that
// was cancelled is not sent again: it ends as cancelled. Whether
// an attempt created it stays undecided: nothing has proved what the person says.
func (desk *Desk) ResolveAbsent(ctx context.Context, a Act, requestID string) error {
	return desk.resolveByHand(ctx, a, "resolve absent", requestID, `
		state = `+absentEnd+`,
		due_at = CASE WHEN `+absentEnd+` = 'pending' THEN clock_timestamp() END,
		settled_at = CASE WHEN `+absentEnd+` <> 'pending' THEN clock_timestamp() END,
		resolved_by = CASE WHEN `+absentEnd+` <> 'pending' THEN 'operator' END,
		undecided = true, for_person_since = NULL, ends_as = NULL,
		error_kind = CASE WHEN ends_as = 'rejected' THEN coalesce('http_' || http_status, error_kind) ELSE coalesce(ends_as, 'absent') END,
		error_message = CASE WHEN cancel_requested_at IS NULL THEN '' ELSE 'cancelled by an operator; before: ' END || 'an operator says that it does not exist'
			|| CASE WHEN ends_as IS NULL THEN '' ELSE '; before: ' || coalesce(error_message, '') END`)
}

func (desk *Desk) resolveByHand(ctx context.Context, a Act, act, requestID, set string, args ...any) error {
	ctx, cancel := database.Bounded(ctx)
	defer cancel()
	var moved, other bool
	err := desk.pool.QueryRow(ctx, `
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

// GateChange is the gate before an act on it and afterwards.
type GateChange struct{ Before, After gate.Status }

// changeGate does an act on the gate, and reads the gate before it and afterwards.
func (desk *Desk) changeGate(ctx context.Context, act func() error) (c GateChange, err error) {
	if c.Before, err = gate.Read(ctx, desk.pool); err != nil {
		return c, err
	}
	if err = act(); err != nil {
		return c, err
	}
	c.After, err = gate.Read(ctx, desk.pool)
	return c, err
}

// Hold shuts the gate until a person releases it. Where it was held or paused already
// the latest reason is kept behind the person's: it may still be true.
func (desk *Desk) Hold(ctx context.Context, a Act) (GateChange, error) {
	return desk.changeGate(ctx, func() error {
		return desk.actOnGate(ctx, a, "hold", `held_since = coalesce(held_since, clock_timestamp()),
		reason = $2 || CASE WHEN held_since IS NOT NULL OR paused_until > clock_timestamp() THEN coalesce('; before: ' || split_part(reason, '; before: ', 1), '') ELSE '' END`)
	})
}

// releaseBatch is how many requests Release makes due in one transaction.
const releaseBatch = 1000

// Release opens the gate, whoever shut it and why, and makes due at once what had met the
// refusal behind a pause (429) and waits for its end. Where it is cut off in between,
// another Release goes on. What another session holds locked is left out, and is due when it would
// have been: then the error is ErrLeftOut.
func (desk *Desk) Release(ctx context.Context, a Act) (GateChange, error) {
	return desk.changeGate(ctx, func() error { return desk.release(ctx, a) })
}

// release is Release, without the gate's status.
func (desk *Desk) release(ctx context.Context, a Act) error {
	var ids []int64
	var attempts []int32 // what meets a new refusal while this goes on is left alone
	err := desk.pool.QueryRow(ctx, `
		SELECT coalesce(array_agg(id ORDER BY id), '{}'), coalesce(array_agg(attempt ORDER BY id), '{}')
		  FROM outbox WHERE state = 'pending' AND attempt > 0 AND http_status = 429 AND due_at > clock_timestamp()`).Scan(&ids, &attempts)
	if err != nil {
		return database.Wrap("release", err)
	}
	if err := desk.actOnGate(ctx, a, "release", `held_since = NULL, paused_until = NULL, reason = NULL`); err != nil {
		return err
	}
	left := 0
	for from := 0; from < len(ids); from += releaseBatch {
		to := min(from+releaseBatch, len(ids))
		var still int
		err := desk.pool.QueryRow(ctx, `
			WITH waiting AS MATERIALIZED (
				SELECT o.id FROM outbox o JOIN unnest($1::bigint[], $2::integer[]) AS w (id, attempt) ON o.id = w.id AND o.attempt = w.attempt
				 WHERE state = 'pending' AND due_at > clock_timestamp()),
			free AS MATERIALIZED (
				SELECT o.id FROM outbox o JOIN waiting ON o.id = waiting.id
				 WHERE state = 'pending' AND due_at > clock_timestamp() ORDER BY o.id FOR NO KEY UPDATE OF o SKIP LOCKED),
			moved AS (UPDATE outbox o SET due_at = clock_timestamp() FROM free WHERE o.id = free.id)
			SELECT (SELECT count(*) FROM waiting) - (SELECT count(*) FROM free)`, ids[from:to], attempts[from:to]).Scan(&still)
		if err != nil {
			return database.Wrap("release: the gate is open, but what waited for it is not all due", err)
		}
		left += still
	}
	if left > 0 {
		return fmt.Errorf("the gate is open, but %d of the requests that waited for it are not due yet: %w. Say release again", left, ErrLeftOut)
	}
	return nil
}

func (desk *Desk) actOnGate(ctx context.Context, a Act, act, set string) error {
	ctx, cancel := database.Bounded(ctx)
	defer cancel()
	_, err := desk.pool.Exec(ctx, `
		WITH was AS MATERIALIZED (SELECT held_since IS NOT NULL AS held FROM outbox_gate FOR UPDATE),
		moved AS (UPDATE outbox_gate SET `+set+`, changed_by = $1, changed_at = clock_timestamp())
		INSERT INTO outbox_acts (who, why, act, was) SELECT $1, $2, $3, CASE WHEN held THEN 'held' ELSE 'open' END FROM was`,
		a.Who, a.Why, act)
	return database.Wrap(act, err)
}

// Since says in words what has happened to a request since the attempt that somebody has
// seen: the attempts and the acts after it.
func (d Detail) Since(seen int) string {
	var after []string
	if d.Attempt < seen {
		return fmt.Sprintf("there is no attempt %d: the latest is attempt %d", seen, d.Attempt)
	}
	var from time.Time // of the first later attempt
	for _, h := range d.History {
		if h.Kind == "attempt" && h.Number > seen {
			if from.IsZero() || h.StartedAt.Before(from) {
				from = h.StartedAt
			}
			after = append(after, fmt.Sprintf("attempt %d by %s at %s: %s", h.Number, h.Worker, request.ShowTime(h.StartedAt), words(h.Outcome)))
		}
	}
	if d.State == request.Sending {
		after = append(after, fmt.Sprintf("attempt %d by %s is under way", d.Attempt, said(d.LeasedBy)))
	}
	for _, act := range d.Acts {
		if act.Attempt != nil && *act.Attempt >= seen || !from.IsZero() && act.At.After(from) {
			after = append([]string{fmt.Sprintf("%s by %s at %s (%s)", act.Act, act.Who, request.ShowTime(act.At), act.Why)}, after...)
		}
	}
	return strings.Join(after, "; ")
}
