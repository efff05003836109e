package attempt

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"flexworker/internal/crash"
	"flexworker/internal/database"
	"flexworker/internal/flex"
	"flexworker/internal/outbox/gate"
	"flexworker/internal/outbox/request"
	"flexworker/internal/outbox/results"
)

// ErrLeaseLost is returned for a lease that no longer stands: the request was
// settled, or leased again, by somebody else. What was to be recorded is in
// outbox_attempts, not applied, with the sid of what it created. It does not come
// for a lease that merely lapsed.
var ErrLeaseLost = errors.New("outbox: the lease is lost")

// recorded is what became of a record: the result to publish, once settled, or why it was not applied. That is
// database.ErrLocked and othersError, for which nothing was written, or ErrLeaseLost.
type recorded struct {
	settled *results.Settled
	err     error
}

// recordBatch: sending -> what the policy decided, together with the row of history. Where an outcome asks for a pause, the
// gate is paused before, in a transaction of its own: a crash in between leaves the gate paused and the request sending.
//
// A lease that lapsed meanwhile but was neither resolved nor taken by another
// is still this attempt's: what Flex told is better than what a lookup can find.
// And where it went back to pending but was not sent again yet, what Flex answered still
// counts: that it was created after all, or refused for good, or that it may have been
// created, as a 2xx without a sid says.
//
// Rows are updated in the order of ids, which
// the arrays have: then two batches that share some do not wait for each other.
// Nothing but the plan promises that; where it fails, a deadlock is tried again.
func (c *Completer) recordBatch(ctx context.Context, records []Record) (done []recorded, err error) {
	began := time.Now()
	defer func() { err = c.Stall.Tried(ctx, c.pool, began, err) }()
	ctx, cancel := database.Bounded(ctx)
	defer cancel()
	if c.wary.Now() {
		if err := c.pause(ctx, records); err != nil {
			return nil, database.Wrap("record", database.NotSent(err))
		}
		return c.recordApart(ctx, records)
	}
	crash.At("recording")
	if err := c.pause(ctx, records); err != nil {
		return nil, database.Wrap("record", database.NotSent(err))
	}
	done, err = c.recordAtOnce(ctx, records)
	crash.At("recorded")
	if database.RowsLocked(ctx, c.pool, err, "outbox", "outbox_attempts") {
		c.wary.Met()
		return c.recordApart(ctx, records)
	}
	if err != nil {
		return nil, database.Wrap("record", err)
	}
	return done, nil
}

// recordAtOnce is recordBatch where no row is locked: one statement, or a transaction where somebody has to be
// asked first whose an interaction is.
func (c *Completer) recordAtOnce(ctx context.Context, records []Record) (done []recorded, err error) {
	conn, err := database.Acquire(ctx, c.pool)
	if err != nil {
		return nil, err
	}
	defer conn.Release()
	if !slices.ContainsFunc(records, func(r Record) bool { return r.Unproved() }) {
		return c.recordTogether(ctx, conn, records)
	}
	done = make([]recorded, len(records))
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error { return c.recordOwn(ctx, tx, records, done, true) })
	return done, err
}

// recordApart is recordBatch for all but those whose row, or whose interaction, somebody holds locked.
func (c *Completer) recordApart(ctx context.Context, records []Record) ([]recorded, error) {
	ctx, cancel := database.Bounded(ctx)
	defer cancel()
	conn, err := database.Acquire(ctx, c.pool)
	if err != nil {
		return nil, database.Wrap("record", err)
	}
	defer conn.Release()
	done := make([]recorded, len(records))
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		ids := make([]int64, len(records))
		for i := range records {
			ids[i] = records[i].Lease.ID
		}
		slices.Sort(ids)
		held, err := database.LockFree(ctx, tx, "outbox", slices.Compact(ids))
		if err != nil {
			return err
		}
		if len(held) > 0 {
			c.wary.Met()
		}
		for i := range records {
			if held[records[i].Lease.ID] {
				done[i].err = database.ErrLocked
			}
		}
		return c.recordOwn(ctx, tx, records, done, false)
	})
	if err != nil {
		return nil, database.Wrap("record", err)
	}
	return done, nil
}

