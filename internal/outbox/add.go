package outbox

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"flexworker/internal/database"
	"flexworker/internal/outbox/attempt"
	"flexworker/internal/outbox/request"
	"flexworker/internal/outbox/results"
)

// Added says what Add did with an event.
type Added int

// What becomes of an event. In each case the message may be acked.
const (
	Accepted    Added = iota // a new request
	Rejected                 // a new request, rejected for its faults
	Repeated                 // known, the same: it will be answered again
	Redelivered              // this very message was added before
	Conflicting              // known, but another request: kept as malformed

	// Inside this package only: Add turns these into errors.
	removed // ErrRemoved
	old     // ErrOld
	locked  // ErrLocked
	waiting // ErrTableLocked
)

// String is the word for logs and metrics.
func (a Added) String() string {
	return [...]string{"accepted", "rejected", "repeated", "redelivered", "conflict", "removed", "old", "locked", "waiting"}[a]
}

// ErrRemoved is returned by Add for an event whose request was known, until
// retention removed it while it was being answered. Nothing is kept of this event;
// added again, it is decided anew. It is no sign that Postgres is away.
var ErrRemoved = errors.New("outbox: the request is not known any more")

// ErrOld is returned by Add for an event whose request is not known and whose message
// is older than the retention: it may have been answered, and forgotten. Nothing is
// kept of this event.
var ErrOld = errors.New("outbox: the message is older than requests are remembered")

const (
	// oldMargin is how much sooner than the retention a message is too old to be a new
	// request: the clock of Postgres may have gone back since a row was removed by it.
	oldMargin = time.Minute
	// replayAge is how old a message is that is looked for among those that were
	// answered as malformed or conflict. A younger one is not spent an index probe on:
	// to be decided twice, its consumer would have to be made anew within this time.
	replayAge = time.Minute
)

// Add stores an event and returns once that is committed. After an error
// nothing is known; the same call may be made again, by redelivery.
func (s *Store) Add(ctx context.Context, e request.Event) (Added, error) {
	adds := s.adds
	if s.locked.has(e.RequestID) {
		adds = s.addsApart
	}
	added, err := adds.Do(ctx, e) // the Dispatcher takes it from here: insert, in dispatch.go
	switch {
	case err != nil:
		return 0, err
	case added == locked:
		s.locked.note(e.RequestID, time.Now())
		return 0, ErrLocked
	case added == waiting:
		return 0, ErrTableLocked
	}
	if adds == s.addsApart {
		s.locked.forget(e.RequestID)
	}
	switch added {
	case removed:
		return 0, ErrRemoved
	case old:
		return 0, ErrOld
	default:
		return added, nil
	}
}

// AddMalformed keeps a message that cannot become a request. It may be called
// again for the same message.
func (s *Store) AddMalformed(ctx context.Context, m request.Malformed) error {
	own, err := s.malformed.Do(ctx, m)
	return cmp.Or(err, own)
}

// addBatch is the write of Add while no Dispatcher runs: nothing is leased.
func (s *Store) addBatch(ctx context.Context, events []request.Event) ([]Added, error) {
	return s.addLeasing(ctx, events, 0, unleased)
}

// unleased is for adds that lease nothing.
func unleased([]attempt.Lease, bool) {}

// addLeasing stores events: it inserts all, then looks at those that were known. Up to so many as there are
// permits are leased by the insert. leased is told of these leases as soon as the insert is committed, and
// whether requests that are due were left without one. A crash between the insert and the rest is healed by
// redelivery: both can be done again. After an error nothing was leased that leased was not told of; a lease
// may be in doubt.
func (s *Store) addLeasing(ctx context.Context, events []request.Event, permits int, leased func(leases []attempt.Lease, dueLeft bool)) (answers []Added, err error) {
	began := time.Now()
	defer func() { err = s.storeStall.Tried(ctx, s.pool, began, err) }()
	ctx, cancel := database.Bounded(ctx)
	defer cancel()
	if s.waryAdds.Now() {
		return s.addApart(ctx, events, leased)
	}
	held := s.Messages.Held(ctx)
	fresh, leases, err := s.insertPast(ctx, database.Patience, events, permits, &held)
	if database.RowsLocked(ctx, s.pool, err, insertNeeds...) {
		s.waryAdds.Met()
		return s.addApart(ctx, events, leased)
	}
	if err != nil {
		return nil, err
	}
	if len(leases) > 0 {
		s.claimStall.GoesOn(time.Now())
	}
	return s.added(ctx, events, make([]Added, len(events)), fresh, leases, held, leased)
}

