package operator

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/jackc/pgx/v5"

	"flexworker/internal/outbox/results"
)

// An Answer is the result of a settled request as it is published.
type Answer struct {
	MessageID string          `json:"message_id"` // its Nats-Msg-Id
	Outcome   string          `json:"outcome"`    // the subject is that of the results, the outcome and the source
	Source    string          `json:"source"`
	Body      json.RawMessage `json:"body"` // a stream that takes no message so large gets less
}

// Answer is the result of a request. It is the same message each time, as long as nobody changes the request. It fails
// with ErrUnknown, also while the request has not settled.
func (desk *Desk) Answer(ctx context.Context, requestID string) (a Answer, err error) {
	err = desk.read(ctx, "answer", func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `SELECT `+results.SettledColumns+` FROM outbox o WHERE request_id = $1 AND settled_at IS NOT NULL`, requestID)
		if err != nil {
			return err
		}
		settled, err := pgx.CollectExactlyOneRow(rows, results.ScanSettled)
		if err != nil {
			return err
		}
		answer := settled.Answer()
		a = Answer{MessageID: answer.MessageID, Outcome: answer.Outcome, Source: answer.Source}
		a.Body, err = results.Encode(answer.Body)
		return err
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return a, ErrUnknown
	}
	return a, err
}
