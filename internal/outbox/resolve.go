package outbox

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"

	"flexworker/internal/crash"
	"flexworker/internal/flex"
)

const (
	// lookupEvery is the least time between two searches of the whole fleet:
	// under the 3 a second that TaskRouter allows for them.
	// https://twilio.com/en-us/changelog/taskrouter-endpoint-rate-limit-correction
	lookupEvery = 400 * time.Millisecond
	// lookupLimit is how long a lookup may take until another replica may make it.
	lookupLimit = 45 * time.Second
	// lookupPoll is the pause after a turn that failed.
	lookupPoll = time.Second
	// lookupSpan is how far apart the attempts of one inquiry may be: the event
	// log is read for all of that time.
	lookupSpan = 10 * time.Second
	// limitedFor is the pause after a 429 of TaskRouter that names no time.
	limitedFor = 3 * time.Second
)

// Resolver finds out what became of uncertain requests. It owns no row: what it
// looks up is postponed past the lookup's limit, and should two ask, the first
// answer counts and the other is recorded, not applied.
type Resolver struct {
	Store    *Store
	Flex     finder
	Policy   Policy
	Log      *slog.Logger
	Counters *Counters

	alone int // searches that have to be made for one key each
}

// An uncertain request as the Resolver takes it.
type uncertain struct {
	id        int64
	requestID string
	lookupKey string // "": there is no task to look for
	attempt   int
	spared    int
	lookups   int
	answered  bool
	since     time.Time     // by Postgres's clock
	age       time.Duration // since then, by the same clock
}

// Run looks up until ctx ends; a lookup that is cut is only made later.
func (r *Resolver) Run(ctx context.Context) {
	for ctx.Err() == nil {
		waiting, err := r.turn(ctx)
		switch {
		case err != nil:
			if ctx.Err() == nil {
				r.Log.Warn("uncertain requests cannot be looked up; trying again", "error", err)
			}
			wait(ctx, lookupPoll, nil)
		case waiting:
			// Another inquiry has to wait until the fleet may search again.
			wait(ctx, lookupEvery, nil)
		default:
			wait(ctx, longestRest, r.Store.doubtful)
		}
	}
}

// turn makes one inquiry and stores what came of it. waiting: there was something
// to ask, so that there may be more.
func (r *Resolver) turn(ctx context.Context) (waiting bool, err error) {
	most := flex.MaxKeys - 1 // one place is the witness's
	if r.alone > 0 {
		most = 1
	}
	q, err := r.Store.takeLookups(ctx, most)
	if err != nil || len(q.asked) == 0 {
		return q.waiting, err
	}
	r.alone = max(r.alone-1, 0)
	crash.At("asking")
	q.settle, q.lease = r.Policy.Settle, r.Store.leaseFor
	findings := make([]Finding, len(q.asked))
	begun := time.Now()
	if q.workspace == "" {
		for i := range findings {
			findings[i].Why = "its call carried no lookup key, or under another LOOKUP_ATTRIBUTE, or named no workspace: there is no task to look for"
		}
	} else {
		limit, cancel := context.WithTimeout(ctx, lookupLimit)
		defer cancel()
		findings, err = q.lookUp(limit, r.Flex)
		if ctx.Err() != nil {
			return true, nil
		}
		r.slowDown(ctx, err)
	}
	for i, u := range q.asked {
		if findings[i].Alone {
			r.alone++
		}
		if err := r.resolve(ctx, u, findings[i], time.Since(begun)); err != nil {
			return true, err
		}
	}
	return true, nil
}

// slowDown obeys TaskRouter's 429 for the whole fleet.
func (r *Resolver) slowDown(ctx context.Context, err error) {
	var e *flex.LookupError
	if !errors.As(err, &e) || !e.Limited {
		return
	}
	pause := e.RetryAfter
	if pause == 0 {
		pause = limitedFor
	}
	if err := r.Store.pauseLookups(ctx, pause); err != nil {
		r.Log.Warn("lookups could not be slowed down", "error", err)
	}
}

