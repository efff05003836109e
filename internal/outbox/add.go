package outbox

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"flexworker/internal/rawjson"
)

// Message names one message of the request stream. Sequence and time together,
// because a stream that was made anew uses its sequences again.
type Message struct {
	Stream      string
	Subject     string
	Source      string // the sending service: the subject's tokens behind the prefix
	Sequence    uint64
	Time        time.Time // when the stream stored it
	Headers     map[string][]string
	Raw         []byte
	Traceparent string // "" when none came with it
}

// Event is a message that carries a usable request id.
type Event struct {
	Message
	RequestID string
	// Request is the request as it came; nil when no JSON reader could be
	// trusted with it, and then there are Faults.
	Request   json.RawMessage
	Priority  int       // 0 to 9
	NotBefore time.Time // zero: at once
	ExpiresAt time.Time // zero: never
	LookupKey string    // "" when the request has no task to look for
	// Faults are why it is rejected at once; none: it will be sent.
	Faults []rawjson.Fault
}

// Malformed is a message that cannot become a request. RequestID is set when
// it had a usable one and stands in conflict with a request that is known.
type Malformed struct {
	Message
	RequestID string
	Err       string
}

// Added says what Add did with an event.
type Added int

// What becomes of an event. In each case the message may be acked.
const (
	Accepted    Added = iota // a new request
	Refused                  // a new request, rejected for its faults
	Repeated                 // known, the same: it will be answered again
	Redelivered              // this very message was added before
	Conflicting              // known, but another request: kept as malformed
)

// String is the word for logs and metrics.
func (a Added) String() string {
	return [...]string{"accepted", "rejected", "repeated", "redelivered", "conflict"}[a]
}

// Add stores an event and returns once that is committed. After an error
// nothing is known; the same call may be made again, by redelivery.
func (s *Store) Add(ctx context.Context, e Event) (Added, error) {
	return s.adds.do(ctx, e)
}

// AddMalformed keeps a message that cannot become a request. It may be called
// again for the same message.
func (s *Store) AddMalformed(ctx context.Context, m Malformed) error {
	_, err := s.malformed.do(ctx, m)
	return err
}

// addBatch is the write of Add: insert all, then look at those that were known.
// A crash between the two is healed by redelivery: both can be done again.
func (s *Store) addBatch(ctx context.Context, events []Event) ([]Added, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	fresh, err := s.insert(ctx, events)
	if err != nil {
		return nil, err
	}
	answers := make([]Added, len(events))
	known := map[string][]int{}
	var refused []string
	for i, e := range events {
		switch at, ok := fresh[e.RequestID]; {
		case !ok || at != place(e.Message):
			known[e.RequestID] = append(known[e.RequestID], i)
		case len(e.Faults) > 0:
			answers[i] = Refused
			refused = append(refused, e.RequestID)
			delete(fresh, e.RequestID) // the same message once more is a redelivery
		default:
			answers[i] = Accepted
			delete(fresh, e.RequestID)
			s.due.raise()
		}
	}
	s.hint(ctx, refused)
	if len(known) == 0 {
		return answers, nil
	}
	return answers, s.repeat(ctx, events, known, answers)
}

// hint tells the Publisher of requests that were settled as they came in. An
// error is ignored: they are strays then.
func (s *Store) hint(ctx context.Context, requestIDs []string) {
	if len(requestIDs) == 0 {
		return
	}
	rows, err := s.pool.Query(ctx, `SELECT `+settlementColumns+` FROM outbox o WHERE request_id = ANY($1)`, requestIDs)
	if err != nil {
		return
	}
	settled, _ := pgx.CollectRows(rows, scanSettlement)
	for i := range settled {
		s.settled.offer(&settled[i])
	}
}

// spot is what names a message within a stream, as far as Postgres keeps it.
type spot struct {
	sequence int64
	micros   int64
}

func place(m Message) spot { return spot{int64(m.Sequence), m.Time.UnixMicro()} }

