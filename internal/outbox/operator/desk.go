package operator

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"flexworker/internal/database"
	"flexworker/internal/outbox/gate"
)

// A Desk is where people ask about requests and decide about them. It is safe for concurrent use.
type Desk struct{ pool *pgxpool.Pool }

// NewDesk gives a Desk that asks through pool. It begins nothing by itself.
func NewDesk(pool *pgxpool.Pool) *Desk { return &Desk{pool: pool} }

// An Act is what a person does to requests or to the gate: it is recorded.
type Act struct {
	Who string // not empty
	Why string // not empty
	// Attempt is the latest attempt that the person has seen, 0 where there was none. The act changes
	// nothing once another attempt has been made. Nil: the act speaks of no attempt, as an act on many does.
	Attempt *int
}

var (
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
	if !database.WaitedForLock(err) && !errors.Is(err, ErrLeftOut) {
		return nil
	}
	holders, _ := database.Holders(ctx, desk.pool, heldLong) // the caller reports err in any case
	return holders
}

// Fleet is the workers of the fleet, where their settings differ, and the rate in force.
func (desk *Desk) Fleet(ctx context.Context) (gate.Fleet, error) {
	return gate.ReadFleet(ctx, desk.pool)
}
