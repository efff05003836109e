package outbox

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"flexworker/internal/database"
	"flexworker/internal/outbox/gate"
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
	added, err := adds.Do(ctx, e)
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
func unleased([]Lease, bool) {}

// addLeasing stores events: it inserts all, then looks at those that were known. Up to so many as there are
// permits are leased by the insert. leased is told of these leases as soon as the insert is committed, and
// whether requests that are due were left without one. A crash between the insert and the rest is healed by
// redelivery: both can be done again. After an error nothing was leased that leased was not told of; a lease
// may be in doubt.
func (s *Store) addLeasing(ctx context.Context, events []request.Event, permits int, leased func(leases []Lease, dueLeft bool)) (answers []Added, err error) {
	began := time.Now()
	defer func() { err = s.stores.Tried(ctx, s.pool, began, err) }()
	ctx, cancel := database.Bounded(ctx)
	defer cancel()
	held := s.Messages.Held(ctx)
	if s.waryAdds.Now() {
		return s.addApart(ctx, events, held, leased)
	}
	fresh, leases, err := s.insertPast(ctx, database.Patience, events, permits, &held)
	if database.RowsLocked(ctx, s.pool, err, insertNeeds...) {
		s.waryAdds.Met()
		return s.addApart(ctx, events, held, leased)
	}
	if err != nil {
		return nil, err
	}
	if len(leases) > 0 {
		s.claims.GoesOn(time.Now())
	}
	return s.added(ctx, events, make([]Added, len(events)), fresh, leases, held, leased)
}

// addApart is addLeasing without the wait for a row that somebody holds: what can be seen to be
// known is not inserted, of what is inserted one waits for all others at most a moment, and
// nothing is leased.
func (s *Store) addApart(ctx context.Context, events []request.Event, held results.Tables, leased func([]Lease, bool)) ([]Added, error) {
	ctx, cancel := database.Bounded(ctx)
	defer cancel()
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
// another transaction has written and not committed: its answer is locked.
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
	case len(which) == 1:
		answers[which[0]] = locked
		return nil
	}
	half := len(which) / 2
	return cmp.Or(s.insertApart(ctx, events, which[:half], fresh, answers, held), s.insertApart(ctx, events, which[half:], fresh, answers, held))
}