// insert: the new requests become pending, or rejected when they have faults.
// It returns which ids are new and by which message.
func (s *Store) insert(ctx context.Context, events []Event) (map[string]spot, error) {
	// In the order of ids: two batches that share some would otherwise wait
	// for each other. Of two that ask under one id, the first in the stream has it.
	sorted := slices.SortedFunc(slices.Values(events), func(a, b Event) int {
		return cmp.Or(strings.Compare(a.RequestID, b.RequestID), cmp.Compare(a.Sequence, b.Sequence))
	})
	var c addColumns
	for _, e := range sorted {
		c.append(e)
	}
	rows, err := s.pool.Query(ctx, `
		INSERT INTO outbox (request_id, source, state, priority, request, raw, due_at, expires_at, lookup_key,
		       error_kind, error_message, faults, traceparent, stream_sequence, stream_time, received_at, settled_at)
		SELECT request_id, source,
		       CASE WHEN faults IS NULL THEN 'pending' ELSE 'rejected' END,
		       priority, request::json, raw,
		       CASE WHEN faults IS NULL THEN coalesce(not_before, now()) END,
		       expires_at, lookup_key,
		       CASE WHEN faults IS NOT NULL THEN 'invalid' END, error_message, faults::json, traceparent,
		       stream_sequence, stream_time,
		       now(), CASE WHEN faults IS NOT NULL THEN now() END
		  FROM unnest($1::text[], $2::text[], $3::smallint[], $4::text[], $5::bytea[], $6::timestamptz[],
		       $7::timestamptz[], $8::text[], $9::text[], $10::text[], $11::text[], $12::bigint[], $13::timestamptz[])
		    AS e (request_id, source, priority, request, raw, not_before,
		       expires_at, lookup_key, error_message, faults, traceparent, stream_sequence, stream_time)
		ON CONFLICT (request_id) DO NOTHING
		RETURNING request_id, stream_sequence, stream_time`,
		c.requestID, c.source, c.priority, c.request, c.raw, c.notBefore,
		c.expiresAt, c.lookupKey, c.errorMessage, c.faults, c.traceparent, c.sequence, c.time)
	if err != nil {
		return nil, wrap("add", err)
	}
	fresh := make(map[string]spot, len(events))
	var id string
	var sequence int64
	var at time.Time
	_, err = pgx.ForEachRow(rows, []any{&id, &sequence, &at}, func() error {
		fresh[id] = spot{sequence, at.UnixMicro()}
		return nil
	})
	return fresh, wrap("add", err)
}

// repeat answers the events whose id was known: the same message again, the
// same question again, or another request under an id that is taken.
func (s *Store) repeat(ctx context.Context, events []Event, known map[string][]int, answers []Added) error {
	ids := make([]string, 0, len(known))
	for id := range known {
		ids = append(ids, id)
	}
	rows, err := s.pool.Query(ctx, `
		SELECT id, request_id, request, raw, stream_sequence, stream_time
		  FROM outbox WHERE request_id = ANY($1)`, ids)
	if err != nil {
		return wrap("add: read known", err)
	}
	var repeats, conflicts pgx.Batch
	var id, sequence int64
	var requestID string
	var request, raw []byte
	var at time.Time
	_, err = pgx.ForEachRow(rows, []any{&id, &requestID, &request, &raw, &sequence, &at}, func() error {
		for _, i := range known[requestID] {
			switch e := events[i]; {
			case place(e.Message) == spot{sequence, at.UnixMicro()}:
				answers[i] = Redelivered
			case sameRequest(e, request, raw):
				answers[i] = Repeated
				queueRepeat(&repeats, id, e.Message)
			default:
				answers[i] = Conflicting
				queueMalformed(&conflicts, "conflict", Malformed{Message: e.Message, RequestID: e.RequestID,
					Err: "request_id " + e.RequestID + " is taken by another request, received earlier; it goes on untouched. Ask again under a new request_id"})
			}
		}
		delete(known, requestID)
		return nil
	})
	if err != nil {
		return wrap("add: read known", err)
	}
	if len(known) > 0 {
		// Retention removed it between the two statements; redelivery adds it.
		return wrap("add", errRemoved)
	}
	if err := s.sendAsked(ctx, &repeats, &conflicts); err != nil {
		return err
	}
	return s.keptRepeats(ctx, events, answers)
}

