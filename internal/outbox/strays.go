package outbox

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"flexworker/internal/flex"
)

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
