package outbox

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"flexworker/internal/database"
	"flexworker/internal/outbox/attempt"
	"flexworker/internal/outbox/gate"
	"flexworker/internal/outbox/request"
	"flexworker/internal/outbox/results"
)

// insertPast is insert. Where another session holds outbox_malformed, insertPast inserts again without reading that table, and
// adds the table to held.
// After an error its leases are in doubt.
func (s *Store) insertPast(ctx context.Context, wait string, events []request.Event, permits int, held *results.Tables) (map[string]spot, []attempt.Lease, error) {
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
		               unnest($21::text[]) AS tracestate, unnest($22::text[]) AS warnings) AS e, -- as in recordSQL, package attempt
		       LATERAL (SELECT CASE WHEN faults IS NOT NULL THEN 'rejected' WHEN rank <= (SELECT n FROM granted) THEN 'sending' ELSE 'pending' END) AS s (state)
		 WHERE ($23::interval IS NULL OR stream_time >= now() - $23::interval)
		   AND ` + isNew + `
		ON CONFLICT (request_id) DO NOTHING
		RETURNING id, request_id, stream_sequence, stream_time, received_at, state),
	used AS (SELECT FROM added WHERE state = 'sending'),` + gate.SpendSQL + `
	SELECT id, request_id, stream_sequence, stream_time, received_at, state = 'sending' FROM added`
}

// errNotAsked: nobody knows the body of what was leased, so no call is made and the lease is reclaimed.
var errNotAsked = errors.New("a row was inserted for a message that is not in the batch")

// insertNeeds are the tables without which nothing is inserted.
var insertNeeds = []string{"outbox", "outbox_gate"}

// insert: the new requests become pending, or rejected when they have faults, or
// sending: up to so many as there are permits are leased at once, as many as the gate lets pass.
// An event is stored whoever has the gate: then none is leased, and the claim,
// which waits for the gate, has them all. It returns which ids are new and by
// which message, and the leases. past leaves outbox_malformed out, while somebody holds that.
func (s *Store) insert(ctx context.Context, wait, token string, events []request.Event, permits int, past bool) (map[string]spot, []attempt.Lease, error) {
	statement := addSQL
	if past {
		statement = addPastSQL
	}
	var c addColumns
	for _, i := range inOrder(events) {
		c.append(&events[i], i)
	}
	until := time.Now().Add(s.leaseFor)
	conn, err := database.Acquire(ctx, s.pool)
	if err != nil {
		return nil, nil, database.Wrap("add", err)
	}
	defer conn.Release()
	rows, err := conn.Query(ctx, statement,
		permits, gate.BurstTime.Seconds(),
		c.requestID, c.source, c.priority, c.request, c.raw, c.notBefore,
		c.expiresAt, c.lookupKey, c.errorMessage, c.faults, c.traceparent, c.sequence, c.time, ranks(events, c.from, permits),
		token, s.leaseFor, s.Lookups.Attribute, c.stream, c.tracestate, c.warnings, s.newest(), replayAge, wait)
	if err != nil {
		return nil, nil, database.Wrap("add", err)
	}
	fresh := make(map[string]spot, len(events))
	var leases []attempt.Lease
	var id, sequence int64
	var requestID string
	var at, receivedAt time.Time
	var leased bool
	_, err = pgx.ForEachRow(rows, []any{&id, &requestID, &sequence, &at, &receivedAt, &leased}, func() error {
		by := spot{sequence, at.UnixMicro()}
		fresh[requestID] = by
		if leased {
			i, asked := c.by[askedBy{requestID, by}] // of several that ask under one id the row is not always the first one's
			if !asked {
				return errNotAsked
			}
			e := &events[i]
			leases = append(leases, attempt.Lease{ID: id, RequestID: requestID, Source: request.Text(e.Source), Request: e.Request, LookupKey: e.LookupKey,
				Attempt: 1, ReceivedAt: receivedAt, Traceparent: request.Traceparent(e.Traceparent),
				Tracestate: e.KeptTracestate(), Stream: e.Stream, Sequence: sequence, Warnings: request.FaultsJSON(e.Warnings), Until: until})
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

// addColumns are the arrays that insert unnests: one element an event.
type addColumns struct {
	requestID, source       []string
	priority                []int16
	request                 []*string
	raw                     [][]byte
	notBefore, expiresAt    []*time.Time
	lookupKey, errorMessage []*string
	traceparent, tracestate []*string
	faults, warnings        []*string
	stream                  []string
	sequence                []int64
	time                    []time.Time
	from                    []int           // which event each element is
	by                      map[askedBy]int // the event by which each message asks
}

// askedBy is one message that asks for a request.
type askedBy struct {
	requestID string
	spot
}

func (c *addColumns) append(e *request.Event, i int) {
	if c.by == nil {
		c.by = map[askedBy]int{}
	}
	by := askedBy{e.RequestID, place(e.Message)}
	if _, twice := c.by[by]; !twice {
		c.by[by] = i
	}
	c.from = append(c.from, i)
	c.requestID = append(c.requestID, e.RequestID)
	c.source = append(c.source, request.Text(e.Source))
	c.priority = append(c.priority, int16(e.Priority))
	c.request = append(c.request, database.JSONOrNull(e.Request))
	c.notBefore = append(c.notBefore, database.TimeOrNull(e.NotBefore))
	c.expiresAt = append(c.expiresAt, database.TimeOrNull(e.ExpiresAt))
	c.lookupKey = append(c.lookupKey, database.OrNull(e.LookupKey))
	c.traceparent = append(c.traceparent, database.OrNull(request.Traceparent(e.Traceparent)))
	c.tracestate = append(c.tracestate, database.OrNull(e.KeptTracestate()))
	c.stream = append(c.stream, request.Text(e.Stream))
	c.warnings = append(c.warnings, database.JSONOrNull(request.FaultsJSON(e.Warnings)))
	c.sequence = append(c.sequence, int64(e.Sequence))
	c.time = append(c.time, e.Time)
	if len(e.Faults) == 0 {
		c.raw = append(c.raw, nil)
		c.errorMessage = append(c.errorMessage, nil)
		c.faults = append(c.faults, nil)
		return
	}
	raw := e.Raw
	if raw == nil {
		raw = []byte{}
	}
	c.raw = append(c.raw, raw)
	c.errorMessage = append(c.errorMessage, database.OrNull(request.Text(request.FaultText(e.Faults))))
	c.faults = append(c.faults, database.JSONOrNull(request.FaultsJSON(e.Faults)))
}
