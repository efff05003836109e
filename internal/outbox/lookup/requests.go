package lookup

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/jackc/pgx/v5"

	"flexworker/internal/database"
	"flexworker/internal/loop"
	"flexworker/internal/outbox/gate"
	"flexworker/internal/outbox/request"
	"flexworker/internal/outbox/results"
)

// mayAskNow: the fleet may search for tasks, at the latest in $1. No pause is longer
// than maxRetryAfter: what is later was said by a clock that has gone back since.
const mayAskNow = `NOT lookup_at BETWEEN clock_timestamp() + $1::interval AND clock_timestamp() + ` + gate.LongestPause

// eligible: a request that has no task to look for, or whose task may be searched for.
const eligible = `(lookup_attribute IS NULL OR ` + mayAskNow + `)`

// WorkspaceOf is the workspace in which a request has a task to look for; the empty text for none.
const WorkspaceOf = `coalesce(CASE WHEN lookup_attribute IS NOT NULL THEN ` + request.WorkspaceSQL + ` END, '')`

// dueLookup: a lookup is due, and $2 has not the workspace.
const dueLookup = `state = 'uncertain' AND due_at <= now() AND ` + eligible + ` AND ($2::text[] IS NULL OR ` + WorkspaceOf + ` <> ALL ($2))`

// LongestSettle is the longest of the settle times in force in the fleet and this
// process's own, which is a parameter of the statement.
func LongestSettle(own string) string {
	return `greatest(` + own + `::interval, (SELECT max(lookup_settle) FROM outbox_replicas WHERE seen_at > now() - interval '1 hour'))`
}

// lookupOrder: those of which no person was asked yet go first, then who is due longest.
const lookupOrder = `coalesce(for_person_since, '-infinity'), due_at, outbox.id`

// Take takes what may be asked in one search, at most most requests:
// uncertain ones that are due, of the workspace, the attribute and the time of the first.
// Those of the workspaces that are busy stay. It postpones them past the limit of a
// lookup. Those without a task come
// alone, and cost no search: they are taken also while the fleet has made its searches
// for the moment, or TaskRouter has paused them, and while it is held, when there are
// no credentials to ask with.
//
// settle is this process's LOOKUP_SETTLE. Of those in force in the fleet the longest
// counts: whoever set it knows that TaskRouter can be that slow.
func (s *Requests) Take(ctx context.Context, most int, settle time.Duration, busy []string) (Batch, error) {
	ctx, cancel := database.Bounded(ctx)
	defer cancel()
	var q Batch
	err := s.Pool.QueryRow(ctx, `
		SELECT EXISTS (SELECT FROM outbox, outbox_gate WHERE `+dueLookup+`)`, LookupEvery, busy).Scan(&q.Waiting)
	if err != nil || !q.Waiting {
		return q, database.Wrap("take lookups", err)
	}
	// Not in the transaction: whoever has a request's row must not wait for the gate's. The row is let go
	// at once; that it could be had shows that nobody holds the first.
	var began, since time.Time
	err = s.Pool.QueryRow(ctx, `
		SELECT `+WorkspaceOf+`, coalesce(lookup_attribute, ''), attempt_began_at, uncertain_since,
		       `+LongestSettle("$3")+`
		  FROM outbox, outbox_gate
		 WHERE `+dueLookup+`
		 ORDER BY `+lookupOrder+` LIMIT 1 FOR UPDATE OF outbox SKIP LOCKED`, time.Duration(0), busy, settle).Scan(&q.Workspace, &q.Attribute, &began, &since, &q.Settle)
	if errors.Is(err, pgx.ErrNoRows) {
		return q, nil
	}
	if err != nil {
		return Batch{}, database.Wrap("take lookups", err)
	}
	err = pgx.BeginFunc(ctx, s.Pool, func(tx pgx.Tx) error {
		if q.Workspace != "" {
			tag, err := tx.Exec(ctx, `
				UPDATE outbox_gate SET lookup_at = clock_timestamp() + $2::interval WHERE `+mayAskNow, time.Duration(0), LookupEvery)
			if err != nil || tag.RowsAffected() == 0 {
				return err
			}
		}
		if q.Attribute == s.Attribute {
			q.CanaryKey = s.CanaryKeys.Key(q.Workspace, time.Now())
		}
		var err error
		q.Asked, err = s.postpone(ctx, tx, q, began, since, most)
		return err
	})
	if err != nil {
		return Batch{}, database.Wrap("take lookups", err)
	}
	q.Later = LaterCreation(ctx, s.Pool, q)
	for _, u := range q.Asked {
		if u.LookupKey == q.CanaryKey {
			q.CanaryKey = ""
		}
	}
	return q, nil
}

