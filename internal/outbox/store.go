package outbox

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"flexworker/internal/batch"
	"flexworker/internal/database"
	"flexworker/internal/loop"
	"flexworker/internal/outbox/attempt"
	"flexworker/internal/outbox/gate"
	"flexworker/internal/outbox/lookup"
	"flexworker/internal/outbox/request"
	"flexworker/internal/outbox/results"
)

// Limits of the durable steps.
const (
	// batchSize is the most items in one write.
	batchSize = 256
	// batchBytes is the most that they may have: what takes longer than a statement may
	// would be tried again and again, as it is.
	batchBytes = 16 << 20
	// turnWait is how long a record or a mark waits for the other to be written. It
	// adds to what is uncertain after a crash, so it is short.
	turnWait = 20 * time.Millisecond
)

// Store adds requests to the outbox, leases them, and reclaims leases in doubt. What comes after a lease is written by others:
// by the Completer and packages results and lookup, which a Store has, and by packages upkeep and operator. It is safe for
// concurrent use.
type Store struct {
	pool   *pgxpool.Pool
	worker string
	// Retention is RETENTION: settled and published rows older than this are removed by
	// some replica, so that a message as old is no new request; 0: for ever.
	Retention time.Duration
	// leaseFor is how long a lease lasts.
	leaseFor time.Duration
	share    share
	leased   atomic.Uint64 // statements that lease
	inDoubt  inDoubt       // those that were not answered

	claimStall, storeStall gate.Stall // Postgres lets no claim through; it stores nothing that is added
	leaseStall             gate.Stall // leases come too late for their calls; a claim that leases nothing does not tell

	locked   lockedIDs // known to Add
	waryAdds database.Wary

	adds      *batch.Group[request.Event, Added]
	addsApart *batch.Group[request.Event, Added] // of those whose row was found locked, one at a time
	malformed *batch.Group[request.Malformed, error]

	completer *attempt.Completer

	// Due is raised when a request may be due: the Dispatcher claims then. A lost signal costs time, never a request: package
	// upkeep raises it again.
	Due loop.Signal

	// Results is what this outbox owes; the Publisher takes it from there.
	Results *results.Outgoing

	// Messages keeps what makes no new request: repeats, conflicts, malformed messages.
	Messages *results.Messages

	// Lookups are its uncertain requests.
	Lookups *lookup.Requests
}

// NewStore gives a Store whose lease tokens are worker, a name that no other process has, and a number. A lease lasts attemptLimit,
// the longest time one create call may take, and request.LeaseMargin more. attribute is the one in which the calls write
// the lookup key: a lease notes it in its row, and lookups of the row search by what it says. With another name here than in
// flex.Config they would find no task and take each interaction for absent.
func NewStore(pool *pgxpool.Pool, worker string, attemptLimit time.Duration, attribute string) *Store {
	s := &Store{
		pool: pool, worker: worker, leaseFor: attemptLimit + request.LeaseMargin,
		inDoubt: inDoubt{marked: loop.NewSignal()}, leaseStall: gate.Stall{Seldom: true},
		Due: loop.NewSignal(),
	}
	s.adds = batch.New(batchSize, s.addBatch)
	s.adds.Split = database.IsDataError
	s.adds.Size, s.adds.MostBytes = func(e request.Event) int { return len(e.Raw) + len(e.Request) }, batchBytes
	s.addsApart = batch.New(1, func(ctx context.Context, events []request.Event) ([]Added, error) {
		return s.addApart(ctx, events, unleased)
	})
	turn := batch.NewTurn(turnWait)
	s.completer = attempt.New(pool, worker, turn)
	s.Results = results.NewOutgoing(pool, turn)
	s.Messages = results.NewMessages(pool, s.Results.Asked)
	s.malformed = batch.New(batchSize, s.Messages.KeepMalformed)
	s.malformed.Split = database.IsDataError
	s.malformed.Size, s.malformed.MostBytes = func(m request.Malformed) int { return len(m.Raw) }, batchBytes
	s.Lookups = &lookup.Requests{Pool: pool, Worker: worker, Attribute: attribute, CanaryKeys: &lookup.CanaryKeys{}, Waiting: loop.NewSignal()}
	return s
}

// LeaseFor is how long a lease lasts.
func (s *Store) LeaseFor() time.Duration { return s.leaseFor }

// Away says whether err means that Postgres could not be asked or could not do
// its work now, so that the same call may succeed later; a refusal of the data, and
// what Postgres has answered, is not that.
func Away(err error) bool {
	return err != nil && !database.IsDataError(err) && !errors.Is(err, ErrRemoved) && !errors.Is(err, ErrOld) && !errors.Is(err, ErrLocked) && !errors.Is(err, ErrTableLocked)
}

// Ready asks Postgres whether it answers, has our tables and can write.
func (s *Store) Ready(ctx context.Context) error {
	g, err := gate.Read(ctx, s.pool)
	if err == nil && g.ReadOnly {
		err = errors.New("outbox: the database is read-only") // a standby, or somebody has made it so
	}
	return err
}
