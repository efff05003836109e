package upkeep

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"flexworker/internal/database"
	"flexworker/internal/outbox/lookup"
	"flexworker/internal/outbox/request"
)

const (
	// clockEvery is the time between two searches for times that the database's clock
	// cannot have said, give or take a quarter.
	clockEvery = 30 * time.Second
	// clockFirst is when a worker that starts makes its first search; why not at once, the package comment says.
	clockFirst = 2 * time.Second
	// clockBatch is how many rows of one kind one statement sets right.
	clockBatch = 2000

	// The longest spans from now at which something can be due. What is later was said by a
	// clock that has gone back since.
	longestLease  = 5*time.Minute + request.LeaseMargin            // of the longest FLEX_TIMEOUT that is allowed
	longestRetry  = 24*time.Hour + request.MaxRetryAfter           // of the longest RETRY_MAX_DELAY that is allowed, or a 429
	longestLookup = request.MaxBesidePerson + lookup.LookupLimit*2 // a lookup waits no longer, whoever waits for it
)

// untilNow is the column, or now where the column lies in the future. Null stays null.
func untilNow(column string) string {
	return `CASE WHEN ` + column + ` > clock_timestamp() THEN clock_timestamp() ELSE ` + column + ` END`
}

// earliest is a moment before which the attempt of a row cannot have begun, whatever Postgres's
// clock said: the stream had its message before.
const earliest = `least(o.stream_time, o.received_at, o.uncertain_since, clock_timestamp())`

// rightReceived is received_at; where the clock has gone back since, when the stream got the
// message. A task that is older than that is another request's.
const rightReceived = `CASE WHEN o.received_at ` + database.Ahead + ` OR o.received_at > o.attempt_began_at + interval '10 seconds'
	                         THEN least(o.stream_time, o.received_at, clock_timestamp()) ELSE o.received_at END`

