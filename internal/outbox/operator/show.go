package operator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"flexworker/internal/outbox/request"
)

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
	ID        int64     `json:"id,string"`
	At        time.Time `json:"at"`
	Who       string    `json:"who"`
	Why       string    `json:"why"`
	Act       string    `json:"act"`
	RequestID *string   `json:"request_id"` // nil: of the gate
	Attempt   *int      `json:"attempt"`    // the attempt it speaks of; nil: of none
	Was       string    `json:"was"`
	// Unverified: the person was believed unasked, or against what Flex and TaskRouter said.
	Unverified bool `json:"unverified"`
}

const doneColumns = `id, at, who, why, act, request_id, attempt, was, unverified`

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
	Revision          int             `json:"revision"`
	StreamSequence    int64           `json:"stream_sequence,string"`
	AnnouncedAt       *time.Time      `json:"announced_at"`
	ErasedAt          *time.Time      `json:"erased_at"` // when its content was last erased; nil: never
	Workspace         *string         `json:"workspace_sid"`
	Request           json.RawMessage `json:"request"`
	Now               time.Time       `json:"now"` // Postgres's clock when this was read
	Repeats           int             `json:"repeats"`
	History           []History       `json:"history"`
	Acts              []Done          `json:"acts"`
	Setup             *Setup          `json:"setup"` // nil: it is not created, or CONFIRM was off
}

// WaitsForPerson says whether an uncertain request waits for a person. Lookups may go on all the same.
func (d Detail) WaitsForPerson() bool { return d.DueAt == nil || d.ForPersonSince != nil }

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

// Channel is the type of the request's channel; "": it has none that can be read.
func (d Detail) Channel() string {
	var r struct {
		Channel struct {
			Type string `json:"type"`
		} `json:"channel"`
	}
	if json.Unmarshal(d.Request, &r) != nil {
		return ""
	}
	return r.Channel.Type
}

// Show reads one request with its history and what people did to it.
func (desk *Desk) Show(ctx context.Context, requestID string) (Detail, error) {
	var d Detail
	err := desk.read(ctx, "show", func(tx pgx.Tx) error {
		if unstorable(requestID) {
			return pgx.ErrNoRows
		}
		return d.read(ctx, tx, requestID)
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return d, ErrUnknown
	}
	return d, err
}

// detailColumns are what Detail has of outbox itself.
const detailColumns = rowColumns + `, leased_by, leased_until, expires_at, lookup_key, lookup_attribute, lookups, attempt_began_at,
	uncertain_since, answered, undecided, for_person_since, cancel_requested_at, resolved_by,
	task_sid, revision, stream_sequence, announced_at, erased_at, ` + request.WorkspaceSQL + `, request, clock_timestamp(),
	(SELECT count(*) FROM outbox_repeats r WHERE r.outbox_id = outbox.id)`

func (d *Detail) targets() []any {
	return append(d.Row.targets(), &d.LeasedBy, &d.LeasedUntil, &d.ExpiresAt, &d.LookupKey, &d.LookupAttribute, &d.Lookups, &d.AttemptBeganAt,
		&d.UncertainSince, &d.Answered, &d.Undecided, &d.ForPersonSince, &d.CancelRequestedAt, &d.ResolvedBy,
		&d.TaskSID, &d.Revision, &d.StreamSequence, &d.AnnouncedAt, &d.ErasedAt, &d.Workspace, (*[]byte)(&d.Request), &d.Now, &d.Repeats)
}

// read reads a request by its id. It fails with pgx.ErrNoRows.
func (d *Detail) read(ctx context.Context, tx pgx.Tx, requestID string) error {
	var id int64
	err := tx.QueryRow(ctx, `SELECT id, `+detailColumns+` FROM outbox WHERE request_id = $1`, requestID).Scan(append([]any{&id}, d.targets()...)...)
	if err != nil {
		return err
	}
	d.History, err = rowsOf[History](ctx, tx, `
		SELECT kind, number, worker, started_at, (extract(epoch FROM took) * 1000)::bigint, http_status, twilio_code,
		       twilio_request_id, outcome, error, applied
		  FROM outbox_attempts WHERE outbox_id = $1 ORDER BY id`, id)
	if err != nil {
		return err
	}
	if d.Setup, err = readSetup(ctx, tx, id); err != nil {
		return err
	}
	d.Acts, err = rowsOf[Done](ctx, tx, `SELECT `+doneColumns+` FROM outbox_acts WHERE request_id = $1 ORDER BY id`, requestID)
	return err
}

// Since says in words what has happened to a request since the attempt that somebody has
// seen: the attempts and the acts after it.
func (d Detail) Since(seen int) string {
	var after []string
	if d.Attempt < seen {
		return fmt.Sprintf("there is no attempt %d: the latest is attempt %d", seen, d.Attempt)
	}
	var from time.Time // of the first later attempt
	for _, h := range d.History {
		if h.Kind == "attempt" && h.Number > seen {
			if from.IsZero() || h.StartedAt.Before(from) {
				from = h.StartedAt
			}
			after = append(after, h.said())
		}
	}
	if d.State == request.Sending {
		after = append(after, d.underWay())
	}
	for _, act := range d.Acts {
		if act.Attempt != nil && *act.Attempt >= seen || !from.IsZero() && act.At.After(from) {
			after = append([]string{act.said()}, after...)
		}
	}
	return strings.Join(after, "; ")
}
