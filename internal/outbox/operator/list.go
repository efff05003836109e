package operator

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"flexworker/internal/outbox/request"
)

// Row is a request as people see it in a list.
type Row struct {
	RequestID      string        `json:"request_id"`
	Source         string        `json:"source"`
	State          request.State `json:"state"`
	Priority       int           `json:"priority"`
	Attempt        int           `json:"attempt"`
	Uncounted      int           `json:"uncounted"`
	InteractionSID *string       `json:"interaction_sid"`
	ErrorKind      *string       `json:"error_kind"`
	ErrorMessage   *string       `json:"error_message"`
	HTTPStatus     *int          `json:"http_status"`
	TwilioCode     *int          `json:"twilio_code"`
	DueAt          *time.Time    `json:"due_at"`
	ReceivedAt     time.Time     `json:"received_at"`
	SettledAt      *time.Time    `json:"settled_at"`
	PublishedAt    *time.Time    `json:"published_at"`
}

const rowColumns = `request_id, source, state, priority, attempt, uncounted, interaction_sid, error_kind, error_message,
	http_status, twilio_code, due_at, received_at, settled_at, published_at`

func (r *Row) targets() []any {
	return []any{&r.RequestID, &r.Source, &r.State, &r.Priority, &r.Attempt, &r.Uncounted, &r.InteractionSID, &r.ErrorKind, &r.ErrorMessage,
		&r.HTTPStatus, &r.TwilioCode, &r.DueAt, &r.ReceivedAt, &r.SettledAt, &r.PublishedAt}
}

// IDs are the ids of requests that begin with prefix, the smallest first, at most most.
func (desk *Desk) IDs(ctx context.Context, prefix string, most int) ([]string, error) {
	var ids []string
	err := desk.read(ctx, "ids", func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `SELECT request_id FROM outbox WHERE request_id >= $1 AND starts_with(request_id, $1) ORDER BY request_id LIMIT $2`, prefix, most)
		if err != nil {
			return err
		}
		ids, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	return ids, err
}