// resolve: uncertain -> what the policy makes of the finding.
func (r *Resolver) resolve(ctx context.Context, u uncertain, f Finding, took time.Duration) error {
	d := doubt{attempt: u.attempt, counted: u.attempt - u.spared, lookups: u.lookups, age: u.age,
		answered: u.answered, askable: u.lookupKey != ""}
	m := r.Policy.afterLookup(d, f, rand.Float64())
	r.note(u, f, m, took)
	crash.At("found")
	done, err := r.Store.resolve(ctx, u, f, m, took)
	crash.At("resolved")
	if err != nil {
		return err
	}
	if done == nil {
		r.Log.Info("the finding came too late: the request was resolved meanwhile", "request_id", u.requestID)
		return nil
	}
	if done.owed() {
		r.Store.settled.offer(done)
	}
	if m.to == Pending {
		r.Store.due.raise()
	}
	return nil
}

// note writes the one log line of a lookup.
func (r *Resolver) note(u uncertain, f Finding, m move, took time.Duration) {
	r.Counters.Lookups[f.Kind].Add(1)
	level := slog.LevelInfo
	if m.person || len(f.Others) > 0 {
		level = slog.LevelWarn
	}
	if len(f.Others) > 0 {
		r.Counters.Duplicates.Add(1)
	}
	r.Log.Log(context.Background(), level, "lookup",
		"request_id", u.requestID, "attempt", u.attempt, "lookup", u.lookups, "finding", f.Kind.String(),
		"interaction_sid", f.Outcome.InteractionSID, "others", f.Others, "why", f.Why, "age_ms", u.age.Milliseconds(),
		"took_ms", took.Milliseconds(), "to", string(m.to), "delay_ms", m.delay.Milliseconds(), "person", m.person)
}

// takeLookups takes what may be asked in one search, at most most requests: uncertain requests that
// are due, of the workspace and the time of the one that is due longest. It
// postpones them
// past the limit of a lookup. Those without a task come alone, and cost no
// search. Nothing is taken while the fleet has made its searches for the moment
// or is held: then there are no credentials to ask with.
func (s *Store) takeLookups(ctx context.Context, most int) (inquiry, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	var q inquiry
	err := s.pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM outbox WHERE state = 'uncertain' AND due_at <= now())`).Scan(&q.waiting)
	if err != nil || !q.waiting {
		return q, wrap("take lookups", err)
	}
	var since time.Time
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		err := tx.QueryRow(ctx, `
			SELECT coalesce(CASE WHEN lookup_attribute = $1 THEN request #>> '{routing,properties,workspace_sid}' END, ''), uncertain_since
			  FROM outbox WHERE state = 'uncertain' AND due_at <= now()
			 ORDER BY due_at, id LIMIT 1`, s.Attribute).Scan(&q.workspace, &since)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		if q.workspace != "" {
			tag, err := tx.Exec(ctx, `
				UPDATE outbox_gate SET lookup_at = clock_timestamp() + $1::interval
				 WHERE lookup_at <= clock_timestamp() AND held_since IS NULL`, lookupEvery)
			if err != nil || tag.RowsAffected() == 0 {
				return err
			}
		}
		q.witness = s.witnesses.key(q.workspace, time.Now())
		q.asked, err = s.postpone(ctx, tx, q.workspace, since, most)
		return err
	})
	if err != nil {
		return inquiry{}, wrap("take lookups", err)
	}
	for _, u := range q.asked {
		if u.lookupKey == q.witness {
			q.witness = ""
		}
	}
	return q, nil
}

func (s *Store) postpone(ctx context.Context, tx pgx.Tx, workspace string, since time.Time, most int) ([]uncertain, error) {
	rows, err := tx.Query(ctx, `
		WITH due AS MATERIALIZED (
			SELECT id FROM outbox
			 WHERE state = 'uncertain' AND due_at <= now()
			   AND coalesce(CASE WHEN lookup_attribute = $6 THEN request #>> '{routing,properties,workspace_sid}' END, '') = $1
			   AND uncertain_since BETWEEN $2::timestamptz - $3::interval AND $2::timestamptz + $3::interval
			 ORDER BY due_at, id LIMIT $4 FOR UPDATE SKIP LOCKED)
		UPDATE outbox o SET due_at = clock_timestamp() + $5::interval, lookups = lookups + 1
		  FROM due WHERE o.id = due.id
		RETURNING o.id, request_id, coalesce(CASE WHEN $1 <> '' THEN lookup_key END, ''), attempt, spared, lookups, answered,
		          uncertain_since, clock_timestamp() - uncertain_since`, workspace, since, lookupSpan, most, lookupLimit, s.Attribute)
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