// postpone: the requests of one lookup batch, whose attempts were at about the same time as
// one that began and ended then: the event log is read once for all of them.
func (s *Requests) postpone(ctx context.Context, tx pgx.Tx, q Batch, began, since time.Time, most int) ([]Input, error) {
	rows, err := tx.Query(ctx, `
		WITH due AS MATERIALIZED (
			SELECT id FROM outbox
			 WHERE state = 'uncertain' AND due_at <= now()
			   AND `+WorkspaceOf+` = $1 AND coalesce(lookup_attribute, '') = $2
			   AND attempt_began_at >= $3::timestamptz - $5::interval
			   AND uncertain_since BETWEEN $4::timestamptz - $5::interval AND $4::timestamptz + $5::interval
			 ORDER BY `+lookupOrder+` LIMIT $6 FOR UPDATE SKIP LOCKED)
		UPDATE outbox o SET due_at = clock_timestamp() + $7::interval, lookups = lookups + 1
		  FROM due WHERE o.id = due.id
		RETURNING o.id, request_id, coalesce(CASE WHEN $1 <> '' THEN lookup_key END, ''), attempt, uncounted, lookups, answered,
		          received_at, attempt_began_at, uncertain_since, clock_timestamp() - attempt_began_at, clock_timestamp() - uncertain_since,
		          for_person_since IS NOT NULL, coalesce(clock_timestamp() - for_person_since, '0'),
		          coalesce(error_kind = 'lost', false) OR (SELECT held_since IS NOT NULL FROM outbox_gate),
		          CASE WHEN cancel_requested_at IS NOT NULL THEN 'cancelled' ELSE coalesce(ends_as, '') END`,
		q.Workspace, q.Attribute, began, since, LookupSpan, most, LookupLimit)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (Input, error) {
		var u Input
		err := row.Scan(&u.ID, &u.RequestID, &u.LookupKey, &u.Attempt, &u.Uncounted, &u.Lookups, &u.Answered,
			&u.Received, &u.Began, &u.Since, &u.Lasted, &u.Age, &u.Waits, &u.Waited, &u.theirs, &u.EndsAs)
		return u, err
	})
}

// LaterMost is how many settled requests are read for a later creation.
const LaterMost = 1000

// LaterCreation is the first creation after any moment at which a task of the asked
// attempts could have been created. It is looked for where absence would count now. The
// two indices are read from that moment on and from now back, and no further than LaterMost
// rows each: what another workspace has created meanwhile hides none for ever. An error is
// ignored, be it that of a row which Postgres cannot read: then none is known, and less
// is proved.
func LaterCreation(ctx context.Context, pool *pgxpool.Pool, q Batch) (c Creation) {
	var after time.Time
	counts := false
	for _, u := range q.Asked {
		if u.Since.After(after) {
			after = u.Since
		}
		counts = counts || u.Age >= q.Settle
	}
	if q.Workspace == "" || !counts {
		return Creation{}
	}
	err := pool.QueryRow(ctx, laterSQL, after.Add(q.Settle), LaterMost, q.Attribute, q.Workspace, q.Settle).Scan(&c.Key, &c.Began, &c.Settled, &c.Ripe)
	if err != nil {
		return Creation{}
	}
	return c
}

const laterSQL = `
	SELECT lookup_key, attempt_began_at, settled_at, settled_at < clock_timestamp() - $5::interval
	  FROM ((SELECT * FROM outbox WHERE published_at IS NOT NULL AND settled_at > $1 ORDER BY settled_at, id LIMIT $2)
	        UNION ALL
	        (SELECT * FROM outbox WHERE settled_at IS NOT NULL AND published_at IS NULL AND settled_at > $1 ORDER BY settled_at, id LIMIT $2)
	        UNION ALL
	        (SELECT * FROM outbox WHERE published_at IS NOT NULL AND settled_at > $1 ORDER BY settled_at DESC, id DESC LIMIT $2)
	        UNION ALL
	        (SELECT * FROM outbox WHERE settled_at IS NOT NULL AND published_at IS NULL AND settled_at > $1 ORDER BY settled_at DESC, id DESC LIMIT $2)) AS o
	 WHERE state = 'created' AND resolved_by = 'response' AND lookup_attribute = $3 AND attempt_began_at > $1 AND NOT undecided
	   AND ` + WorkspaceOf + ` = $4
	 ORDER BY settled_at LIMIT 1`