// added answers the events after their insert: fresh are the ids that are new, and by which
// message.
func (s *Store) added(ctx context.Context, events []request.Event, answers []Added, fresh map[string]spot, leases []Lease, held results.Tables, leased func([]Lease, bool)) ([]Added, error) {
	known := map[string][]int{}
	var rejected []string
	accepted, due := 0, 0
	now := time.Now()
	for i := range events {
		e := &events[i]
		switch at, ok := fresh[e.RequestID]; {
		case answers[i] == locked:
		case !ok || at != place(e.Message):
			known[e.RequestID] = append(known[e.RequestID], i)
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
	return answers, s.repeat(ctx, events, known, answers, held)
}

// spot is what names a message within a stream, as far as Postgres keeps it.
type spot struct {
	sequence int64
	micros   int64
}

func place(m request.Message) spot { return spot{int64(m.Sequence), m.Time.UnixMicro()} }

// insertPast is insert past what is held. Where outbox_malformed turns out to be, held has it afterwards.
// After an error its leases are in doubt.
func (s *Store) insertPast(ctx context.Context, wait string, events []request.Event, permits int, held *results.Tables) (map[string]spot, []Lease, error) {
	token, past := s.leaseToken(), held.Malformed()
	fresh, leases, err := s.insert(ctx, wait, token, events, permits, past)
	if now := s.Messages.HeldAfter(ctx, err); now.Malformed() && !past { // nothing was committed: once more
		token, *held = s.leaseToken(), now
		fresh, leases, err = s.insert(ctx, wait, token, events, permits, true)
	}
	if err != nil && permits > 0 {
		s.markInDoubt(token, err)
	}
	return fresh, leases, err
}

// addSQL is the statement of insert, and addPastSQL the same without outbox_malformed, while somebody holds that:
// it inserts nothing that would have to be looked for there.
var (
	addSQL = addStatement(`(stream_time >= now() - $24::interval OR (SELECT m.id FROM outbox_malformed m -- EXISTS might read the whole table, to hash it
		        WHERE m.stream = e.stream AND m.stream_sequence = e.stream_sequence AND m.stream_time = e.stream_time) IS NULL)`)
	addPastSQL = addStatement(`stream_time >= now() - $24::interval`)
)

// addStatement inserts what is not known and leases what has a rank, as far as the gate has tokens. For another transaction's row of the
// same id it waits for $25.
//
// A replay of the stream makes no request: what may have been removed by its age, and
// what was once answered as malformed or conflict, is not new. Both are judged by the
// clock of Postgres and the time that the stream gave the message, as retention is: so
// it does not matter how far the clocks of NATS, Postgres and the worker are apart.
func addStatement(isNew string) string {
	return `/* add */
	WITH` + gate.TryLockSQL + `,
	added AS (
		INSERT INTO outbox (request_id, source, state, priority, request, raw, due_at, expires_at, lookup_key,
		       error_kind, error_message, faults, traceparent, stream_sequence, stream_time, received_at, settled_at,
		       attempt, leased_by, leased_until, attempt_began_at, lookup_attribute, stream, tracestate, warnings)
		SELECT request_id, source, state, priority, request::json, raw,
		       CASE WHEN state = 'pending' THEN coalesce(not_before, now()) END,
		       expires_at, lookup_key,
		       CASE WHEN state = 'rejected' THEN 'invalid' END, error_message, faults::json, traceparent,
		       stream_sequence, stream_time,
		       now(), CASE WHEN state = 'rejected' THEN now() END,
		       (state = 'sending')::integer, CASE WHEN state = 'sending' THEN $17 END, CASE WHEN state = 'sending' THEN clock_timestamp() + $18::interval END,
		       CASE WHEN state = 'sending' THEN clock_timestamp() END,
		       CASE WHEN state = 'sending' AND lookup_key IS NOT NULL THEN nullif($19, '') END,
		       stream, tracestate, warnings::json
		  FROM (SELECT set_config('lock_timeout', $25, true)) AS wait,
		       (SELECT unnest($3::text[]) AS request_id, unnest($4::text[]) AS source, unnest($5::smallint[]) AS priority,
		               unnest($6::text[]) AS request, unnest($7::bytea[]) AS raw, unnest($8::timestamptz[]) AS not_before,
		               unnest($9::timestamptz[]) AS expires_at, unnest($10::text[]) AS lookup_key, unnest($11::text[]) AS error_message,
		               unnest($12::text[]) AS faults, unnest($13::text[]) AS traceparent, unnest($14::bigint[]) AS stream_sequence,
		               unnest($15::timestamptz[]) AS stream_time, unnest($16::integer[]) AS rank, unnest($20::text[]) AS stream,
		               unnest($21::text[]) AS tracestate, unnest($22::text[]) AS warnings) AS e, -- as in recordSQL
		       LATERAL (SELECT CASE WHEN faults IS NOT NULL THEN 'rejected' WHEN rank <= (SELECT n FROM granted) THEN 'sending' ELSE 'pending' END) AS s (state)
		 WHERE ($23::interval IS NULL OR stream_time >= now() - $23::interval)
		   AND ` + isNew + `
		ON CONFLICT (request_id) DO NOTHING
		RETURNING id, request_id, stream_sequence, stream_time, received_at, state),
	used AS (SELECT FROM added WHERE state = 'sending'),` + gate.SpendSQL + `
	SELECT id, request_id, stream_sequence, stream_time, received_at, state = 'sending' FROM added`
}

// insertNeeds are the tables without which nothing is inserted.
var insertNeeds = []string{"outbox", "outbox_gate"}

// insert: the new requests become pending, or rejected when they have faults, or
// sending: up to so many as there are permits are leased at once, as many as the gate lets pass.
// An event is stored whoever has the gate: then none is leased, and the claim,
// which waits for the gate, has them all. It returns which ids are new and by
// which message, and the leases. past leaves outbox_malformed out, while somebody holds that.
func (s *Store) insert(ctx context.Context, wait, token string, events []request.Event, permits int, past bool) (map[string]spot, []Lease, error) {
	statement := addSQL
	if past {
		statement = addPastSQL
	}
	var c addColumns
	for _, i := range inOrder(events) {
		c.append(&events[i], i)
	}
	until := time.Now().Add(s.leaseFor)
	rows, err := s.pool.Query(ctx, statement,
		permits, gate.BurstTime.Seconds(),
		c.requestID, c.source, c.priority, c.request, c.raw, c.notBefore,
		c.expiresAt, c.lookupKey, c.errorMessage, c.faults, c.traceparent, c.sequence, c.time, ranks(events, c.from, permits),
		token, s.leaseFor, s.Lookups.Attribute, c.stream, c.tracestate, c.warnings, s.newest(), replayAge, wait)
	if err != nil {
		return nil, nil, database.Wrap("add", err)
	}
	fresh := make(map[string]spot, len(events))
	var leases []Lease
	var id, sequence int64
	var requestID string
	var at, receivedAt time.Time
	var leased bool
	_, err = pgx.ForEachRow(rows, []any{&id, &requestID, &sequence, &at, &receivedAt, &leased}, func() error {
		fresh[requestID] = spot{sequence, at.UnixMicro()}
		if leased {
			e := &events[c.byID[requestID]]
			leases = append(leases, Lease{ID: id, RequestID: requestID, Source: request.Text(e.Source), Request: e.Request, LookupKey: e.LookupKey,
				Attempt: 1, ReceivedAt: receivedAt, Traceparent: request.Traceparent(e.Traceparent),
				Tracestate: e.KeptTracestate(), Stream: e.Stream, Sequence: sequence, Warnings: request.FaultsJSON(e.Warnings), until: until})
		}
		return nil
	})
	return fresh, leases, database.Wrap("add", err)
}

// newest is the age at which a message is too old to be a new request; nil: none is.
func (s *Store) newest() *time.Duration {
	if s.Retention == 0 {
		return nil
	}
	age := s.Retention - oldMargin
	return &age
}

// inOrder are the events' indices in the order of their ids: two batches that
// share some would otherwise wait for each other. Of two that ask under one id,
// the first in the stream has it.
func inOrder(events []request.Event) []int {
	order := make([]int, len(events))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int {
		return cmp.Or(strings.Compare(events[a].RequestID, events[b].RequestID), cmp.Compare(events[a].Sequence, events[b].Sequence))
	})
	return order
}

// ranks numbers, from 1, the events that may be leased by their insert, the
// higher priority first, for each of order; null: it may not. Those with times of
// their own are for the claim to judge.
func ranks(events []request.Event, order []int, permits int) []*int32 {
	ranks := make([]*int32, len(order))
	if permits == 0 {
		return ranks
	}
	may := make([]int, 0, len(order))
	for at, i := range order {
		if e := &events[i]; len(e.Faults) == 0 && e.NotBefore.IsZero() && e.ExpiresAt.IsZero() {
			may = append(may, at)
		}
	}
	slices.SortFunc(may, func(a, b int) int {
		x, y := &events[order[a]], &events[order[b]]
		return cmp.Or(cmp.Compare(y.Priority, x.Priority), cmp.Compare(x.Sequence, y.Sequence))
	})
	for n, at := range may[:min(len(may), permits)] {
		rank := int32(n + 1)
		ranks[at] = &rank
	}
	return ranks
}
