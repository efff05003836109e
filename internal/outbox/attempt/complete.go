package attempt

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"flexworker/internal/batch"
	"flexworker/internal/database"
	"flexworker/internal/outbox/gate"
	"flexworker/internal/outbox/request"
	"flexworker/internal/outbox/results"
	"flexworker/internal/trouble"
)

// recordLimit is how long a known outcome is tried to be recorded while
// Postgres is away. What is given up then is in the log, and lapses.
const recordLimit = 10 * time.Minute

// batchSize is the most records in one write, and batchBytes the most that their responses may have: what takes longer than
// a statement may would be tried again and again, as it is.
const (
	batchSize  = 256
	batchBytes = 16 << 20
)

// cannotRecord is what the log says of an outcome that could not be recorded.
const cannotRecord = "an outcome cannot be recorded; trying again"

// Completer stores what became of leases: the outcomes that wait are written together, each is tried for as long as it can
// be recorded, and each is answered for itself. Its write and the marks of package results go in turns, so that each
// gathers more while the other is written. A mark does not ride in the transaction of a record: a settled row that
// somebody holds locked would then hold up the outcomes of others, and a mark alone does not wait for the disk.
type Completer struct {
	pool   *pgxpool.Pool
	worker string

	batch *batch.Group[Record, recorded]
	wary  database.Wary // a locked row was met lately

	// Stall says for how long no outcome could be recorded, and why.
	Stall gate.Stall

	trouble trouble.Trouble
}

// New gives the Completer of a worker, on the tables that pool leads to. Its writes go in turns with the others of turn.
func New(pool *pgxpool.Pool, worker string, turn *batch.Turn) *Completer {
	c := &Completer{pool: pool, worker: worker}
	c.batch = batch.New(batchSize, c.recordBatch)
	c.batch.Split, c.batch.Turn = database.IsDataError, turn
	c.batch.Size, c.batch.MostBytes = func(r Record) int { return len(r.Told.Response) }, batchBytes
	return c
}

// Complete stores what became of a lease, for as long as that can be tried: what Flex said is worth more than what a lookup
// can find. It gives what is stored, and what that has settled. Where the answer names the interaction of another request
// the policy decides anew what is stored. It is ErrLeaseLost where the record was not applied.
func (c *Completer) Complete(ctx context.Context, log *slog.Logger, p request.Policy, r Record) (Record, *results.Settled, error) {
	done, err := c.complete(ctx, log, r)
	if others := (*othersError)(nil); errors.As(err, &others) {
		r = disowned(p, r, others.owner, rand.Float64())
		done, err = c.complete(ctx, log, r)
	}
	return r, done, err
}

// complete stores one record, or says whose the interaction is.
func (c *Completer) complete(ctx context.Context, log *slog.Logger, r Record) (*results.Settled, error) {
	done, err := c.Try(ctx, r, false)
	c.tell(log, err)
	if away(err) || errors.Is(err, database.ErrLocked) {
		return c.again(ctx, log, r, err)
	}
	return done, err
}

// again tries for as long as Postgres is away, or the row is locked. before is the error
// of the try before. The history is asked only once the answer to a try was lost: that takes a connection
// for each outcome, and while the history is locked hundreds of them would leave none for anything else.
func (c *Completer) again(ctx context.Context, log *slog.Logger, r Record, before error) (done *results.Settled, err error) {
	lost := false // the answer to a try: it may be recorded
	err = backoff.Retry(func() (err error) {
		lost = lost || !errors.Is(before, database.ErrLocked) && !database.NotCommitted(before)
		done, err = c.Try(ctx, r, lost)
		c.tell(log, err)
		if err != nil && !away(err) && !errors.Is(err, database.ErrLocked) {
			return backoff.Permanent(err)
		}
		before = err
		return err
	}, backoff.NewExponentialBackOff(backoff.WithInitialInterval(50*time.Millisecond),
		backoff.WithMaxInterval(2*time.Second), backoff.WithMaxElapsedTime(recordLimit)))
	return done, err
}

// tell says in the log that outcomes cannot be recorded, and when that is over. A row that
// somebody holds, and a lease that is lost, are the trouble of one.
func (c *Completer) tell(log *slog.Logger, err error) {
	if err == nil || away(err) {
		c.trouble.Tell(log, cannotRecord, err)
	}
}

// away says whether Postgres could not be asked or could not do its work now: a refusal of the data, and what Postgres has
// answered, is not that.
func away(err error) bool {
	if others := (*othersError)(nil); errors.As(err, &others) {
		return false
	}
	return err != nil && !database.IsDataError(err) && !errors.Is(err, database.ErrLocked) && !errors.Is(err, ErrLeaseLost)
}

// Try is Complete, once. lost says that Postgres's answer to an earlier Try of this record was lost. The earlier record may be
// committed all the same: then Try records nothing more. (If Postgres begins the earlier record only after this one, the table's
// history has both, and the earlier one counts as an attempt that came too late: it moves nothing.) A result that the earlier
// record settled is published when the table is read for unpublished results.
func (c *Completer) Try(ctx context.Context, r Record, lost bool) (*results.Settled, error) {
	if lost {
		switch applied, err := c.recordMade(ctx, r); {
		case errors.Is(err, pgx.ErrNoRows): // it is recorded now
		case err == nil && !applied:
			return nil, ErrLeaseLost
		default:
			return nil, database.Wrap("record again", err)
		}
	}
	done, err := c.batch.Do(ctx, r)
	return done.settled, cmp.Or(err, done.err)
}

// HasInteraction says whether a request has settled as created with this sid.
func (c *Completer) HasInteraction(ctx context.Context, id int64, sid string) (has bool, err error) {
	ctx, cancel := database.Bounded(ctx)
	defer cancel()
	err = c.pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM outbox WHERE id = $1 AND interaction_sid = $2)`, id, sid).Scan(&has)
	return has, database.Wrap("read interaction", err)
}

// recordMade asks the history whether this process has recorded this outcome of
// this lease, which it does once, and whether it was applied; ErrNoRows when it has
// not. The request's row is locked before the history is read, in a statement of
// its own: so a commit that is still on its way, on a connection that was cut, is
// waited for and seen. Where somebody else holds that row it is ErrLocked.
func (c *Completer) recordMade(ctx context.Context, r Record) (applied bool, err error) {
	began := time.Now()
	ctx, cancel := database.Bounded(ctx)
	defer cancel()
	var b pgx.Batch
	b.Queue(`SELECT ` + database.Patiently)
	b.Queue(`SELECT FROM outbox WHERE id = $1 FOR NO KEY UPDATE`, r.Lease.ID)
	b.Queue(`/* record again */
		SELECT applied FROM outbox_attempts
		 WHERE outbox_id = $1 AND kind = 'attempt' AND number = $2 AND worker = $3 AND outcome = $4 LIMIT 1`,
		r.Lease.ID, r.Lease.Attempt, c.worker, r.Outcome)
	sent := c.pool.SendBatch(ctx, &b)
	if _, err = sent.Exec(); err == nil {
		_, err = sent.Exec()
	}
	if err == nil {
		err = sent.QueryRow().Scan(&applied)
	}
	switch err = cmp.Or(err, sent.Close()); {
	case errors.Is(err, pgx.ErrNoRows):
		return false, err // it is recorded now
	case database.RowsLocked(ctx, c.pool, err, "outbox", "outbox_attempts"):
		return false, database.ErrLocked // the trouble of this one
	}
	return applied, c.Stall.Tried(ctx, c.pool, began, err)
}
