package operator

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"flexworker/internal/database"
	"flexworker/internal/outbox/gate"
	"flexworker/internal/outbox/request"
	"flexworker/internal/outbox/results"
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

// FailingKind are requests that fare the same, as far as kind, status and Twilio code tell: a Filter chooses them.
type FailingKind struct {
	State      request.State `json:"state"`
	ErrorKind  *string       `json:"error_kind"`
	HTTPStatus *int          `json:"http_status"`
	TwilioCode *int          `json:"twilio_code"`
	Requests   int           `json:"requests"`
	Latest     time.Time     `json:"latest"`
}

// Now is the fleet at one glance. How many requests are not finished is for Backlog to say, now and then.
type Now struct {
	Gate  gate.Status `json:"gate"`
	Fleet gate.Fleet  `json:"fleet"`
	// Holders are the sessions that may keep the workers waiting.
	Holders []database.Holder `json:"holders"`
	// Attention has the first StatusMost of Waiting rows, the longest waiting first. Waiting is counted up to WaitingMost: one
	// more means that there are more.
	Attention []Attention `json:"attention"`
	Waiting   int         `json:"waiting"`
	// Failing are the StatusMost most frequent kinds: of what settled within the last hour without an interaction, and of
	// what is tried again after a failure. Where Cut, there were more than failedMost of the ones or retriedMost of the
	// others, and the newest, or some, are counted.
	Failing []FailingKind `json:"failing"`
	Cut     bool          `json:"failing_cut"`
	// Total is about how many requests the table has, by its latest ANALYZE; -1: nobody knows.
	Total int64 `json:"total"`
	// Unread is why what follows Holders could not be read; null: it was.
	Unread *string `json:"unread"`
}

// Status is Now with the sources.
type Status struct {
	Now
	Unfinished []Unfinished `json:"unfinished"`
	// Failures are the StatusMost most frequent.
	Failures []Failure `json:"failures"`
}

// shownAfter is for how long a transaction holds locks until it is shown as a holder.
const shownAfter = time.Second

const (
	// StatusMost is how many rows of a kind Now and Status have.
	StatusMost = 20
	// WaitingMost is how far what needs attention is counted.
	WaitingMost = 1000
	// failedMost and retriedMost are how many requests Now looks at in order to say how they fail.
	failedMost  = 5000
	retriedMost = 1000
)

// Now reads what does not grow with the table nor with the backlog. Where a table is locked, or it takes too long, it
// returns what could be read, who holds the lock, and the error.
func (desk *Desk) Now(ctx context.Context) (now Now, err error) {
	if now.Gate, err = desk.Gate(ctx); err != nil {
		return now, err
	}
	if now.Fleet, err = desk.Fleet(ctx); err != nil {
		return now, err
	}
	if now.Holders, err = database.Holders(ctx, desk.reads, shownAfter); err != nil {
		return now, tooSlow(err)
	}
	err = desk.read(ctx, "now", func(tx pgx.Tx) error { return now.read(ctx, tx) })
	return now, now.unread(err)
}

// unread keeps why the rest could not be read, where a lock or the time is why.
func (now *Now) unread(err error) error {
	if database.IsLockTrouble(err) || errors.Is(err, ErrTooSlow) {
		now.Unread = new(err.Error())
	}
	return err
}

