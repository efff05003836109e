package outbox

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"flexworker/internal/database"
	"flexworker/internal/flex"
)

// A cursor is how far a Publisher has read of each kind of answer that is not
// published yet. What a stream refuses whenever it is asked stays unpublished: a
// batch of it at the front would be read again and again, and nothing behind it ever.
// So a read begins behind the last one, and at the front again once it has reached
// the end. It is this process's own, and lost with it: no answer depends on it.
type cursor struct {
	last      [4]int64  // by answerKind: the row read last; 0: begin at the front
	settledAt time.Time // of the final one: they are read in the order they settled
}

// read notes where a read of one kind ended: a batch that is not full was the last.
func (c *cursor) read(kind answerKind, batch []answer) {
	c.last[kind] = 0
	if len(batch) == batchSize {
		c.last[kind] = batch[batchSize-1].id
	}
}

// straySQL and waitingSQL read behind a cursor, each by an index in its order;
// unpublishedSQL reads what has a number. That it is settled is left to be seen: said
// there, the planner would read the whole index of what is not published.
const (
	unpublishedSQL = `SELECT ` + settlementColumns + ` FROM outbox o
		 WHERE id = ANY ($1) AND published_at IS NULL`
	straySQL = `SELECT ` + settlementColumns + ` FROM outbox o
		 WHERE settled_at IS NOT NULL AND published_at IS NULL AND settled_at < now() - $1::interval AND (settled_at, id) > ($2, $3)
		 ORDER BY settled_at, id LIMIT $4`
	waitingSQL = `SELECT ` + settlementColumns + ` FROM outbox o
		 WHERE state = 'uncertain' AND ` + forPerson + ` AND announced_at IS NULL AND id > $1
		 ORDER BY id LIMIT $2`
)

// strays are the answers that whoever owed them did not give: of a process that
// died, of a hint that was dropped, of a stream that was away. They are read from
// where the last read ended.
func (s *Store) strays(ctx context.Context, from *cursor) ([]answer, error) {
	ctx, cancel := database.Bounded(ctx)
	defer cancel()
	settled, err := s.settlements(ctx, straySQL, strayAge, from.settledAt, from.last[final], batchSize)
	if err != nil {
		return nil, err
	}
	waiting, err := s.settlements(ctx, waitingSQL, from.last[announcement], batchSize)
	if err != nil {
		return nil, err
	}
	answers, err := s.asking(ctx, from)
	if err != nil {
		return nil, err
	}
	for kind, read := range [][]settlement{final: settled, announcement: waiting} {
		batch := make([]answer, len(read))
		for i := range read {
			batch[i] = read[i].answer()
		}
		from.read(answerKind(kind), batch)
		answers = append(answers, batch...)
	}
	if from.settledAt = (time.Time{}); from.last[final] > 0 {
		from.settledAt = *settled[batchSize-1].settledAt
	}
	return answers, nil
}

// unpublished are the answers to settled requests that the Publisher knows by number.
func (s *Store) unpublished(ctx context.Context, numbers []int64) ([]answer, error) {
	ctx, cancel := database.Bounded(ctx)
	defer cancel()
	settled, err := s.settlements(ctx, unpublishedSQL, numbers)
	answers := make([]answer, 0, len(settled))
	for i := range settled {
		if settled[i].owed() {
			answers = append(answers, settled[i].answer())
		}
	}
	return answers, err
}

// settlements are the rows of a statement that reads settlementColumns.
func (s *Store) settlements(ctx context.Context, sql string, args ...any) ([]settlement, error) {
	rows, err := s.pool.Query(ctx, sql, args...)
	if err != nil {
		return nil, database.Wrap("strays", err)
	}
	settled, err := pgx.CollectRows(rows, scanSettlement)
	return settled, database.Wrap("strays", err)
}

// asking are the answers to messages that made no request: repeats of a settled
// request, malformed ones and conflicts, from where the last read ended.
func (s *Store) asking(ctx context.Context, from *cursor) ([]answer, error) {
	ctx, cancel := database.Bounded(ctx)
	defer cancel()
	repeats, err := s.askingAgain(ctx, from.last[repetition])
	if err != nil {
		return nil, err
	}
	rows, err := s.pool.Query(ctx, `
		SELECT id, kind, stream, stream_sequence, traceparent, tracestate, source, request_id, error, received_at
		  FROM outbox_malformed WHERE published_at IS NULL AND id > $1 ORDER BY id LIMIT $2`, from.last[malformation], batchSize)
	if err != nil {
		return nil, database.Wrap("asking", err)
	}
	malformed, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (answer, error) {
		e := ResultError{Faults: jsonNull}
		r := Result{Error: &e, Warnings: noneJSON, Metadata: jsonNull}
		a := answer{kind: malformation}
		if err := row.Scan(&a.id, &r.Outcome, &r.Stream, &r.Sequence, &a.traceparent, &a.tracestate, &a.source, &r.RequestID, &e.Message, &r.ReceivedAt); err != nil {
			return a, err
		}
		e.Kind, r.ReceivedAt = r.Outcome, r.ReceivedAt.UTC()
		a.outcome, a.body = r.Outcome, r
		a.messageID = fmt.Sprintf("%s-%s-%d-%d", r.Outcome, r.Stream, r.Sequence, r.ReceivedAt.UnixMicro())
		return a, nil
	})
	if err != nil {
		return nil, database.Wrap("asking", err)
	}
	from.read(repetition, repeats)
	from.read(malformation, malformed)
	return append(repeats, malformed...), nil
}

// askingAgain are the repeats behind one whose request is settled by now.
func (s *Store) askingAgain(ctx context.Context, last int64) ([]answer, error) {
	rows, err := s.pool.Query(ctx, `
		SELECT r.id, r.source, r.stream_time, r.stream, r.stream_sequence, r.traceparent, r.tracestate, `+settlementColumns+`
		  FROM outbox_repeats r JOIN outbox o ON o.id = r.outbox_id
		 WHERE r.published_at IS NULL AND o.settled_at IS NOT NULL AND r.id > $1
		 ORDER BY r.id LIMIT $2`, last, batchSize)
	if err != nil {
		return nil, database.Wrap("asking again", err)
	}
	answers, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (answer, error) {
		var id int64
		var at time.Time
		var source string
		var again asked
		var o settlement
		if err := row.Scan(append([]any{&id, &source, &at, &again.stream, &again.sequence, &again.traceparent, &again.tracestate}, o.targets()...)...); err != nil {
			return answer{}, err
		}
		o.asked = again
		a := o.answer()
		a.kind, a.id, a.source = repetition, id, source
		a.messageID = fmt.Sprintf("%s-%d-again-%d-%d", flex.LookupKey(o.requestID), o.number, again.sequence, at.UnixMicro())
		return a, nil
	})
	if err != nil {
		return nil, database.Wrap("asking again", err)
	}
	return answers, nil
}