// addApart is addLeasing without the wait for a row that somebody holds: what can be seen to be
// known is not inserted, of what is inserted one waits for all others at most a moment, and
// nothing is leased.
func (s *Store) addApart(ctx context.Context, events []request.Event, leased func([]attempt.Lease, bool)) ([]Added, error) {
	ctx, cancel := database.Bounded(ctx)
	defer cancel()
	held := s.Messages.Held(ctx)
	ids := make([]string, len(events))
	for i, e := range events {
		ids[i] = e.RequestID
	}
	rows, err := s.pool.Query(ctx, `SELECT request_id FROM outbox WHERE request_id = ANY($1)`, ids)
	if err != nil {
		return nil, database.Wrap("add", err)
	}
	seen, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, database.Wrap("add", err)
	}
	answers := make([]Added, len(events))
	var unseen []int
	for _, i := range inOrder(events) {
		if !slices.Contains(seen, events[i].RequestID) {
			unseen = append(unseen, i)
		}
	}
	fresh := map[string]spot{}
	if err := s.insertApart(ctx, events, unseen, fresh, answers, &held); err != nil {
		return nil, err
	}
	return s.added(ctx, events, answers, fresh, nil, held, leased)
}

// insertApart inserts those of the events, halving them until the one stands alone whose row
// another transaction has written and not committed: its answer is locked. Where so many are that the time does not
// suffice, the answer of all that are left is locked: each is tried alone next.
func (s *Store) insertApart(ctx context.Context, events []request.Event, which []int, fresh map[string]spot, answers []Added, held *results.Tables) error {
	if len(which) == 0 {
		return nil
	}
	some := make([]request.Event, len(which))
	for n, i := range which {
		some[n] = events[i]
	}
	inserted, _, err := s.insertPast(ctx, database.NoPatience, some, 0, held)
	switch {
	case err == nil:
		maps.Copy(fresh, inserted)
		return nil
	case !database.RowsLocked(ctx, s.pool, err, insertNeeds...):
		return err
	case len(which) == 1 || database.LittleLeft(ctx):
		for _, i := range which {
			answers[i] = locked
		}
		return nil
	}
	half := len(which) / 2
	return cmp.Or(s.insertApart(ctx, events, which[:half], fresh, answers, held), s.insertApart(ctx, events, which[half:], fresh, answers, held))
}

// added answers the events after their insert: fresh are the ids that are new, and by which
// message.
func (s *Store) added(ctx context.Context, events []request.Event, answers []Added, fresh map[string]spot, leases []attempt.Lease, held results.Tables, leased func([]attempt.Lease, bool)) ([]Added, error) {
	var known []int
	var asked []request.Event // known
	var rejected []string
	accepted, due := 0, 0
	now := time.Now()
	for i := range events {
		e := &events[i]
		switch at, ok := fresh[e.RequestID]; {
		case answers[i] == locked:
		case !ok || at != place(e.Message):
			known, asked = append(known, i), append(asked, *e)
		case len(e.Faults) > 0:
			answers[i] = Rejected
			rejected = append(rejected, e.RequestID)
			delete(fresh, e.RequestID) // the same message once more is a redelivery
		default:
			answers[i] = Accepted
			delete(fresh, e.RequestID)
			accepted++
			if !e.NotBefore.After(now) {
				due++
			}
		}
	}
	leased(leases, due > len(leases)) // only what is due is leased
	if accepted > len(leases) {
		s.Due.Raise() // also for what is due later: the Dispatcher rests until the next that it knows of
	}
	s.Results.OfferRead(ctx, rejected)
	if len(known) == 0 {
		return answers, nil
	}
	became, err := s.Messages.AnswerKnown(ctx, asked, s.newest(), held)
	if err != nil {
		return nil, err
	}
	for n, i := range known {
		answers[i] = ofKnown[became[n]]
	}
	return answers, nil
}

var ofKnown = [...]Added{results.Repeated: Repeated, results.Redelivered: Redelivered, results.Conflicting: Conflicting,
	results.Removed: removed, results.TooOld: old, results.RowHeld: locked, results.TableHeld: waiting}

// spot is what names a message within a stream, as far as Postgres keeps it.
type spot struct {
	sequence int64
	micros   int64
}

func place(m request.Message) spot { return spot{int64(m.Sequence), m.Time.UnixMicro()} }
