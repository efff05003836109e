package outbox

import (
	"cmp"
	"context"
	"slices"
	"sync"

	"github.com/jackc/pgx/v5"

	"flexworker/internal/database"
	"flexworker/internal/loop"
)

// hints carries what was settled in this process to its Publisher: whole as long
// as there is room, then by number alone, to be read from the table.
type hints struct {
	queue chan *settlement
	more  loop.Signal // there are numbers

	mu      sync.Mutex
	numbers []int64
}

// maxNumbers is how many settled requests are remembered by number; of those beyond,
// as while NATS is away for long, the strays tell.
const maxNumbers = 1 << 16

func newHints() *hints {
	return &hints{queue: make(chan *settlement, 4*batchSize), more: loop.NewSignal()}
}

// offer hands one over. A request that waits for a person goes by number alone: it is
// read again before anybody hears of it. While the stream is away for this process
// another may have found what it was, and said so.
func (h *hints) offer(s *settlement) {
	if !s.waits {
		select {
		case h.queue <- s:
			return
		default:
		}
	}
	h.mu.Lock()
	if len(h.numbers) < maxNumbers {
		h.numbers = append(h.numbers, s.id)
	}
	h.mu.Unlock()
	h.more.Raise()
}

// take gives first and what else is there now, up to a batch.
func (h *hints) take(first *settlement) []answer {
	var answers []answer
	if first != nil {
		answers = append(answers, first.answer())
	}
	for len(answers) < batchSize {
		select {
		case s := <-h.queue:
			answers = append(answers, s.answer())
		default:
			return answers
		}
	}
	return answers
}

// takeNumbers gives up to a batch of numbers, those first that were offered first.
func (h *hints) takeNumbers() []int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := min(len(h.numbers), batchSize)
	taken := h.numbers[:n:n]
	if h.numbers = h.numbers[n:]; len(h.numbers) > 0 {
		h.more.Raise()
	}
	return taken
}

// answer is the message about a settled request, or one that waits for a person.
func (s *settlement) answer() answer {
	a := answer{kind: final, id: s.id, number: s.number, outcome: string(s.state), source: s.source,
		messageID: s.messageID(), traceparent: s.asked.traceparent, tracestate: s.asked.tracestate, body: s.result()}
	if s.waits {
		a.kind, a.number = announcement, s.attempt
	}
	return a
}

// markSQL marks final results.
const (
	markParameters = 2
	markSQL        = `/* mark */
	WITH told AS MATERIALIZED (SELECT unnest($1::bigint[]) AS id, unnest($2::bigint[]) AS number)
	UPDATE outbox o SET published_at = clock_timestamp()
	  FROM told WHERE o.id = told.id AND o.settlement = told.number AND published_at IS NULL`
)

// markPublished notes what the stream has acknowledged. Each mark is fenced by
// what was published: a later settlement, or a later attempt, keeps its own. The
// arrays have the order of ids, in which the rows are updated (as in recordBatch).
// A settlement that was published is settled; to say so would let the planner read
// all that is unpublished for each row, by an index whose second column is the id. What
// somebody holds locked stays unmarked, and is published again.
func (s *Store) markPublished(ctx context.Context, acked []answer) error {
	if len(acked) == 0 {
		return nil
	}
	slices.SortFunc(acked, func(a, b answer) int { return cmp.Compare(a.id, b.id) })
	defer s.turn.Take()()
	ctx, cancel := database.Bounded(ctx)
	defer cancel()
	if s.waryMarks.Now() {
		return database.Wrap("mark published", s.markApart(ctx, acked))
	}
	var b pgx.Batch
	b.Queue(`SELECT set_config('synchronous_commit', 'off', true), ` + database.Patiently) // of this transaction: the batch is one
	queueMarks(&b, acked)
	err := s.pool.SendBatch(ctx, &b).Close()
	if database.RowsLocked(ctx, s.pool, err) {
		s.waryMarks.Met()
		err = s.markApart(ctx, acked)
	}
	return database.Wrap("mark published", err)
}

// markApart marks all but those whose row somebody holds locked.
func (s *Store) markApart(ctx context.Context, acked []answer) error {
	return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT set_config('synchronous_commit', 'off', true)`); err != nil {
			return err
		}
		for kind, table := range [...]string{final: "outbox", announcement: "outbox", repetition: "outbox_repeats", malformation: "outbox_malformed"} {
			var ids []int64
			for _, a := range acked {
				if a.kind == answerKind(kind) {
					ids = append(ids, a.id)
				}
			}
			if len(ids) == 0 {
				continue
			}
			held, err := database.LockFree(ctx, tx, table, slices.Compact(ids))
			if err != nil {
				return err
			}
			if len(held) > 0 {
				s.waryMarks.Met()
			}
			acked = slices.DeleteFunc(slices.Clone(acked), func(a answer) bool { return a.kind == answerKind(kind) && held[a.id] })
		}
		if len(acked) == 0 {
			return nil
		}
		var b pgx.Batch
		queueMarks(&b, acked)
		return tx.SendBatch(ctx, &b).Close()
	})
}

func queueMarks(b *pgx.Batch, acked []answer) {
	var ids, numbers [4][]int64
	for _, a := range acked {
		ids[a.kind] = append(ids[a.kind], a.id)
		numbers[a.kind] = append(numbers[a.kind], int64(a.number))
	}
	if len(ids[final]) > 0 {
		b.Queue(markSQL, ids[final], numbers[final])
	}
	if len(ids[announcement]) > 0 {
		b.Queue(`
			WITH told AS (SELECT unnest($1::bigint[]) AS id, unnest($2::bigint[]) AS number),
			locked AS MATERIALIZED (
				SELECT o.id FROM outbox o JOIN told USING (id)
				 WHERE o.attempt = told.number AND o.state = 'uncertain' AND o.for_person_since IS NOT NULL
				 ORDER BY o.id FOR UPDATE OF o)
			UPDATE outbox o SET announced_at = clock_timestamp() FROM locked
			 WHERE o.id = locked.id AND o.state = 'uncertain' AND o.for_person_since IS NOT NULL`,
			ids[announcement], numbers[announcement])
	}
	if len(ids[repetition]) > 0 {
		b.Queue(`UPDATE outbox_repeats SET published_at = clock_timestamp() WHERE id = ANY($1) AND published_at IS NULL`, ids[repetition])
	}
	if len(ids[malformation]) > 0 {
		b.Queue(`UPDATE outbox_malformed SET published_at = clock_timestamp() WHERE id = ANY($1) AND published_at IS NULL`, ids[malformation])
	}
}
