package results

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/jackc/pgx/v5"

	"flexworker/internal/database"
	"flexworker/internal/loop"
	"flexworker/internal/outbox/request"
)

// A queue carries what was settled in this process to its Publisher: whole as long
// as there is room, then by id alone, to be read from the table.
type queue struct {
	Queue chan *Settled
	more  loop.Signal // there are ids

	mu  sync.Mutex
	IDs []int64
}

// maxIDs is how many settled requests are remembered by id; of those beyond,
// as while NATS is away for long, the tables tell: they are unpublished.
const maxIDs = 1 << 16

func newQueue() *queue {
	return &queue{Queue: make(chan *Settled, 4*batchMost), more: loop.NewSignal()}
}

// offer hands one over. A request that waits for a person goes by id alone: it is
// read again before anybody hears of it. While the stream is away for this process
// another may have found what it was, and said so.
func (q *queue) offer(s *Settled) {
	if !s.waits {
		select {
		case q.Queue <- s:
			return
		default:
		}
	}
	q.offerIDs(s.ID)
}

// offerIDs hands over by id alone, as far as there is room.
func (q *queue) offerIDs(ids ...int64) {
	q.mu.Lock()
	q.IDs = append(q.IDs, ids[:min(len(ids), maxIDs-len(q.IDs))]...)
	q.mu.Unlock()
	q.more.Raise()
}

// take gives first and what else is there now, up to a batch.
func (q *queue) take(first *Settled) []Answer {
	var answers []Answer
	if first != nil {
		answers = append(answers, first.Answer())
	}
	for len(answers) < batchMost {
		select {
		case s := <-q.Queue:
			answers = append(answers, s.Answer())
		default:
			return answers
		}
	}
	return answers
}

// takeIDs gives up to a batch of ids, those first that were offered first.
func (q *queue) takeIDs() []int64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := min(len(q.IDs), batchMost)
	taken := q.IDs[:n:n]
	if q.IDs = q.IDs[n:]; len(q.IDs) > 0 {
		q.more.Raise()
	}
	return taken
}

// Answer is the message about a settled request, or one that waits for a person.
func (s *Settled) Answer() Answer {
	a := Answer{Kind: Final, ID: s.ID, Number: s.Revision, Outcome: string(s.State), Source: s.Source,
		MessageID: s.MessageID(), Traceparent: s.Asked.Traceparent, Tracestate: s.Asked.Tracestate, Body: s.result()}
	if s.waits {
		a.Kind, a.Number = Announcement, s.Attempt
	}
	return a
}

// markSQL marks final results.
const markSQL = `/* mark */
	WITH told AS MATERIALIZED (SELECT unnest($1::bigint[]) AS id, unnest($2::bigint[]) AS number)
	UPDATE outbox o SET published_at = clock_timestamp()
	  FROM told WHERE o.id = told.id AND o.revision = told.number AND published_at IS NULL`

// markForSetupSQL is the same where CONFIRM is on: what is created, and was told so, gets its row of outbox_setups, in which
// the first look is due $3 after the creation. What was published once more has that row.
const markForSetupSQL = `/* mark, confirm */
	WITH told AS MATERIALIZED (SELECT unnest($1::bigint[]) AS id, unnest($2::bigint[]) AS number),
	marked AS (
		UPDATE outbox o SET published_at = clock_timestamp()
		  FROM told WHERE o.id = told.id AND o.revision = told.number AND published_at IS NULL
		RETURNING o.id, o.state, o.settled_at)
	INSERT INTO outbox_setups (id, created_at, due_at)
	SELECT id, settled_at, settled_at + $3::interval FROM marked WHERE state = 'created'
	ON CONFLICT (id) DO NOTHING`

// MarkPublished notes what the stream has acknowledged. Each mark is fenced by
// what was published: a later revision, or a later attempt, keeps its own. The
// arrays have the order of ids, in which the rows are updated (as in the write of package attempt).
// A revision that was published is settled; to say so would let the planner read
// all that is unpublished for each row, by an index whose second column is the id. What
// somebody holds locked, by row or by table, stays unmarked, and is published again.
func (s *Outgoing) MarkPublished(ctx context.Context, acked []Answer) error {
	if len(acked) == 0 {
		return nil
	}
	slices.SortFunc(acked, func(a, b Answer) int { return cmp.Compare(a.ID, b.ID) })
	defer s.turn.Take()()
	ctx, cancel := database.Bounded(ctx)
	defer cancel()
	if s.wary.Now() {
		return database.Wrap("mark published", s.markApart(ctx, acked))
	}
	var b pgx.Batch
	b.Queue(`SELECT set_config('synchronous_commit', 'off', true), ` + database.Patiently) // of this transaction: the batch is one
	s.queueMarks(&b, acked)
	err := s.pool.SendBatch(ctx, &b).Close()
	if database.IsLockTrouble(err) {
		s.wary.Met()
		err = s.markApart(ctx, acked)
	}
	return database.Wrap("mark published", err)
}