// Resolve stores a finding: the row of history always, the move only while the
// request still waits for this answer. It returns nil when it does not.
//
// What is proved absent, is so for all of the time from attempt_began_at on: no earlier
// attempt is undecided any more, nor was any answered. What is sent again unproved is.
// Where the answer to the latest attempt only had to wait for that proof, it is given as
// it came. What a person cancelled while the lookup was made is looked up again. So is what
// was asked for longer than LookupLimit ago, by Postgres's clock, and found absent: the clocks
// of a machine that was suspended do not tell.
func (s *Requests) Resolve(ctx context.Context, u Input, f request.Finding, m request.Move, took time.Duration) (*results.Settled, error) {
	ctx, cancel := database.Bounded(ctx)
	defer cancel()
	kind, why := Reason(u, f, m)
	rows, err := s.Pool.Query(ctx, `
		WITH moved AS (
			UPDATE outbox o
			   SET state = $4, due_at = CASE WHEN $4 IN ('pending', 'uncertain') AND NOT $5 THEN clock_timestamp() + $6::interval END,
			       interaction_sid = $7, task_sid = coalesce($8, o.task_sid), assignment_status = coalesce($9, o.assignment_status),
			       response = CASE WHEN $4 = 'created' THEN $10::text::json ELSE o.response END,
			       resolved_by = CASE WHEN $4 IN ('created', 'abandoned') THEN 'lookup' WHEN $4 = 'rejected' THEN 'response'
			                          WHEN $4 = 'cancelled' THEN 'operator' END,
			       error_kind = CASE WHEN $4 = 'created' THEN $11 WHEN $20 THEN coalesce('http_' || o.http_status, o.error_kind) ELSE coalesce($11, o.error_kind) END,
			       error_message = CASE WHEN $4 = 'created' THEN $12 WHEN $20 THEN (
			           SELECT error FROM outbox_attempts WHERE outbox_id = $1 AND kind = 'attempt' AND number = $2 AND applied ORDER BY id DESC LIMIT 1)
			                            ELSE coalesce($12, o.error_message) END,
			       for_person_since = CASE WHEN $17 THEN coalesce(o.for_person_since, clock_timestamp()) END,
			       ends_as = CASE WHEN $4 = 'uncertain' THEN o.ends_as END,
			       undecided = CASE WHEN $18 THEN false WHEN $19 THEN true ELSE o.undecided END, answered = o.answered AND NOT $18,
			       settled_at = CASE WHEN $4 IN ('created', 'rejected', 'abandoned', 'expired', 'cancelled') THEN clock_timestamp() END
			 WHERE o.id = $1 AND o.attempt = $2 AND o.state = 'uncertain' AND o.lookups = $3
			   AND NOT ($4 = 'pending' AND o.cancel_requested_at IS NOT NULL)
			   AND NOT ($21 AND o.due_at <= clock_timestamp())
			RETURNING `+results.SettledColumns+`),
		history AS (
			INSERT INTO outbox_attempts (outbox_id, kind, number, worker, started_at, took, outcome, error, applied)
			VALUES ($1, 'lookup', $3, $13, clock_timestamp() - $14::interval, $14, $15, $16, EXISTS (SELECT FROM moved)))
		SELECT `+results.SettledNames+` FROM moved`,
		u.ID, u.Attempt, u.Lookups, string(m.To), m.Person && u.LookupKey == "", m.Delay,
		database.OrNull(f.Outcome.InteractionSID), database.OrNull(request.Text(f.TaskSID)), database.OrNull(request.Text(f.Outcome.AssignmentStatus)), database.JSONOrNull(f.Outcome.Response),
		kind, why, s.Worker, took, f.Kind.String(), database.OrNull(request.Text(f.Why+f.Duplicate())),
		m.Person, m.To != request.Uncertain && m.To != request.Created && !m.Undecided, m.To != request.Uncertain && m.Undecided,
		!m.Undecided && m.To == u.EndsAs && (m.To == request.Rejected || m.To == request.Abandoned), f.Kind == request.Absent)
	if err != nil {
		return nil, database.Wrap("resolve", err)
	}
	moved, err := pgx.CollectRows(rows, results.ScanSettled)
	if err != nil || len(moved) == 0 {
		return nil, database.Wrap("resolve", err)
	}
	return &moved[0], nil
}