// keptRepeats makes sure that every repeat is kept: none is when retention has
// removed its request meanwhile. Redelivery adds it anew then.
func (s *Store) keptRepeats(ctx context.Context, events []Event, answers []Added) error {
	var sequences []int64
	var times []time.Time
	for i, e := range events {
		if answers[i] == Repeated {
			sequences, times = append(sequences, int64(e.Sequence)), append(times, e.Time)
		}
	}
	if len(sequences) == 0 {
		return nil
	}
	var lost bool
	err := s.pool.QueryRow(ctx, `
		SELECT EXISTS (SELECT FROM unnest($1::bigint[], $2::timestamptz[]) AS e (sequence, at)
		 WHERE NOT EXISTS (SELECT FROM outbox_repeats r WHERE r.stream_sequence = e.sequence AND r.stream_time = e.at))`,
		sequences, times).Scan(&lost)
	if err == nil && lost {
		err = errRemoved
	}
	return wrap("add", err)
}

// sendAsked stores what waits for an answer of its own and wakes the Publisher.
func (s *Store) sendAsked(ctx context.Context, batches ...*pgx.Batch) error {
	for _, b := range batches {
		if b.Len() == 0 {
			continue
		}
		if err := s.pool.SendBatch(ctx, b).Close(); err != nil {
			return wrap("add: keep", err)
		}
		s.asked.raise()
	}
	return nil
}

func queueRepeat(b *pgx.Batch, id int64, m Message) {
	b.Queue(`INSERT INTO outbox_repeats (outbox_id, source, stream_sequence, stream_time, traceparent)
		SELECT id, $2::text, $3::bigint, $4::timestamptz, nullif($5::text, '') FROM outbox WHERE id = $1 FOR KEY SHARE
		ON CONFLICT ON CONSTRAINT repeat_is_kept_once DO NOTHING`,
		id, text(m.Source), int64(m.Sequence), m.Time, trace(m.Traceparent))
}

func queueMalformed(b *pgx.Batch, kind string, m Malformed) {
	raw := m.Raw
	if raw == nil {
		raw = []byte{}
	}
	b.Queue(`INSERT INTO outbox_malformed (kind, stream, stream_sequence, stream_time, subject, source, request_id, headers, raw, error)
		VALUES ($1, $2, $3, $4, $5, $6, nullif($7, ''), $8, $9, $10) ON CONFLICT ON CONSTRAINT message_is_kept_once DO NOTHING`,
		kind, m.Stream, int64(m.Sequence), m.Time, text(m.Subject), text(m.Source), m.RequestID, headersJSON(m.Headers), raw, text(m.Err))
}

// addMalformedBatch is the write of AddMalformed.
func (s *Store) addMalformedBatch(ctx context.Context, all []Malformed) ([]struct{}, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	var b pgx.Batch
	for _, m := range all {
		queueMalformed(&b, "malformed", m)
	}
	return make([]struct{}, len(all)), s.sendAsked(ctx, &b)
}

// sameRequest compares what is asked, not how it was wrapped: as JSON values,
// and without request_id, which may stand in a header in one of them.
func sameRequest(e Event, request, raw []byte) bool {
	if e.Request == nil || request == nil {
		return e.Request == nil && request == nil && bytes.Equal(e.Raw, raw)
	}
	return rawjson.Equal(withoutID(e.Request), withoutID(request))
}

// withoutID gives the request's members but request_id.
func withoutID(request []byte) []byte {
	var members map[string]json.RawMessage
	if json.Unmarshal(request, &members) != nil {
		return request
	}
	delete(members, "request_id")
	out, err := json.Marshal(members)
	if err != nil {
		return request
	}
	return out
}

// text makes s fit for a text column, which holds neither NUL nor bad UTF-8.
func text(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

// trace is a traceparent as it is kept: one that is longer than any version of
// the format could make the result's headers too large for the stream.
func trace(s string) string {
	if len(s) > 256 {
		return ""
	}
	return text(s)
}

// headersJSON is a message's headers as JSON that every json operator can read.
func headersJSON(h map[string][]string) []byte {
	clean := make(map[string][]string, len(h))
	for name, values := range h {
		for _, v := range values {
			clean[text(name)] = append(clean[text(name)], text(v))
		}
	}
	out, err := json.Marshal(clean)
	if err != nil { // cannot be: a map of strings
		return []byte("{}")
	}
	return out
}