// recordOwn writes the records that are not locked and name no interaction of another request.
func (c *Completer) recordOwn(ctx context.Context, tx pgx.Tx, records []Record, done []recorded, patiently bool) error {
	if err := findOwners(ctx, tx, records, done, patiently); err != nil {
		return err
	}
	var which []int
	var own []Record
	for i := range records {
		if done[i].err == nil {
			which, own = append(which, i), append(own, records[i])
		}
	}
	if len(own) == 0 {
		return nil
	}
	some, err := c.recordTogether(ctx, tx, own)
	for n, i := range which[:len(some)] {
		done[i] = some[n]
	}
	return err
}

// recordTogether writes all of the records in one statement.
func (c *Completer) recordTogether(ctx context.Context, db interface {
	SendBatch(context.Context, *pgx.Batch) pgx.BatchResults
}, records []Record) ([]recorded, error) {
	var b pgx.Batch
	var columns recordColumns
	at := make(map[[2]int64]int, len(records)) // by id and attempt
	order := make([]int, len(records))
	for i := range records {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(records[a].Lease.ID, records[b].Lease.ID) })
	rows := make([]*results.Settled, len(records))
	for _, i := range order {
		rows[i] = records[i].asSettled()
		columns.append(&records[i], rows[i])
		at[[2]int64{records[i].Lease.ID, int64(records[i].Lease.Attempt)}] = i
	}
	b.Queue(recordSQL, columns.id, columns.attempt, columns.state, columns.delay, columns.uncounted, columns.interactionSID, columns.taskSID,
		columns.assignmentStatus, columns.response, columns.errorKind, columns.errorMessage, columns.httpStatus, columns.twilioCode, columns.twilioRequestID,
		columns.answered, columns.outcome, columns.took, c.worker, columns.endsAs)
	sent := db.SendBatch(ctx, &b)
	moved, err := sent.Query()
	if err != nil {
		return nil, cmp.Or(err, sent.Close())
	}
	done := make([]recorded, len(records))
	for i := range done {
		done[i].err = ErrLeaseLost // unless it is among these rows
	}
	var id int64
	var attempt, revision int
	var state request.State
	var settledAt *time.Time
	_, err = pgx.ForEachRow(moved, []any{&id, &attempt, &revision, &state, &settledAt}, func() error {
		i := at[[2]int64{id, int64(attempt)}]
		done[i].err = nil
		// What a person had cancelled meanwhile is read from the table by the Publisher.
		if settledAt != nil && state == records[i].Move.To {
			at := *settledAt
			done[i].settled, rows[i].Revision, rows[i].SettledAt = rows[i], revision, &at
		}
		return nil
	})
	return done, cmp.Or(err, sent.Close()) // which waits for the commit, or says the same error again
}

// asSettled is the row of a record that has settled it, as a read of it would give it. Its revision, and when it was
// settled, Postgres says.
func (r *Record) asSettled() *results.Settled {
	o, l := &r.Told, &r.Lease
	s := &results.Settled{
		ID: l.ID, RequestID: l.RequestID, Source: l.Source, State: r.Move.To, Attempt: l.Attempt, Request: l.Request,
		InteractionSID: database.OrNull(o.InteractionSID), TaskSID: database.OrNull(request.Text(o.TaskSID)), AssignmentStatus: database.OrNull(request.Text(o.AssignmentStatus)),
		Response: o.Response, ErrorKind: reason(r), ErrorMessage: database.OrNull(request.Text(o.Message)),
		HTTPStatus: database.IntOrNull(o.HTTPStatus), TwilioCode: database.IntOrNull(o.TwilioCode), TwilioRequestID: database.OrNull(request.Text(o.RequestID)),
		Warnings: l.Warnings, ReceivedAt: l.ReceivedAt,
		Asked: results.Asked{Stream: l.Stream, Sequence: l.Sequence, Traceparent: database.OrNull(l.Traceparent), Tracestate: database.OrNull(l.Tracestate)},
	}
	if s.State == request.Created || s.State == request.Rejected {
		s.ResolvedBy = database.OrNull("response")
	}
	return s
}