// These statements set right what the database's clock said before it went back, and what would last as
// long as the jump. What remains are times of the past and waits of their usual length.
//
// What a lookup proves rests on these times. An attempt whose beginning cannot be known any more
// began at any moment since the stream got its message, and ended by now: so much of the event log
// has to be read, and the settle time begins anew. A lookup that is under way knows the times from
// before: its number is used up.
//
// A lease is not over: its holder may live and be in the middle of the call. It gets its own length
// from now on.
var (
	clockGateSQL = `/* clock, gate */
	UPDATE outbox_gate
	   SET paused_until = CASE WHEN changed_at ` + database.Ahead + ` AND held_since IS NULL THEN clock_timestamp() + (paused_until - changed_at) ELSE paused_until END,
	       lookup_at = CASE WHEN back THEN ` + untilNow(`lookup_at`) + ` ELSE lookup_at END,
	       changed_at = ` + untilNow(`changed_at`) + `, held_since = ` + untilNow(`held_since`) + `
	  FROM (SELECT $1::boolean OR EXISTS (SELECT FROM outbox_replicas WHERE seen_at ` + database.Ahead + `)) AS known (back)
	 WHERE changed_at ` + database.Ahead + ` OR held_since ` + database.Ahead + ` OR back AND lookup_at > clock_timestamp()`
	clockFreshSQL = `/* clock, fresh */
	WITH back AS MATERIALIZED (
		SELECT id FROM outbox
		 WHERE state = 'pending' AND attempt = 0 AND priority = ANY ('{0,1,2,3,4,5,6,7,8,9}') AND due_at ` + database.Ahead + ` AND received_at ` + database.Ahead + `
		 LIMIT $1 FOR UPDATE SKIP LOCKED)
	UPDATE outbox o SET due_at = greatest(clock_timestamp(), ` + request.NotBeforeSQL + `), received_at = ` + rightReceived + `
	  FROM back WHERE o.id = back.id`
	clockAgainSQL = `/* clock, again */
	WITH back AS MATERIALIZED (
		SELECT id FROM outbox
		 WHERE state = 'pending' AND attempt > 0 AND priority = ANY ('{0,1,2,3,4,5,6,7,8,9}') AND due_at ` + database.Ahead + `
		   AND (attempt_began_at ` + database.Ahead + ` OR received_at ` + database.Ahead + ` OR due_at > now() + $2::interval) AND due_at > greatest(clock_timestamp(), ` + request.NotBeforeSQL + `)
		 LIMIT $1 FOR UPDATE SKIP LOCKED)
	UPDATE outbox o SET due_at = greatest(clock_timestamp(), ` + request.NotBeforeSQL + `), received_at = ` + rightReceived + `,
	       attempt_began_at = CASE WHEN o.attempt_began_at ` + database.Ahead + ` THEN ` + earliest + ` ELSE o.attempt_began_at END,
	       uncertain_since = ` + untilNow(`o.uncertain_since`) + `
	  FROM back WHERE o.id = back.id`
	clockSendingSQL = `/* clock, sending */
	WITH back AS MATERIALIZED (
		SELECT id FROM outbox
		 WHERE state = 'sending' AND (attempt_began_at ` + database.Ahead + ` OR received_at ` + database.Ahead + ` OR leased_until > now() + $2::interval)
		 LIMIT $1 FOR UPDATE SKIP LOCKED)
	UPDATE outbox o SET received_at = ` + rightReceived + `,
	       leased_until = CASE WHEN o.leased_until > clock_timestamp() + $2::interval OR o.attempt_began_at ` + database.Ahead + `
	           THEN clock_timestamp() + least(CASE WHEN o.attempt_began_at ` + database.Ahead + ` THEN o.leased_until - o.attempt_began_at END, $2::interval)
	           ELSE o.leased_until END,
	       attempt_began_at = CASE WHEN o.attempt_began_at ` + database.Ahead + ` THEN ` + earliest + ` ELSE o.attempt_began_at END,
	       uncertain_since = ` + untilNow(`o.uncertain_since`) + `
	  FROM back WHERE o.id = back.id`
	clockUncertainSQL = `/* clock, uncertain */
	WITH back AS MATERIALIZED (
		SELECT id FROM outbox
		 WHERE state = 'uncertain' AND (greatest(attempt_began_at, uncertain_since, received_at, for_person_since) ` + database.Ahead + `
		       OR due_at > now() + $2::interval OR attempt_began_at > uncertain_since + interval '10 seconds'
		       OR received_at > stream_time AND received_at > attempt_began_at + interval '10 seconds')
		 LIMIT $1 FOR UPDATE SKIP LOCKED)
	UPDATE outbox o SET received_at = ` + rightReceived + `,
	       attempt_began_at = CASE WHEN o.attempt_began_at ` + database.Ahead + ` OR o.attempt_began_at > o.uncertain_since + interval '10 seconds' THEN ` + earliest + ` ELSE o.attempt_began_at END,
	       uncertain_since = ` + untilNow(`o.uncertain_since`) + `, for_person_since = ` + untilNow(`o.for_person_since`) + `,
	       due_at = ` + untilNow(`o.due_at`) + `, lookups = lookups + 1
	  FROM back WHERE o.id = back.id`
	clockResultsSQL = `/* clock, results */
	WITH back AS MATERIALIZED (
		SELECT id FROM outbox WHERE settled_at IS NOT NULL AND published_at IS NULL AND settled_at ` + database.Ahead + ` LIMIT $1 FOR UPDATE SKIP LOCKED)
	UPDATE outbox o SET settled_at = clock_timestamp() FROM back WHERE o.id = back.id`
)

// SetBack sets right what the database's clock said before it went back, at most clockBatch
// rows of each kind. back: the clock is known to have gone back just now. It returns how many
// rows it changed, and whether there may be more.
func (u *Upkeep) SetBack(ctx context.Context, back bool) (changed int, more bool, err error) {
	ctx, cancel := database.Bounded(ctx)
	defer cancel()
	var b pgx.Batch
	b.Queue(clockGateSQL, back)
	b.Queue(clockFreshSQL, clockBatch)
	b.Queue(clockAgainSQL, clockBatch, longestRetry)
	b.Queue(clockSendingSQL, clockBatch, longestLease)
	b.Queue(clockUncertainSQL, clockBatch, longestLookup)
	b.Queue(clockResultsSQL, clockBatch)
	sent := u.pool.SendBatch(ctx, &b)
	for range b.Len() {
		tag, err := sent.Exec()
		if err != nil {
			_ = sent.Close() // says the same
			return 0, false, database.Wrap("set back", err)
		}
		changed += int(tag.RowsAffected())
		more = more || tag.RowsAffected() == clockBatch
	}
	return changed, more, database.Wrap("set back", sent.Close())
}