const (
	// longestSQL are the requests and the results that need attention, of each the $1 that wait longest: by the order of
	// two indexes, in which the view outbox_attention would not be read.
	longestSQL = `
		(SELECT request_id FROM outbox WHERE state = 'uncertain' AND ` + results.ForPerson + `
		  ORDER BY coalesce(for_person_since, '-infinity'), due_at, id LIMIT $1)
		UNION ALL
		(SELECT request_id FROM outbox WHERE settled_at IS NOT NULL AND published_at IS NULL AND settled_at < now() - interval '5 minutes'
		  ORDER BY settled_at, id LIMIT $1)`
	attentionSQL = `
		SELECT what, id, source, since, why, command
		  FROM (SELECT a.* FROM (` + longestSQL + `) AS longest,
		               LATERAL (SELECT * FROM outbox_attention WHERE id = request_id AND what IN ('request', 'result') OFFSET 0) AS a
		        UNION ALL SELECT * FROM outbox_attention WHERE what IN ('gate', 'replica')) AS all_kinds
		 ORDER BY since, id LIMIT $1`
	// waitingSQL counts no further than $1, twice.
	waitingSQL = `SELECT (SELECT count(*) FROM (` + longestSQL + `) AS longest) + (SELECT count(*) FROM outbox_attention WHERE what IN ('gate', 'replica'))`
	failedSQL  = `
		SELECT state, error_kind, http_status, twilio_code, count(*), max(settled_at)
		  FROM (SELECT state, error_kind, http_status, twilio_code, settled_at FROM outbox
		         WHERE ` + failed + ` AND settled_at > now() - interval '1 hour' ORDER BY settled_at DESC, id DESC LIMIT $1) AS recent
		 GROUP BY 1, 2, 3, 4`
	retriedSQL = `
		SELECT state, error_kind, http_status, twilio_code, count(*), max(coalesce(attempt_began_at, received_at))
		  FROM (SELECT * FROM outbox WHERE state = 'pending' AND attempt > 0 ORDER BY priority, due_at, id LIMIT $1) AS first
		 WHERE error_kind IS NOT NULL GROUP BY 1, 2, 3, 4`
)

func (now *Now) read(ctx context.Context, tx pgx.Tx) (err error) {
	if now.Attention, err = rowsOf[Attention](ctx, tx, attentionSQL, StatusMost); err != nil {
		return err
	}
	if err = tx.QueryRow(ctx, waitingSQL, WaitingMost+1).Scan(&now.Waiting); err != nil {
		return err
	}
	now.Waiting = min(now.Waiting, WaitingMost+1)
	now.Failing = []FailingKind{}
	for _, some := range []struct {
		sql  string
		most int
	}{{failedSQL, failedMost}, {retriedSQL, retriedMost}} {
		kinds, err := rowsOf[FailingKind](ctx, tx, some.sql, some.most)
		if err != nil {
			return err
		}
		n := 0
		for _, k := range kinds {
			n += k.Requests
		}
		now.Cut = now.Cut || n == some.most
		now.Failing = append(now.Failing, kinds...)
	}
	slices.SortStableFunc(now.Failing, func(a, b FailingKind) int {
		return cmp.Or(cmp.Compare(b.Requests, a.Requests), b.Latest.Compare(a.Latest))
	})
	now.Failing = now.Failing[:min(len(now.Failing), StatusMost)]
	return tx.QueryRow(ctx, `SELECT reltuples::bigint FROM pg_class WHERE oid = 'outbox'::regclass`).Scan(&now.Total)
}

// Status reads the fleet and its work. Its time grows with the number of unfinished requests. Where a table is
// locked, it returns what could be read, who holds the lock, and the error.
func (desk *Desk) Status(ctx context.Context) (all Status, err error) {
	if all.Now, err = desk.Now(ctx); err != nil {
		return all, err
	}
	err = desk.read(ctx, "status", func(tx pgx.Tx) error {
		all.Unfinished, err = rowsOf[Unfinished](ctx, tx, `SELECT state, source, requests, oldest FROM outbox_backlog
		 ORDER BY array_position(ARRAY['pending', 'sending', 'uncertain', 'unpublished'], state), requests DESC, source`)
		if err != nil {
			return err
		}
		all.Failures, err = rowsOf[Failure](ctx, tx, `SELECT state, source, workspace_sid, error_kind, http_status, twilio_code, error_message, requests, latest
		  FROM outbox_failures ORDER BY requests DESC, latest DESC LIMIT $1`, StatusMost)
		return err
	})
	return all, all.unread(err)
}
