package results

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"flexworker/internal/database"
	"flexworker/internal/flex"
)

// A Cursor is how far a Publisher has read of each kind of answer that is not
// published yet. What a stream refuses whenever it is asked stays unpublished: a
// batch of it at the front would be read again and again, and nothing behind it ever.
// So a read begins behind the last one, and at the front again once it has reached
// the end. It is this process's own, and lost with it: no answer depends on it.
type Cursor struct {
	last      [answerKinds]int64 // by AnswerKind: the row read last; 0: begin at the front
	settledAt time.Time          // of the final one: they are read in the order they settled
}

// read notes where a read of one kind ended: a batch that is not full was the last.
func (c *Cursor) read(kind AnswerKind, batch []Answer) {
	c.last[kind] = 0
	if len(batch) == batchMost {
		c.last[kind] = batch[batchMost-1].ID
	}
}

// LeftSQL, WaitingSQL, RepeatsSQL, MalformedSQL and WordsSQL read behind a cursor, each by an index in its order;
// UnpublishedSQL reads by ids. Whether a request is settled is seen afterwards: with a condition for it the planner would read the whole index of what is not published.
const (
	UnpublishedSQL = `SELECT ` + SettledColumns + ` FROM outbox o
		 WHERE id = ANY ($1) AND published_at IS NULL`
	LeftSQL = `SELECT ` + SettledColumns + ` FROM outbox o
		 WHERE settled_at IS NOT NULL AND published_at IS NULL AND settled_at < now() - $1::interval AND (settled_at, id) > ($2, $3)
		 ORDER BY settled_at, id LIMIT $4`
	WaitingSQL = `SELECT ` + SettledColumns + ` FROM outbox o
		 WHERE state = 'uncertain' AND ` + ForPerson + ` AND announced_at IS NULL AND id > $1
		 ORDER BY id LIMIT $2`
	RepeatsSQL = `SELECT r.id, r.source, r.stream_time, r.stream, r.stream_sequence, r.traceparent, r.tracestate, ` + SettledColumns + `
		  FROM outbox_repeats r JOIN outbox o ON o.id = r.outbox_id
		 WHERE r.published_at IS NULL AND o.settled_at IS NOT NULL AND r.id > $1
		 ORDER BY r.id LIMIT $2`
	MalformedSQL = `SELECT id, kind, stream, stream_sequence, traceparent, tracestate, source, request_id, error, received_at
		  FROM outbox_malformed WHERE published_at IS NULL AND id > $1 ORDER BY id LIMIT $2`
	WordsSQL = `SELECT s.word, s.error_kind, s.why, s.checks, s.channel_sid, s.channel_status, s.error_code, s.error_message, s.task_status, s.task_reason,
		       ` + SettledColumns + `
		  FROM outbox_setups s JOIN outbox o USING (id)
		 WHERE s.word IS NOT NULL AND s.published_at IS NULL AND s.id > $1 ORDER BY s.id LIMIT $2`
)

// Unpublished are the answers that whoever owed them did not give: of a process that
// died, of an offer that was dropped, of a stream that was away. They are read from
// where the last read ended. With an error come those that could be read.
func (s *Outgoing) Unpublished(ctx context.Context, from *Cursor) ([]Answer, error) {
	ctx, cancel := database.Bounded(ctx)
	defer cancel()
	settled, err := s.ReadSettled(ctx, LeftSQL, UnpublishedAge, from.settledAt, from.last[Final], batchMost)
	if err != nil {
		return nil, err
	}
	waiting, err := s.ReadSettled(ctx, WaitingSQL, from.last[Announcement], batchMost)
	if err != nil {
		return nil, err
	}
	answers, err := s.Asking(ctx, from)
	words, unread := s.Found(ctx, from)
	answers, err = append(answers, words...), cmp.Or(err, unread)
	for kind, read := range [][]Settled{Final: settled, Announcement: waiting} {
		batch := make([]Answer, len(read))
		for i := range read {
			batch[i] = read[i].Answer()
		}
		from.read(AnswerKind(kind), batch)
		answers = append(answers, batch...)
	}
	if from.settledAt = (time.Time{}); from.last[Final] > 0 {
		from.settledAt = *settled[batchMost-1].SettledAt
	}
	return answers, err
}

