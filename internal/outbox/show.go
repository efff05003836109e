package outbox

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"flexworker/internal/database"
	"flexworker/internal/outbox/request"
)

// Row is a request as people see it in a list.
type Row struct {
	RequestID      string        `json:"request_id"`
	Source         string        `json:"source"`
	State          request.State `json:"state"`
	Priority       int           `json:"priority"`
	Attempt        int           `json:"attempt"`
	Spared         int           `json:"spared"`
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

const rowColumns = `request_id, source, state, priority, attempt, spared, interaction_sid, error_kind, error_message,
	http_status, twilio_code, due_at, received_at, settled_at, published_at`

func (r *Row) targets() []any {
	return []any{&r.RequestID, &r.Source, &r.State, &r.Priority, &r.Attempt, &r.Spared, &r.InteractionSID, &r.ErrorKind, &r.ErrorMessage,
		&r.HTTPStatus, &r.TwilioCode, &r.DueAt, &r.ReceivedAt, &r.SettledAt, &r.PublishedAt}
}

// ListMost is how many requests List gives when it is not told.
const ListMost = 100

// List gives the requests that a filter chooses, the newest first.
func (desk *Desk) List(ctx context.Context, f Filter) ([]Row, error) {
	limit := cmp.Or(f.Limit, ListMost)
	rows, err := desk.pool.Query(ctx, `SELECT `+rowColumns+` FROM outbox WHERE`+where+` ORDER BY id DESC LIMIT $7`, f.args(limit)...)
	if err != nil {
		return nil, database.Wrap("list", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Row])
	return list, database.Wrap("list", err)
}

// IDs are the ids of requests that begin with prefix, the smallest first, at most most.
func (desk *Desk) IDs(ctx context.Context, prefix string, most int) ([]string, error) {
	rows, err := desk.pool.Query(ctx, `SELECT request_id FROM outbox WHERE request_id >= $1 AND starts_with(request_id, $1) ORDER BY request_id LIMIT $2`, prefix, most)
	if err != nil {
		return nil, database.Wrap("ids", err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return ids, database.Wrap("ids", err)
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
	At      time.Time `json:"at"`
	Who     string    `json:"who"`
	Why     string    `json:"why"`
	Act     string    `json:"act"`
	Was     string    `json:"was"`
	Attempt *int      `json:"attempt"` // the attempt it speaks of; nil: of none
}

// Detail is all that is known of one request.
type Detail struct {
	Row
	LeasedBy          *string         `json:"leased_by"`
	LeasedUntil       *time.Time      `json:"leased_until"`
	ExpiresAt         *time.Time      `json:"expires_at"`
	LookupKey         *string         `json:"lookup_key"`
	LookupAttribute   *string         `json:"lookup_attribute"`
	Lookups           int             `json:"lookups"`
	AttemptBeganAt    *time.Time      `json:"attempt_began_at"`
	UncertainSince    *time.Time      `json:"uncertain_since"`
	Answered          bool            `json:"answered"`
	Undecided         bool            `json:"undecided"`
	ForPersonSince    *time.Time      `json:"for_person_since"`
	CancelRequestedAt *time.Time      `json:"cancel_requested_at"`
	ResolvedBy        *string         `json:"resolved_by"`
	TaskSID           *string         `json:"task_sid"`
	Settlement        int             `json:"settlement"`
	StreamSequence    int64           `json:"stream_sequence"`
	AnnouncedAt       *time.Time      `json:"announced_at"`
	Workspace         *string         `json:"workspace_sid"`
	Request           json.RawMessage `json:"request"`
	Now               time.Time       `json:"now"` // Postgres's clock when this was read
	Repeats           int             `json:"repeats"`
	History           []History       `json:"history"`
	Acts              []Done          `json:"acts"`
}

// NotBefore is the request's not_before; zero: it has none that can be read.
func (d Detail) NotBefore() time.Time {
	var r struct {
		NotBefore time.Time `json:"not_before"`
	}
	if json.Unmarshal(d.Request, &r) != nil {
		return time.Time{}
	}
	return r.NotBefore
}

// Show reads one request with its history and what people did to it.
func (desk *Desk) Show(ctx context.Context, requestID string) (Detail, error) {
	var d Detail
	var id int64
	err := desk.pool.QueryRow(ctx, `
		SELECT `+rowColumns+`, id, leased_by, leased_until, expires_at, lookup_key, lookup_attribute, lookups, attempt_began_at,
		       uncertain_since, answered, undecided, for_person_since, cancel_requested_at, resolved_by,
		       task_sid, settlement, stream_sequence, announced_at, request #>> '{routing,properties,workspace_sid}', request, clock_timestamp(),
		       (SELECT count(*) FROM outbox_repeats r WHERE r.outbox_id = outbox.id)
		  FROM outbox WHERE request_id = $1`, requestID).Scan(append(d.targets(), &id,
		&d.LeasedBy, &d.LeasedUntil, &d.ExpiresAt, &d.LookupKey, &d.LookupAttribute, &d.Lookups, &d.AttemptBeganAt,
		&d.UncertainSince, &d.Answered, &d.Undecided, &d.ForPersonSince, &d.CancelRequestedAt, &d.ResolvedBy,
		&d.TaskSID, &d.Settlement, &d.StreamSequence, &d.AnnouncedAt, &d.Workspace, (*[]byte)(&d.Request), &d.Now, &d.Repeats)...)
	if errors.Is(err, pgx.ErrNoRows) {
		return d, ErrUnknown
	}
	if err != nil {
		return d, database.Wrap("show", err)
	}
	history, err := desk.pool.Query(ctx, `
		SELECT kind, number, worker, started_at, (extract(epoch FROM took) * 1000)::bigint, http_status, twilio_code,
		       twilio_request_id, outcome, error, applied
		  FROM outbox_attempts WHERE outbox_id = $1 ORDER BY id`, id)
	if err != nil {
		return d, database.Wrap("show", err)
	}
	if d.History, err = pgx.CollectRows(history, pgx.RowToStructByPos[History]); err != nil {
		return d, database.Wrap("show", err)
	}
	acts, err := desk.pool.Query(ctx, `SELECT at, who, why, act, was, attempt FROM outbox_acts WHERE request_id = $1 ORDER BY id`, requestID)
	if err != nil {
		return d, database.Wrap("show", err)
	}
	d.Acts, err = pgx.CollectRows(acts, pgx.RowToStructByPos[Done])
	return d, database.Wrap("show", err)
}