// markApart marks all but those whose row, or whose table, somebody holds locked. Of a table it says so: ErrTableLocked.
func (s *Outgoing) markApart(ctx context.Context, acked []Answer) error {
	locked, err := database.TablesLocked(ctx, s.pool)
	if err != nil {
		return err
	}
	var unmarked error
	if s.FirstLook > 0 && slices.Contains(locked, setupsTable) {
		// Its mark writes there too.
		acked = slices.DeleteFunc(slices.Clone(acked), func(a Answer) bool { return a.Kind == Final && a.Outcome == string(request.Created) })
		unmarked = fmt.Errorf("%w: %s", ErrTableLocked, setupsTable)
	}
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT set_config('synchronous_commit', 'off', true)`); err != nil {
			return err
		}
		for kind, table := range [...]string{Final: "outbox", Announcement: "outbox", Repetition: repeatsTable, Malformation: malformedTable, SetupWord: setupsTable} {
			var ids []int64
			for _, a := range acked {
				if a.Kind == AnswerKind(kind) {
					ids = append(ids, a.ID)
				}
			}
			if len(ids) == 0 {
				continue
			}
			whole := slices.Contains(locked, table)
			var held map[int64]bool
			var err error
			if whole {
				unmarked = fmt.Errorf("%w: %s", ErrTableLocked, table)
			} else if held, err = database.LockFree(ctx, tx, table, slices.Compact(ids)); err != nil {
				return err
			}
			if len(held) > 0 {
				s.wary.Met()
			}
			acked = slices.DeleteFunc(slices.Clone(acked), func(a Answer) bool { return a.Kind == AnswerKind(kind) && (whole || held[a.ID]) })
		}
		if len(acked) == 0 {
			return nil
		}
		var b pgx.Batch
		s.queueMarks(&b, acked)
		return tx.SendBatch(ctx, &b).Close()
	})
	return cmp.Or(err, unmarked)
}

func (s *Outgoing) queueMarks(b *pgx.Batch, acked []Answer) {
	var ids, numbers [answerKinds][]int64
	for _, a := range acked {
		ids[a.Kind] = append(ids[a.Kind], a.ID)
		numbers[a.Kind] = append(numbers[a.Kind], int64(a.Number))
	}
	switch {
	case len(ids[Final]) == 0:
	case s.FirstLook > 0:
		b.Queue(markForSetupSQL, ids[Final], numbers[Final], s.FirstLook)
	default:
		b.Queue(markSQL, ids[Final], numbers[Final])
	}
	if len(ids[Announcement]) > 0 {
		b.Queue(`
			WITH told AS (SELECT unnest($1::bigint[]) AS id, unnest($2::bigint[]) AS number),
			locked AS MATERIALIZED (
				SELECT o.id FROM outbox o JOIN told USING (id)
				 WHERE o.attempt = told.number AND o.state = 'uncertain' AND o.for_person_since IS NOT NULL
				 ORDER BY o.id FOR UPDATE OF o)
			UPDATE outbox o SET announced_at = clock_timestamp() FROM locked
			 WHERE o.id = locked.id AND o.state = 'uncertain' AND o.for_person_since IS NOT NULL`,
			ids[Announcement], numbers[Announcement])
	}
	if len(ids[Repetition]) > 0 {
		b.Queue(`UPDATE outbox_repeats SET published_at = clock_timestamp() WHERE id = ANY($1) AND published_at IS NULL`, ids[Repetition])
	}
	if len(ids[Malformation]) > 0 {
		b.Queue(`UPDATE outbox_malformed SET published_at = clock_timestamp() WHERE id = ANY($1) AND published_at IS NULL`, ids[Malformation])
	}
	if len(ids[SetupWord]) > 0 {
		b.Queue(`UPDATE outbox_setups SET published_at = clock_timestamp() WHERE id = ANY($1) AND word IS NOT NULL AND published_at IS NULL`, ids[SetupWord])
	}
}
