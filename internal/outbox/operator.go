package outbox

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"time"

	"github.com/jackc/pgx/v5"

	"flexworker/internal/flex"
)

// An Act is what a person does to requests or to the gate: it is recorded.
type Act struct {
	Who string // not empty
	Why string // not empty
}

// Filter chooses requests; what is not set does not restrict.
type Filter struct {
	RequestIDs []string
	State      State
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

// canRetry and the like say which requests an act can take.
const (
	canRetry     = ` AND state IN ('rejected', 'abandoned', 'expired', 'cancelled') AND faults IS NULL`
	canCancel    = ` AND state = 'pending'`
	canRepublish = ` AND settled_at IS NOT NULL AND published_at IS NOT NULL`
)

// Retry leads settled requests that were not created back to pending, with a
// fresh count of attempts and without the deadline that passed, though not sooner
// than their not_before. It returns their ids. What was rejected for its faults
// stays: it would be refused again.
func (s *Store) Retry(ctx context.Context, a Act, f Filter) ([]string, error) {
	return s.act(ctx, a, "retry", f, canRetry, `
		state = 'pending', due_at = greatest(clock_timestamp(), `+notBefore+`), settlement = settlement + 1, settled_at = NULL, published_at = NULL,
		announced_at = NULL, resolved_by = NULL, spared = attempt,
		expires_at = CASE WHEN expires_at > clock_timestamp() THEN expires_at END`)
}

// notBefore is a request's not_before, which is kept in its text alone; null when
// there is none, or one that Postgres does not take: no offset beyond 15:59, which
// RFC 3339 does, and what an earlier version let in.
const notBefore = `CASE WHEN request ->> 'not_before' ~ '^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,30})?(Z|[+-](0\d|1[0-5]):[0-5]\d)$'
		THEN (request ->> 'not_before')::timestamptz END`

// Cancel ends pending requests unsent. It returns their ids.
func (s *Store) Cancel(ctx context.Context, a Act, f Filter) ([]string, error) {
	return s.act(ctx, a, "cancel", f, canCancel, `
		state = 'cancelled', due_at = NULL, settled_at = clock_timestamp(), resolved_by = 'operator',
		error_kind = 'cancelled', error_message = 'cancelled by an operator'`)
}

// Republish has results published once more, under the ids they have: the
// stream drops what it still remembers. It returns the requests' ids.
func (s *Store) Republish(ctx context.Context, a Act, f Filter) ([]string, error) {
	return s.act(ctx, a, "republish", f, canRepublish, `published_at = NULL`)
}

// Matching says how many requests an act would change, and the first of them.
func (s *Store) Matching(ctx context.Context, act string, f Filter) (n int, first []string, err error) {
	can := map[string]string{"retry": canRetry, "cancel": canCancel, "republish": canRepublish}[act]
	err = s.pool.QueryRow(ctx, `
		WITH chosen AS (SELECT id, request_id FROM outbox WHERE`+where+can+`)
		SELECT (SELECT count(*) FROM chosen), coalesce((SELECT array_agg(request_id) FROM (SELECT request_id FROM chosen ORDER BY id LIMIT 5) f), '{}')`,
		f.args()...).Scan(&n, &first)
	return n, first, wrap(act, err)
}

// act changes what the filter chooses and the act can take, and records it, in
// one statement. Rows are locked in the order of ids.
func (s *Store) act(ctx context.Context, a Act, act string, f Filter, can, set string) ([]string, error) {
	rows, err := s.pool.Query(ctx, `
		WITH chosen AS MATERIALIZED (
			SELECT id, state AS was FROM outbox WHERE`+where+can+`
			 ORDER BY id LIMIT nullif($7, 0) FOR UPDATE),
		moved AS (
			UPDATE outbox o SET `+set+` FROM chosen WHERE o.id = chosen.id
			RETURNING o.request_id, chosen.was),
		acts AS (
			INSERT INTO outbox_acts (who, why, act, request_id, was) SELECT $8, $9, $10, request_id, was FROM moved)
		SELECT request_id FROM moved`, f.args(f.Limit, a.Who, a.Why, act)...)
	if err != nil {
		return nil, wrap(act, err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return ids, wrap(act, err)
}

// ErrNotUncertain is returned by Resolve for a request that does not stand in
// uncertain: there is nothing to resolve, or another was faster.
var ErrNotUncertain = errors.New("outbox: the request is not uncertain")

var sidForm = regexp.MustCompile(`^KD[0-9a-fA-F]{32}$`)

// ResolveCreated settles an uncertain request as created: a person has found
// its interaction. seen is what Flex shows of it, as far as it could be read.
func (s *Store) ResolveCreated(ctx context.Context, a Act, requestID, sid string, seen flex.Outcome) error {
	if !sidForm.MatchString(sid) {
		return fmt.Errorf("outbox: resolve: %s is not the sid of an interaction: KD and 32 hexadecimal digits", sid)
	}
	var other *string // no index has sids: in a large table this takes seconds
	err := s.pool.QueryRow(ctx, `SELECT min(request_id) FROM outbox WHERE interaction_sid = $1 AND request_id <> $2`, sid, requestID).Scan(&other)
	if err != nil {
		return wrap("resolve", err)
	}
	if other != nil {
		return fmt.Errorf("outbox: resolve: %s is the interaction of %s: nothing was changed", sid, *other)
	}
	return s.resolveByHand(ctx, a, "resolve created", requestID, `
		state = 'created', due_at = NULL, interaction_sid = $5, task_sid = coalesce(nullif($6, ''), task_sid),
		assignment_status = nullif($7, ''), response = coalesce($8::text::json, response),
		resolved_by = 'operator', error_kind = NULL, error_message = NULL, settled_at = clock_timestamp()`,
		sid, seen.TaskSID, seen.AssignmentStatus, jsonOrNull(seen.Response))
}

// ResolveAbsent leads an uncertain request back to pending: a person knows that
// its interaction does not exist. If they are wrong it is created twice.
func (s *Store) ResolveAbsent(ctx context.Context, a Act, requestID string) error {
	return s.resolveByHand(ctx, a, "resolve absent", requestID, `
		state = 'pending', due_at = clock_timestamp(), error_kind = 'absent', error_message = 'an operator says that it does not exist'`)
}

func (s *Store) resolveByHand(ctx context.Context, a Act, act, requestID, set string, args ...any) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	tag, err := s.pool.Exec(ctx, `
		WITH moved AS (
			UPDATE outbox SET `+set+` WHERE request_id = $1 AND state = 'uncertain' RETURNING request_id)
		INSERT INTO outbox_acts (who, why, act, request_id, was) SELECT $2, $3, $4, request_id, 'uncertain' FROM moved`,
		append([]any{requestID, a.Who, a.Why, act}, args...)...)
	if err == nil && tag.RowsAffected() == 0 {
		err = ErrNotUncertain
	}
	return wrap("resolve", err)
}

// Hold shuts the gate until a person releases it. Where it was shut already the
// reason is kept behind the person's: it may still be true.
func (s *Store) Hold(ctx context.Context, a Act) error {
	return s.actOnGate(ctx, a, "hold", `held_since = coalesce(held_since, clock_timestamp()), probe_at = NULL,
		reason = $2 || CASE WHEN probe_at IS NOT NULL OR held_since IS NOT NULL THEN '; before: ' || reason ELSE '' END`)
}

// Release opens the gate, whoever shut it and why.
func (s *Store) Release(ctx context.Context, a Act) error {
	return s.actOnGate(ctx, a, "release", `held_since = NULL, probe_at = NULL, paused_until = NULL`) // reason stays: why it was shut last
}

func (s *Store) actOnGate(ctx context.Context, a Act, act, set string) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	_, err := s.pool.Exec(ctx, `
		WITH was AS MATERIALIZED (SELECT held_since IS NOT NULL AS held FROM outbox_gate FOR UPDATE),
		moved AS (UPDATE outbox_gate SET `+set+`, changed_by = $1, changed_at = clock_timestamp())
		INSERT INTO outbox_acts (who, why, act, was) SELECT $1, $2, $3, CASE WHEN held THEN 'held' ELSE 'open' END FROM was`,
		a.Who, a.Why, act)
	return wrap(act, err)
}
