package outbox

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
)

// Row is a request as people see it in a list.
type Row struct {
	RequestID      string     `json:"request_id"`
	Source         string     `json:"source"`
	State          State      `json:"state"`
	Priority       int        `json:"priority"`
	Attempt        int        `json:"attempt"`
	Spared         int        `json:"spared"`
	InteractionSID *string    `json:"interaction_sid"`
	ErrorKind      *string    `json:"error_kind"`
	ErrorMessage   *string    `json:"error_message"`
	DueAt          *time.Time `json:"due_at"`
	ReceivedAt     time.Time  `json:"received_at"`
	SettledAt      *time.Time `json:"settled_at"`
	PublishedAt    *time.Time `json:"published_at"`
}

const rowColumns = `request_id, source, state, priority, attempt, spared, interaction_sid, error_kind, error_message,
	due_at, received_at, settled_at, published_at`

// ListMost is how many requests List gives when it is not told.
const ListMost = 100

// List gives the requests that a filter chooses, the oldest first.
func (s *Store) List(ctx context.Context, f Filter) ([]Row, error) {
	limit := cmp.Or(f.Limit, ListMost)
	rows, err := s.pool.Query(ctx, `SELECT `+rowColumns+` FROM outbox WHERE`+where+` ORDER BY id LIMIT $7`, f.args(limit)...)
	if err != nil {
		return nil, wrap("list", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Row])
	return list, wrap("list", err)
}

// History is one attempt or lookup.
type History struct {
	Kind       string    `json:"kind"`
	Number     int       `json:"number"`
	Worker     string    `json:"worker"`
	StartedAt  time.Time `json:"started_at"`
	TookMS     *int64    `json:"took_ms"`
	HTTPStatus *int      `json:"http_status"`
	TwilioCode *int      `json:"twilio_code"`
	RequestID  *string   `json:"twilio_request_id"`
	Outcome    string    `json:"outcome"`
	Error      *string   `json:"error"`
	Applied    bool      `json:"applied"`
}

// Done is one act of a person.
type Done struct {
	At  time.Time `json:"at"`
	Who string    `json:"who"`
	Why string    `json:"why"`
	Act string    `json:"act"`
	Was string    `json:"was"`
}

// Detail is all that is known of one request.
type Detail struct {
	Row
	LeasedBy       *string         `json:"leased_by"`
	LeasedUntil    *time.Time      `json:"leased_until"`
	ExpiresAt      *time.Time      `json:"expires_at"`
	LookupKey      *string         `json:"lookup_key"`
	UncertainSince *time.Time      `json:"uncertain_since"`
	Answered       bool            `json:"answered"`
	ResolvedBy     *string         `json:"resolved_by"`
	TaskSID        *string         `json:"task_sid"`
	Settlement     int             `json:"settlement"`
	StreamSequence int64           `json:"stream_sequence"`
	AnnouncedAt    *time.Time      `json:"announced_at"`
	Request        json.RawMessage `json:"request"`
	Now            time.Time       `json:"now"` // Postgres's clock when this was read
	Repeats        int             `json:"repeats"`
	History        []History       `json:"history"`
	Acts           []Done          `json:"acts"`
}

// ErrUnknown is returned for an id that no request has.
var ErrUnknown = errors.New("outbox: no such request")

// Show reads one request with its history and what people did to it.
func (s *Store) Show(ctx context.Context, requestID string) (Detail, error) {
	var d Detail
	var id int64
	err := s.pool.QueryRow(ctx, `
		SELECT id, `+rowColumns+`, leased_by, leased_until, expires_at, lookup_key, uncertain_since, answered, resolved_by,
		       task_sid, settlement, stream_sequence, announced_at, request, clock_timestamp(),
		       (SELECT count(*) FROM outbox_repeats r WHERE r.outbox_id = outbox.id)
		  FROM outbox WHERE request_id = $1`, requestID).Scan(&id,
		&d.RequestID, &d.Source, &d.State, &d.Priority, &d.Attempt, &d.Spared, &d.InteractionSID, &d.ErrorKind, &d.ErrorMessage,
		&d.DueAt, &d.ReceivedAt, &d.SettledAt, &d.PublishedAt, &d.LeasedBy, &d.LeasedUntil, &d.ExpiresAt, &d.LookupKey,
		&d.UncertainSince, &d.Answered, &d.ResolvedBy, &d.TaskSID, &d.Settlement, &d.StreamSequence, &d.AnnouncedAt,
		(*[]byte)(&d.Request), &d.Now, &d.Repeats)
	if errors.Is(err, pgx.ErrNoRows) {
		return d, ErrUnknown
	}
	if err != nil {
		return d, wrap("show", err)
	}
	history, err := s.pool.Query(ctx, `
		SELECT kind, number, worker, started_at, (extract(epoch FROM took) * 1000)::bigint, http_status, twilio_code,
		       twilio_request_id, outcome, error, applied
		  FROM outbox_attempts WHERE outbox_id = $1 ORDER BY id`, id)
	if err != nil {
		return d, wrap("show", err)
	}
	if d.History, err = pgx.CollectRows(history, pgx.RowToStructByPos[History]); err != nil {
		return d, wrap("show", err)
	}
	acts, err := s.pool.Query(ctx, `SELECT at, who, why, act, was FROM outbox_acts WHERE request_id = $1 ORDER BY id`, requestID)
	if err != nil {
		return d, wrap("show", err)
	}
	d.Acts, err = pgx.CollectRows(acts, pgx.RowToStructByPos[Done])
	return d, wrap("show", err)
}