// recordSQL moves the rows whose lease still stands and writes all histories.
//
// However late an outcome is recorded, its call was over when its lease was: an
// attempt dated later would lie outside the time that the event log is read for.
// And a lookup that is under way over an uncertain row does not know the outcome: lookups
// is raised, so that what that lookup finds is recorded and not obeyed. A request that is uncertain
// again was announced once for this attempt.
//
// Where the move has an end that waits for lookups, this attempt created nothing: the
// time in which an earlier one could have been under way stays.
//
// The arrays are unnested in the SELECT list, where all go on together: in FROM each
// is first kept in a store of its own, 1.5 us a row.
const (
	recordSQL = `/* record */
	WITH told AS MATERIALIZED (
		SELECT unnest($1::bigint[]) AS id, unnest($2::integer[]) AS attempt, unnest($3::text[]) AS state, unnest($4::interval[]) AS delay,
		       unnest($5::integer[]) AS uncounted, unnest($6::text[]) AS interaction_sid, unnest($7::text[]) AS task_sid,
		       unnest($8::text[]) AS assignment_status, unnest($9::text[]) AS response, unnest($10::text[]) AS error_kind,
		       unnest($11::text[]) AS error_message, unnest($12::integer[]) AS http_status, unnest($13::integer[]) AS twilio_code,
		       unnest($14::text[]) AS twilio_request_id, unnest($15::boolean[]) AS answered, unnest($16::text[]) AS outcome,
		       unnest($17::interval[]) AS took, unnest($19::text[]) AS ends_as
		  FROM (SELECT ` + database.Patiently + `) AS wait),
	moved AS (
		UPDATE outbox o
		   SET state = ` + ledTo + `, leased_by = NULL, leased_until = NULL,
		       due_at = CASE WHEN ` + ledTo + ` IN ('pending', 'uncertain') THEN clock_timestamp() + CASE WHEN ` + ledTo + ` = t.state THEN t.delay ELSE '0' END END,
		       uncounted = least(o.uncounted + t.uncounted, o.attempt), -- a retry has uncounted all
		       interaction_sid = t.interaction_sid, task_sid = t.task_sid, assignment_status = t.assignment_status,
		       response = CASE WHEN t.outcome = 'released' THEN o.response ELSE t.response::json END,
		       resolved_by = CASE WHEN t.state IN ('created', 'rejected') THEN 'response' WHEN ` + ledTo + ` = 'cancelled' THEN 'operator' END,
		       error_kind = CASE WHEN t.state = 'pending' AND o.cancel_requested_at IS NOT NULL THEN 'cancelled' ELSE t.error_kind END, error_message = t.error_message, http_status = t.http_status,
		       twilio_code = t.twilio_code, twilio_request_id = t.twilio_request_id,
		       uncertain_since = CASE WHEN t.state = 'uncertain' AND (t.ends_as IS NULL OR o.uncertain_since IS NULL)
		                              THEN least(clock_timestamp(), coalesce(o.leased_until, o.uncertain_since)) ELSE o.uncertain_since END,
		       answered = t.answered OR o.undecided AND o.answered, lookups = CASE WHEN o.state = 'sending' THEN 0 ELSE o.lookups + 1 END,
		       for_person_since = NULL, ends_as = t.ends_as,
		       announced_at = CASE WHEN o.state = 'uncertain' AND ` + ledTo + ` = 'uncertain' THEN o.announced_at END,
		       settled_at = CASE WHEN ` + ledTo + ` IN ('created', 'rejected', 'abandoned', 'cancelled') THEN clock_timestamp() END
		  FROM told t
		 WHERE o.id = t.id AND o.attempt = t.attempt AND (o.state = 'sending' OR o.state = 'uncertain' AND o.ends_as IS NULL
		       OR o.state IN ('pending', 'uncertain') AND (t.state IN ('created', 'rejected') OR t.answered OR t.ends_as IS NOT NULL))
		RETURNING o.id, o.attempt, o.revision, o.state, o.settled_at),
	history AS (
		INSERT INTO outbox_attempts (outbox_id, kind, number, worker, started_at, took, http_status, twilio_code,
		       twilio_request_id, outcome, error, applied)
		SELECT t.id, 'attempt', t.attempt, $18, clock_timestamp() - coalesce(t.took, '0'), t.took, t.http_status, t.twilio_code,
		       t.twilio_request_id, t.outcome, CASE WHEN applied THEN t.error_message ELSE coalesce(t.error_message, t.interaction_sid) END, applied
		  FROM (SELECT *, (id, attempt) IN (SELECT id, attempt FROM moved) AS applied FROM told OFFSET 0) AS t) -- asked once a row
	SELECT id, attempt, revision, state, settled_at FROM moved`

	// ledTo is the state to which an outcome leads: of a request that a person cancelled
	// while it was uncertain, never pending.
	ledTo = `CASE WHEN t.state = 'pending' AND o.cancel_requested_at IS NOT NULL
		                  THEN CASE WHEN o.undecided THEN 'uncertain' ELSE 'cancelled' END ELSE t.state END`
)

