package operator

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgxpool"

	"flexworker/internal/database"
	"flexworker/internal/flex"
	"flexworker/internal/outbox/gate"
	"flexworker/internal/outbox/lookup"
)

// A Desk is where people ask about requests and decide about them. Every method checks the right of its caller, and
// nothing else does. It is safe for concurrent use.
type Desk struct {
	pool   *pgxpool.Pool
	reads  *pgxpool.Pool
	caller Caller
	asks   Asks
	owed   func(ids []int64) // see Telling; nil: nobody is told
	many   chan struct{}     // taken by an act on many, of whichever caller
}

// A Caller is who asks a Desk.
type Caller struct {
	Name  string // as outbox_acts records it; an act wants one
	Right Right
	// source is that of a Sender; "": the caller is none.
	source string
}

// A Right is what a caller may do. The zero value is nothing.
type Right int

// Each right includes those before it.
const (
	MayNothing Right = iota
	MayLook          // every question
	MayAct           // every act
)

// Asks gives what Flex and TaskRouter are asked by for a person, and LOOKUP_SETTLE of this process. An error says why
// neither can be asked.
type Asks func() (f Flex, settle time.Duration, err error)

// Flex is what a Desk asks for a person, and what closes a duplicate. *flex.Client is one.
type Flex interface {
	lookup.Finder
	Channels(ctx context.Context, interactionSID string) ([]flex.ChannelState, error)
	CloseChannel(ctx context.Context, interactionSID, channelSID string) flex.Outcome
}

// NewDesk gives a Desk for one caller, which reads and writes through pool. It begins nothing by itself. asks may be nil
// where nothing is resolved, or all of it unverified.
func NewDesk(pool *pgxpool.Pool, caller Caller, asks Asks) *Desk {
	return &Desk{pool: pool, reads: pool, caller: caller, asks: asks, many: make(chan struct{}, 1)}
}

// For is the same Desk for another caller.
func (desk *Desk) For(caller Caller) *Desk {
	other := *desk
	other.caller = caller
	return &other
}

// ReadingFrom is the same Desk, which answers questions through a pool of their own, so that whoever looks never takes a
// connection from what has to be done. The statement_timeout of these connections says when a question is ErrTooSlow.
func (desk *Desk) ReadingFrom(reads *pgxpool.Pool) *Desk {
	other := *desk
	other.reads = reads
	return &other
}

// Telling is the same Desk, which tells owed after each act whose results are to be published by it: the ids of their rows,
// of outbox. A Publisher in the same process then publishes them at once; of an act in another process, as of the command
// line, a poll finds them some seconds later. owed must not wait.
func (desk *Desk) Telling(owed func(ids []int64)) *Desk {
	other := *desk
	other.owed = owed
	return &other
}

// tell says which rows have results to be published, once that is committed.
func (desk *Desk) tell(ids ...int64) {
	if desk.owed != nil && len(ids) > 0 {
		desk.owed(ids)
	}
}

// MayLook refuses a question of who may not look, also one that the caller answers from memory: ErrForbidden.
func (desk *Desk) MayLook() error {
	if desk.caller.Right < MayLook {
		return ErrForbidden
	}
	return nil
}

// MayAct refuses an act of who may not act, before anything else of it is looked at: ErrForbidden.
func (desk *Desk) MayAct() error {
	if desk.caller.Right < MayAct {
		return ErrForbidden
	}
	return nil
}

// mayAct refuses an act of who may not act, and one without a name or a good reason.
func (desk *Desk) mayAct(a Act) error {
	if err := desk.MayAct(); err != nil {
		return err
	}
	if strings.TrimSpace(desk.caller.Name) == "" {
		return ErrNoReason
	}
	return a.reason()
}

// WhyMost is how many characters a reason may have.
const WhyMost = 2000

// reason refuses an act without a reason, and one whose reason no record can have.
func (a Act) reason() error {
	switch why := strings.TrimSpace(a.Why); {
	case why == "", why == "...", why == "…": // printed commands leave ... for the reason
		return ErrNoReason
	case utf8.RuneCountInString(a.Why) > WhyMost, unstorable(a.Why):
		return ErrReason
	}
	return nil
}

