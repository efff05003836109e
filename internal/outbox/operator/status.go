package operator

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"flexworker/internal/database"
	"flexworker/internal/outbox/gate"
)

// Unfinished is a row of outbox_backlog.
type Unfinished struct {
	State    string        `json:"state"` // a State, or "unpublished"
	Source   string        `json:"source"`
	Requests int64         `json:"requests"`
	Oldest   time.Duration `json:"oldest_ns"`
}

// Attention is a row of outbox_attention: what a person must look at.
type Attention struct {
	What    string     `json:"what"` // request, gate, replica or result
	ID      string     `json:"id"`
	Source  string     `json:"source"`
	Since   *time.Time `json:"since"`
	Why     *string    `json:"why"`
	Command string     `json:"command"` // one command that can be typed as it stands
}

// Failure is a row of outbox_failures: requests that fare the same.
type Failure struct {
	State        string    `json:"state"`
	Source       string    `json:"source"`
	Workspace    *string   `json:"workspace_sid"`
	ErrorKind    *string   `json:"error_kind"`
	HTTPStatus   *int      `json:"http_status"`
	TwilioCode   *int      `json:"twilio_code"`
	ErrorMessage *string   `json:"error_message"`
	Requests     int64     `json:"requests"`
	Latest       time.Time `json:"latest"`
}

// Status is the fleet and its work at one glance.
type Status struct {
	Gate  gate.Status `json:"gate"`
	Fleet gate.Fleet  `json:"fleet"`
	// Holders are the sessions that may keep the workers waiting.
	Holders    []database.Holder `json:"holders"`
	Unfinished []Unfinished      `json:"unfinished"`
	// Attention has the first StatusMost of Waiting rows, the longest waiting first.
	Attention []Attention `json:"attention"`
	Waiting   int64       `json:"waiting"`
	// Failures are the StatusMost most frequent.
	Failures []Failure `json:"failures"`
	// Unread is why what follows Holders could not be read; null: it was.
	Unread *string `json:"unread"`
}

// shownAfter is for how long a transaction holds locks until it is shown as a holder.
const shownAfter = time.Second

// StatusMost is how many rows of a kind Status has.
const StatusMost = 20

// Status reads the fleet and its work. Its time grows with the number of unfinished requests. Where a table is
// locked, it returns what could be read, who holds the lock, and the error.
func (desk *Desk) Status(ctx context.Context) (all Status, err error) {
	if err = desk.mayLook(); err != nil {
		return all, err
	}
	if all.Gate, err = gate.Read(ctx, desk.pool); err != nil {
		return all, err
	}
	if all.Fleet, err = gate.ReadFleet(ctx, desk.pool); err != nil {
		return all, err
	}
	if all.Holders, err = database.Holders(ctx, desk.pool, shownAfter); err != nil {
		return all, err
	}
	if err = desk.unfinished(ctx, &all); database.IsLockTrouble(err) {
		why := err.Error()
		all.Unread = &why
	}
	return all, err
}

// unfinished reads what there is to do, and what went wrong.
func (desk *Desk) unfinished(ctx context.Context, all *Status) error {
	rows, err := desk.pool.Query(ctx, `SELECT state, source, requests, oldest FROM outbox_backlog
		 ORDER BY array_position(ARRAY['pending', 'sending', 'uncertain', 'unpublished'], state), requests DESC, source`)
	if err != nil {
		return database.Wrap("status", err)
	}
	if all.Unfinished, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Unfinished]); err != nil {
		return database.Wrap("status", err)
	}
	if rows, err = desk.pool.Query(ctx, `SELECT what, id, source, since, why, command FROM outbox_attention ORDER BY since, id LIMIT $1`, StatusMost); err != nil {
		return database.Wrap("status", err)
	}
	if all.Attention, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Attention]); err != nil {
		return database.Wrap("status", err)
	}
	if err = desk.pool.QueryRow(ctx, `SELECT count(*) FROM outbox_attention`).Scan(&all.Waiting); err != nil {
		return database.Wrap("status", err)
	}
	if rows, err = desk.pool.Query(ctx, `SELECT state, source, workspace_sid, error_kind, http_status, twilio_code, error_message, requests, latest
		  FROM outbox_failures ORDER BY requests DESC, latest DESC LIMIT $1`, StatusMost); err != nil {
		return database.Wrap("status", err)
	}
	all.Failures, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Failure])
	return database.Wrap("status", err)
}