// recordColumns are the arrays that recordSQL unnests: one element a record.
type recordColumns struct {
	id                         []int64
	attempt, uncounted         []int32
	state, outcome             []string
	delay                      []time.Duration
	took                       []*time.Duration
	interactionSID, taskSID    []*string
	assignmentStatus, response []*string
	errorKind, errorMessage    []*string
	httpStatus, twilioCode     []*int
	twilioRequestID            []*string
	answered                   []bool
	endsAs                     []*string
}

// append adds a record, and the row that it makes.
func (c *recordColumns) append(r *Record, row *results.Settled) {
	o := &r.Told
	c.id = append(c.id, r.Lease.ID)
	c.attempt = append(c.attempt, int32(r.Lease.Attempt))
	c.state = append(c.state, string(r.Move.To))
	c.outcome = append(c.outcome, r.Outcome)
	c.delay = append(c.delay, r.Move.Delay)
	var uncounted int32
	if r.Move.Uncounted {
		uncounted = 1
	}
	c.uncounted = append(c.uncounted, uncounted)
	var took *time.Duration
	if o.Took > 0 {
		took = &o.Took
	}
	c.took = append(c.took, took)
	c.interactionSID = append(c.interactionSID, row.InteractionSID)
	c.taskSID = append(c.taskSID, row.TaskSID)
	c.assignmentStatus = append(c.assignmentStatus, row.AssignmentStatus)
	c.response = append(c.response, database.JSONOrNull(row.Response))
	c.errorKind = append(c.errorKind, row.ErrorKind)
	c.errorMessage = append(c.errorMessage, row.ErrorMessage)
	c.httpStatus = append(c.httpStatus, row.HTTPStatus)
	c.twilioCode = append(c.twilioCode, row.TwilioCode)
	c.twilioRequestID = append(c.twilioRequestID, row.TwilioRequestID)
	c.answered = append(c.answered, o.Answered && o.Kind == flex.Uncertain)
	c.endsAs = append(c.endsAs, database.OrNull(string(r.Move.EndsAs)))
}

// pause pauses the gate as far as the outcomes ask for it.
func (c *Completer) pause(ctx context.Context, records []Record) error {
	longest := Record{}
	for i := range records {
		if records[i].Pause > longest.Pause {
			longest = records[i]
		}
	}
	if longest.Pause == 0 {
		return nil
	}
	return gate.Pause(ctx, c.pool, c.worker, longest.Pause, longest.Told.Message)
}
