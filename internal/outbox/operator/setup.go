package operator

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"flexworker/internal/outbox/request"
)

// A SetupFilter chooses created requests by what CONFIRM found of their set-up. The zero value does not restrict.
type SetupFilter string

// The set-ups that can be chosen.
const (
	SetupFailed      SetupFilter = "failed"
	SetupUnconfirmed SetupFilter = "unconfirmed"
	SetupConfirmed   SetupFilter = "confirmed"
	SetupWaiting     SetupFilter = "waiting" // there is no word yet
)

// SetupFilters are all of them.
var SetupFilters = [...]SetupFilter{SetupFailed, SetupUnconfirmed, SetupConfirmed, SetupWaiting}

// said is the condition on outbox_setups, written out, so that a kept plan too knows which partial indexes answer it.
func (f SetupFilter) said() string {
	switch f {
	case SetupFailed:
		return `word = 'setup_failed'`
	case SetupUnconfirmed:
		return `word = 'unconfirmed'`
	case SetupConfirmed:
		return `word = 'confirmed'`
	case SetupWaiting:
		return `word IS NULL`
	default:
		return `id IS NULL` // none
	}
}

// Setup is what CONFIRM has found of a created request.
type Setup struct {
	Word          *string    `json:"word"` // confirmed, setup_failed or unconfirmed; nil: more looks follow
	ErrorKind     *string    `json:"error_kind"`
	Why           *string    `json:"why"`
	Checks        int        `json:"checks"`
	DueAt         *time.Time `json:"due_at"`
	ChannelSID    *string    `json:"channel_sid"`
	ChannelStatus *string    `json:"channel_status"`
	ErrorCode     *int       `json:"error_code"`
	ErrorMessage  *string    `json:"error_message"`
	TaskStatus    *string    `json:"task_status"`
	TaskReason    *string    `json:"task_reason"`
	DecidedAt     *time.Time `json:"decided_at"`
	PublishedAt   *time.Time `json:"published_at"`
}

// readSetup reads the set-up of a request; nil: it has none.
func readSetup(ctx context.Context, tx pgx.Tx, id int64) (*Setup, error) {
	all, err := rowsOf[Setup](ctx, tx, `
		SELECT word, error_kind, why, checks, due_at, channel_sid, channel_status, error_code, error_message, task_status, task_reason,
		       decided_at, published_at
		  FROM outbox_setups WHERE id = $1`, id)
	if err != nil || len(all) == 0 {
		return nil, err
	}
	return &all[0], nil
}

// sentence says what is known of the set-up.
func (s Setup) sentence(now time.Time) string {
	var b strings.Builder
	looks := "one look"
	if s.Checks != 1 {
		looks = fmt.Sprintf("%d looks", s.Checks)
	}
	switch {
	case s.Word == nil && s.Why == nil:
		fmt.Fprintf(&b, "Whether Flex has set up its channel is not known yet (%s): the next look is due %s.", looks, due(s.DueAt, now))
	case s.Word == nil:
		fmt.Fprintf(&b, "Whether Flex has set up its channel is not known yet (%s; %s): the next look is due %s.", looks, *s.Why, due(s.DueAt, now))
	case *s.Word == "confirmed":
		fmt.Fprintf(&b, "Its channel is set up: confirmed at %s after %s", at(s.DecidedAt), looks)
	case *s.Word == "setup_failed":
		fmt.Fprintf(&b, "Its channel was not set up: setup_failed at %s after %s: %s", at(s.DecidedAt), looks, said(s.Why))
		if s.ErrorCode != nil {
			fmt.Fprintf(&b, " (Twilio code %d)", *s.ErrorCode)
		}
	default:
		fmt.Fprintf(&b, "Whether Flex has set up its channel was not found out: unconfirmed at %s after %s: %s", at(s.DecidedAt), looks, said(s.Why))
	}
	switch {
	case s.Word == nil:
	case s.PublishedAt == nil:
		b.WriteString(". That is not published yet.")
	default:
		fmt.Fprintf(&b, ". That was published at %s.", request.ShowTime(*s.PublishedAt))
	}
	return b.String()
}
