package operator

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
)

// Malformed is a message that could not become a request.
type Malformed struct {
	ID          int64      `json:"id,string"`
	Kind        string     `json:"kind"` // malformed, or conflict: a known request_id with another request
	Stream      string     `json:"stream"`
	Sequence    int64      `json:"stream_sequence,string"`
	StreamTime  time.Time  `json:"stream_time"`
	Subject     string     `json:"subject"`
	Source      string     `json:"source"`
	RequestID   *string    `json:"request_id"`
	Error       string     `json:"error"`
	Size        int        `json:"size"` // in bytes
	ReceivedAt  time.Time  `json:"received_at"`
	PublishedAt *time.Time `json:"published_at"` // of the answer to it
}

const malformedColumns = `id, kind, stream, stream_sequence, stream_time, subject, source, request_id, error, octet_length(raw), received_at, published_at`

// MalformedMessage is a message that could not become a request, with all that it had.
type MalformedMessage struct {
	Malformed
	Headers json.RawMessage `json:"headers"` // name to array of values
	Raw     []byte          `json:"raw"`
}

// Malformed gives the messages that could not become a request, the newest first, page by page. next is the cursor of
// what follows; "": nothing does. It fails with ErrCursor.
func (desk *Desk) Malformed(ctx context.Context, cursor string) (messages []Malformed, next string, err error) {
	return newest(ctx, desk, "malformed", cursor, func(m Malformed) int64 { return m.ID }, malformedSQL)
}

const malformedSQL = `SELECT ` + malformedColumns + ` FROM outbox_malformed WHERE id < $1 ORDER BY id DESC LIMIT $2`

// MalformedMessage gives one message with its bytes and headers. It fails with ErrUnknown.
func (desk *Desk) MalformedMessage(ctx context.Context, id int64) (m MalformedMessage, err error) {
	err = desk.read(ctx, "malformed", func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `SELECT `+malformedColumns+`, headers, raw FROM outbox_malformed WHERE id = $1`, id)
		if err != nil {
			return err
		}
		m, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[MalformedMessage])
		return err
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return m, ErrUnknown
	}
	return m, err
}