// An Act is what the caller does to requests or to the gate: it is recorded.
type Act struct {
	Why string // not empty, at most WhyMost characters
	// Attempt is the latest attempt that the person has seen, 0 where there was none. The act changes
	// nothing once another attempt has been made. Nil: the act speaks of no attempt, as an act on many does.
	Attempt *int
	// Seen is the tag under which the person has seen the request, or the gate. The act changes nothing once that has
	// another. The tag of a request names an attempt, too, where Attempt is nil. "": the act speaks of no tag.
	Seen Tag
}

// attempt is the attempt that the act speaks of; nil: of none.
func (a Act) attempt() *int {
	if attempt, _, _, ok := a.Seen.seen(); ok && a.Attempt == nil {
		return &attempt
	}
	return a.Attempt
}

var (
	// ErrForbidden is returned to a caller without the right to what they ask. Nothing was read or changed.
	ErrForbidden = errors.New("outbox: not permitted")
	// ErrTooSlow is returned for a question that takes longer than its connection or its context lets it. It may be asked
	// again, narrower. It does not say that Postgres is away.
	ErrTooSlow = errors.New("outbox: it takes too long to read this")
	// ErrCursor is returned for a cursor that this list has not given.
	ErrCursor = errors.New("outbox: this is no cursor of this list")
	// ErrNoReason is returned for an act without a reason, or of a caller without a name. Nothing was changed.
	ErrNoReason = errors.New("outbox: an act wants to know who does it and why: both are recorded")
	// ErrReason is returned for an act whose reason is too long, or no text. Nothing was changed.
	ErrReason = fmt.Errorf("outbox: a reason is UTF-8 text without NUL, of at most %d characters", WhyMost)
	// ErrUnknown is returned for an id that no request has.
	ErrUnknown = errors.New("outbox: no such request")
	// ErrNotUncertain is returned by a resolve of a request that is not uncertain: there is
	// nothing to resolve, or somebody else was faster.
	ErrNotUncertain = errors.New("outbox: the request is not uncertain")
	// ErrRefused is returned for an act that the table does not allow. Nothing was changed.
	ErrRefused = errors.New("outbox: refused")
	// ErrOtherAttempt is returned for an act that speaks of an attempt which is no longer the
	// latest. Nothing was changed.
	ErrOtherAttempt = errors.New("outbox: another attempt has been made since")
	// ErrStale is returned for an act that speaks of a tag which the request, or the gate, no longer has. Nothing was changed.
	ErrStale = errors.New("outbox: it is no longer as it was seen")
	// ErrOtherPreview is returned for an act on many whose filter carries the preview of another change or of another
	// filter. Nothing was changed.
	ErrOtherPreview = errors.New("outbox: this is not what the preview has shown")
	// ErrBusy is returned for an act on many while another is under way through this Desk. Nothing was changed.
	ErrBusy = errors.New("outbox: another act on many is under way")
	// ErrLeftOut is returned for an act on many that went on without the rows which another
	// session holds locked. The act on the others was done. Do it again for those that were left out.
	ErrLeftOut = errors.New("outbox: another session holds rows locked")
)

// heldLong is for how long a session must have held its locks in order to be named. It is shorter
// than any of our statements waits.
const heldLong = 250 * time.Millisecond

// WhoHolds are the sessions that kept an act waiting, where err, which the act returned, says that one did.
// Sessions that cannot be named are left out.
func (desk *Desk) WhoHolds(ctx context.Context, err error) []database.Holder {
	if desk.MayLook() != nil || (!database.WaitedForLock(err) && !errors.Is(err, ErrLeftOut)) {
		return nil
	}
	holders, _ := database.Holders(ctx, desk.reads, heldLong) // the caller reports err in any case
	return holders
}

// Fleet is the workers of the fleet, where their settings differ, and the rate in force.
func (desk *Desk) Fleet(ctx context.Context) (gate.Fleet, error) {
	if err := desk.MayLook(); err != nil {
		return gate.Fleet{}, err
	}
	f, err := gate.ReadFleet(ctx, desk.reads)
	return f, tooSlow(err)
}