// Reason is what stands in the row as its reason after a finding; nil leaves the
// one that is there.
func Reason(u Input, f request.Finding, m request.Move) (kind, why *string) {
	say := func(kind, why string) (*string, *string) {
		return database.OrNull(kind), database.OrNull(why + request.Text(f.Why))
	}
	// What the latest attempt came to is known where there is an end that waits.
	earlier := map[request.State]string{
		request.Rejected:  "Flex refused the latest attempt, but an earlier one may have created it; ",
		request.Abandoned: "no attempt is left, but an earlier one may have created it; ",
		request.Expired:   "expires_at has passed, but an earlier attempt may have created it; ",
		request.Cancelled: "an operator cancelled it, but an attempt may have created it; ",
	}[u.EndsAs]
	switch {
	case f.Kind == request.Found:
		if d := f.Duplicate(); d != "" {
			return database.OrNull("duplicate"), database.OrNull(request.Text(d))
		}
		return nil, nil
	case m.Person:
		return say("undecided", earlier+"a person has to decide whether it exists: ")
	case m.Undecided && m.To == request.Pending:
		return say("undecided", "whether it exists cannot be found out, and UNCERTAIN_POLICY=retry sends it again: ")
	case m.Undecided && m.To == request.Abandoned:
		return say("undecided", earlier+"whether it exists cannot be found out, and UNCERTAIN_POLICY or the number of attempts ends it; to send it again may create it twice: ")
	case m.To == request.Abandoned && u.EndsAs == "":
		return say("attempts_used_up", "the last attempt is proved absent and no attempt is left: ")
	case m.To == request.Pending:
		return say("absent", "the attempt did not create it: ")
	case m.To == request.Cancelled:
		return say("cancelled", "cancelled, and no attempt created it: ")
	case m.To == request.Expired:
		return say("expired", "expires_at passed, and none of the attempts before created it: ")
	default:
		return nil, nil
	}
}

// wakeWaiting makes those lookups due for which a person waits, at most wakeMost of one
// workspace: TaskRouter answers again for it.
func (s *Requests) wakeWaiting(ctx context.Context, workspace, attribute string) (int64, error) {
	ctx, cancel := database.Bounded(ctx)
	defer cancel()
	tag, err := s.Pool.Exec(ctx, `/* wake waiting */
		WITH waiting AS MATERIALIZED (
			SELECT id FROM outbox
			 WHERE state = 'uncertain' AND `+results.ForPerson+` AND due_at > clock_timestamp() + $4::interval
			   AND `+WorkspaceOf+` = $1 AND coalesce(lookup_attribute, '') = $2
			 ORDER BY `+lookupOrder+` LIMIT $3 FOR UPDATE SKIP LOCKED)
		UPDATE outbox o SET due_at = clock_timestamp() FROM waiting WHERE o.id = waiting.id`, workspace, attribute, wakeMost, LookupLimit)
	return tag.RowsAffected(), database.Wrap("wake waiting", err)
}

// Pause keeps the whole fleet from asking TaskRouter for so long.
func (s *Requests) Pause(ctx context.Context, d time.Duration) error {
	ctx, cancel := database.Bounded(ctx)
	defer cancel()
	_, err := s.Pool.Exec(ctx, `
		UPDATE outbox_gate SET lookup_at = greatest(lookup_at, clock_timestamp() + $1::interval)`, min(d, request.MaxRetryAfter))
	return database.Wrap("pause lookups", err)
}

// Requests are the uncertain requests in the tables, as one process looks them up.
type Requests struct {
	Pool   *pgxpool.Pool
	Worker string // this process's name, as the history shows it
	// Attribute is the task attribute in which this process's calls carry the lookup key;
	// "": they carry none. It is noted with each attempt: under another name nothing would
	// be found, which must not pass for absence.
	Attribute  string
	CanaryKeys *CanaryKeys
	// Waiting is raised when a lookup may be due.
	Waiting loop.Signal
}
