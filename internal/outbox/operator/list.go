package operator

import (
	"cmp"
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"flexworker/internal/database"
	"flexworker/internal/outbox/request"
)

// Filter chooses requests. A zero field does not restrict.
type Filter struct {
	RequestIDs []string
	State      request.State
	Source     string
	ErrorKind  string
	OlderThan  time.Duration // since it was received
	Since      time.Duration // settled within this time before now
	Limit      int           // 0: ListMost for List, no limit for acts
	// Preview is the Affected.Token that Matching gave for the same change and filter: Do takes nothing that was not
	// shown then. "": whatever the filter chooses now.
	Preview string
}

// where is the condition of a filter. args gives its parameters, $1 to $8. Where the filter carries a preview, its ages
// are those of that time, and what has settled or come since is left out.
const where = ` ($1::text[] IS NULL OR request_id = ANY($1)) AND ($2 = '' OR state = $2) AND ($3 = '' OR source = $3)
	AND ($4 = '' OR error_kind = $4) AND ($5::interval = '0' OR received_at < coalesce($8, clock_timestamp()) - $5::interval)
	AND ($6::interval = '0' OR settled_at > coalesce($8, clock_timestamp()) - $6::interval)
	AND ($8::timestamptz IS NULL OR id <= $7::bigint AND (settled_at IS NULL OR settled_at <= $8))`

func (f Filter) args(shown *preview, more ...any) []any {
	newest, at := shown.args()
	return append([]any{f.RequestIDs, string(f.State), f.Source, f.ErrorKind, f.OlderThan, f.Since, newest, at}, more...)
}

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

// ListMost is how many requests List gives when it is not told.
const ListMost = 100

// List gives the requests that a filter chooses, the newest first.
func (desk *Desk) List(ctx context.Context, f Filter) ([]Row, error) {
	if err := desk.mayLook(); err != nil {
		return nil, err
	}
	limit := cmp.Or(f.Limit, ListMost)
	rows, err := desk.pool.Query(ctx, `SELECT `+rowColumns+` FROM outbox WHERE`+where+` ORDER BY id DESC LIMIT $9`, f.args(nil, limit)...)
	if err != nil {
		return nil, database.Wrap("list", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Row])
	return list, database.Wrap("list", err)
}

// IDs are the ids of requests that begin with prefix, the smallest first, at most most.
func (desk *Desk) IDs(ctx context.Context, prefix string, most int) ([]string, error) {
	if err := desk.mayLook(); err != nil {
		return nil, err
	}
	rows, err := desk.pool.Query(ctx, `SELECT request_id FROM outbox WHERE request_id >= $1 AND starts_with(request_id, $1) ORDER BY request_id LIMIT $2`, prefix, most)
	if err != nil {
		return nil, database.Wrap("ids", err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return ids, database.Wrap("ids", err)
}