// byID reads the answers to settled requests of which the Publisher knows the ids alone.
func (s *Outgoing) byID(ctx context.Context, ids []int64) ([]Answer, error) {
	ctx, cancel := database.Bounded(ctx)
	defer cancel()
	settled, err := s.ReadSettled(ctx, UnpublishedSQL, ids)
	answers := make([]Answer, 0, len(settled))
	for i := range settled {
		if settled[i].Owed() {
			answers = append(answers, settled[i].Answer())
		}
	}
	return answers, err
}

// ReadSettled are the rows of a statement that reads SettledColumns.
func (s *Outgoing) ReadSettled(ctx context.Context, sql string, args ...any) ([]Settled, error) {
	rows, err := s.pool.Query(ctx, sql, args...)
	if err != nil {
		return nil, database.Wrap("unpublished results", err)
	}
	settled, err := pgx.CollectRows(rows, ScanSettled)
	return settled, database.Wrap("unpublished results", err)
}

// Asking are the answers to messages that made no request: repeats of a settled request, malformed ones and
// conflicts, from where the last read ended. Of these tables somebody may hold one: with an error come the answers that the other has.
func (s *Outgoing) Asking(ctx context.Context, from *Cursor) ([]Answer, error) {
	ctx, cancel := database.Bounded(ctx)
	defer cancel()
	repeats, err := s.askingAgain(ctx, from.last[Repetition])
	if err == nil {
		from.read(Repetition, repeats)
	}
	malformed, failed := s.malformed(ctx, from.last[Malformation])
	if failed == nil {
		from.read(Malformation, malformed)
	}
	return slices.Concat(repeats, malformed), cmp.Or(err, failed)
}

// Found are the words about set-ups that nobody has published, from where the last read ended. There may be many a second, while few ask again.
func (s *Outgoing) Found(ctx context.Context, from *Cursor) ([]Answer, error) {
	ctx, cancel := database.Bounded(ctx)
	defer cancel()
	words, err := s.words(ctx, from.last[SetupWord])
	if err == nil {
		from.read(SetupWord, words)
	}
	return words, err
}

// malformed are the malformed messages and conflicts behind one.
func (s *Outgoing) malformed(ctx context.Context, last int64) ([]Answer, error) {
	answers, err := collect(ctx, s.pool, func(row pgx.CollectableRow) (Answer, error) {
		e := Error{Faults: JSONNull}
		r := Result{Error: &e, Warnings: noneJSON, Metadata: JSONNull}
		a := Answer{Kind: Malformation}
		if err := row.Scan(&a.ID, &r.Outcome, &r.Stream, &r.Sequence, &a.Traceparent, &a.Tracestate, &a.Source, &r.RequestID, &e.Message, &r.ReceivedAt); err != nil {
			return a, err
		}
		e.Kind, r.ReceivedAt = r.Outcome, r.ReceivedAt.UTC()
		a.Outcome, a.Body = r.Outcome, r
		a.MessageID = fmt.Sprintf("%s-%s-%d-%d", r.Outcome, r.Stream, r.Sequence, r.ReceivedAt.UnixMicro())
		return a, nil
	}, MalformedSQL, last, batchMost)
	return answers, database.Wrap("asking", err)
}

// askingAgain are the repeats behind one whose request is settled by now.
func (s *Outgoing) askingAgain(ctx context.Context, last int64) ([]Answer, error) {
	answers, err := collect(ctx, s.pool, func(row pgx.CollectableRow) (Answer, error) {
		var id int64
		var at time.Time
		var source string
		var again Asked
		var o Settled
		if err := row.Scan(append([]any{&id, &source, &at, &again.Stream, &again.Sequence, &again.Traceparent, &again.Tracestate}, o.Targets()...)...); err != nil {
			return Answer{}, err
		}
		o.Asked = again
		a := o.Answer()
		a.Kind, a.ID, a.Source = Repetition, id, source
		a.MessageID = fmt.Sprintf("%s-%d-again-%d-%d", flex.LookupKey(o.RequestID), o.Revision, again.Sequence, at.UnixMicro())
		return a, nil
	}, RepeatsSQL, last, batchMost)
	return answers, database.Wrap("asking again", err)
}

// collect reads answers, and waits for patience where somebody holds the table: other answers wait for that.
func collect(ctx context.Context, pool *pgxpool.Pool, scan pgx.RowToFunc[Answer], sql string, args ...any) (answers []Answer, err error) {
	err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT `+database.Patiently); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, sql, args...)
		if err != nil {
			return err
		}
		answers, err = pgx.CollectRows(rows, scan)
		return err
	})
	return answers, err
}
