package outbox

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"flexworker/internal/flex"
)

// hints carries what was settled in this process to its Publisher. When it is
// full a hint is dropped, and the strays bring it.
type hints chan *settlement

func newHints() hints { return make(hints, 4*batchSize) }

func (h hints) offer(s *settlement) {
	select {
	case h <- s:
	default:
	}
}

// take gives first and what else is there now, up to a batch.
func (h hints) take(first *settlement) []answer {
	var answers []answer
	if first != nil {
		answers = append(answers, first.answer())
	}
	for len(answers) < batchSize {
		select {
		case s := <-h:
			answers = append(answers, s.answer())
		default:
			return answers
		}
	}
	return answers
}

// answer is the message about a settled request, or one that waits for a person.
func (s *settlement) answer() answer {
	a := answer{kind: final, id: s.id, number: s.number, outcome: string(s.state), source: s.source,
		messageID: s.messageID(), body: s.result()}
	if s.waits {
		a.kind, a.number = announcement, s.attempt
	}
	if s.traceparent != nil {
		a.traceparent = *s.traceparent
	}
	return a
}

// strays are the answers that whoever owed them did not give: of a process that
// died, of a hint that was dropped, of a stream that was away.
func (s *Store) strays(ctx context.Context) ([]answer, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	rows, err := s.pool.Query(ctx, `
		(SELECT `+settlementColumns+` FROM outbox o
		  WHERE settled_at IS NOT NULL AND published_at IS NULL AND settled_at < now() - $1::interval
		  ORDER BY settled_at, id LIMIT $2)
		UNION ALL
		(SELECT `+settlementColumns+` FROM outbox o
		  WHERE state = 'uncertain' AND due_at IS NULL AND announced_at IS NULL
		  LIMIT $2)`, strayAge, batchSize)
	if err != nil {
		return nil, wrap("strays", err)
	}
	settled, err := pgx.CollectRows(rows, scanSettlement)
	if err != nil {
		return nil, wrap("strays", err)
	}
	answers, err := s.asking(ctx)
	for i := range settled {
		answers = append(answers, settled[i].answer())
	}
	return answers, err
}

// asking are the answers to messages that made no request: repeats of a settled
// request, malformed ones and conflicts.
func (s *Store) asking(ctx context.Context) ([]answer, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	answers, err := s.askingAgain(ctx)
	if err != nil {
		return nil, err
	}
	rows, err := s.pool.Query(ctx, `
		SELECT id, kind, stream, stream_sequence, subject, source, coalesce(request_id, ''), error, received_at
		  FROM outbox_malformed WHERE published_at IS NULL ORDER BY id LIMIT $1`, batchSize)
	if err != nil {
		return nil, wrap("asking", err)
	}
	malformed, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (answer, error) {
		var m malformedResult
		a := answer{kind: malformation}
		if err := row.Scan(&a.id, &m.Outcome, &m.Stream, &m.Sequence, &m.Subject, &a.source, &m.RequestID, &m.Error, &m.ReceivedAt); err != nil {
			return a, err
		}
		m.ReceivedAt = m.ReceivedAt.UTC()
		a.outcome, a.body = m.Outcome, m
		a.messageID = fmt.Sprintf("%s-%s-%d-%d", m.Outcome, m.Stream, m.Sequence, m.ReceivedAt.UnixMicro())
		return a, nil
	})
	return append(answers, malformed...), wrap("asking", err)
}

// malformedResult is the answer to a message that could not become a request.
type malformedResult struct {
	RequestID  string    `json:"request_id,omitempty"`
	Outcome    string    `json:"outcome"`
	Stream     string    `json:"stream"`
	Sequence   uint64    `json:"sequence"`
	Subject    string    `json:"subject"`
	Error      string    `json:"error"`
	ReceivedAt time.Time `json:"received_at"`
}

// askingAgain are the repeats whose request is settled by now.
func (s *Store) askingAgain(ctx context.Context) ([]answer, error) {
	rows, err := s.pool.Query(ctx, `
		SELECT r.id, r.source, r.stream_sequence, r.stream_time, coalesce(r.traceparent, ''), `+settlementColumns+`
		  FROM outbox_repeats r JOIN outbox o ON o.id = r.outbox_id
		 WHERE r.published_at IS NULL AND o.settled_at IS NOT NULL
		 ORDER BY r.id LIMIT $1`, batchSize)
	if err != nil {
		return nil, wrap("asking again", err)
	}
	answers, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (answer, error) {
		var id, sequence int64
		var at time.Time
		var source, traceparent string
		var o settlement
		if err := row.Scan(append([]any{&id, &source, &sequence, &at, &traceparent}, o.targets()...)...); err != nil {
			return answer{}, err
		}
		a := o.answer()
		a.kind, a.id, a.source, a.traceparent = repetition, id, source, traceparent
		a.messageID = fmt.Sprintf("%s-%d-again-%d-%d", flex.LookupKey(o.requestID), o.number, sequence, at.UnixMicro())
		return a, nil
	})
	return answers, wrap("asking again", err)
}

// markPublished notes what the stream has acknowledged. Each mark is fenced by
// what was published: a later settlement, or a later attempt, keeps its own. The
// arrays have the order of ids, in which the rows are updated (as in recordBatch).
// A settlement that was published is settled; to say so would let the planner read
// all that is unpublished for each row, by an index whose second column is the id.
func (s *Store) markPublished(ctx context.Context, acked []answer) error {
	slices.SortFunc(acked, func(a, b answer) int { return cmp.Compare(a.id, b.id) })
	var ids, numbers [4][]int64
	for _, a := range acked {
		ids[a.kind] = append(ids[a.kind], a.id)
		numbers[a.kind] = append(numbers[a.kind], int64(a.number))
	}
	var b pgx.Batch
	if len(ids[final]) > 0 {
		b.Queue(`/* mark */
			WITH told AS MATERIALIZED (SELECT * FROM unnest($1::bigint[], $2::bigint[]) AS t (id, number))
			UPDATE outbox o SET published_at = clock_timestamp()
			  FROM told WHERE o.id = told.id AND o.settlement = told.number AND published_at IS NULL`,
			ids[final], numbers[final])
	}
	if len(ids[announcement]) > 0 {
		b.Queue(`
			WITH told AS (SELECT * FROM unnest($1::bigint[], $2::bigint[]) AS t (id, number)),
			locked AS MATERIALIZED (
				SELECT o.id FROM outbox o JOIN told USING (id)
				 WHERE o.attempt = told.number AND o.state = 'uncertain' AND o.due_at IS NULL
				 ORDER BY o.id FOR UPDATE OF o)
			UPDATE outbox o SET announced_at = clock_timestamp() FROM locked
			 WHERE o.id = locked.id AND o.state = 'uncertain' AND o.due_at IS NULL`,
			ids[announcement], numbers[announcement])
	}
	if len(ids[repetition]) > 0 {
		b.Queue(`UPDATE outbox_repeats SET published_at = clock_timestamp() WHERE id = ANY($1) AND published_at IS NULL`, ids[repetition])
	}
	if len(ids[malformation]) > 0 {
		b.Queue(`UPDATE outbox_malformed SET published_at = clock_timestamp() WHERE id = ANY($1) AND published_at IS NULL`, ids[malformation])
	}
	if b.Len() == 0 {
		return nil
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	return wrap("mark published", s.pool.SendBatch(ctx, &b).Close())
}
