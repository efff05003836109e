package outbox

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"flexworker/internal/database"
	"flexworker/internal/outbox/request"
	"flexworker/internal/outbox/results"
	"flexworker/internal/rawjson"
)

// repeat answers the events whose id was known: the same message again, the
// same question again, or another request under an id that is taken. What it stores
// it stores in one order, whoever else has the same messages: known's lists are in
// the order of the stream, the rows come in that of their ids.
//
// What needs a table that is held waits. Without outbox_malformed it is not known what a message was answered
// before; that it is the very one that made the request is.
func (s *Store) repeat(ctx context.Context, events []request.Event, known map[string][]int, answers []Added, held tables) error {
	began := time.Now()
	ids := make([]string, 0, len(known))
	for id, asking := range known {
		ids = append(ids, id)
		slices.SortFunc(asking, func(i, j int) int { return inStream(events[i].Message, events[j].Message) })
	}
	var pasts map[int]past
	unknown := held.has(malformedTable)
	if !unknown {
		var err error
		pasts, err = s.pasts(ctx, events, slices.Concat(slices.Collect(maps.Values(known))...))
		if unknown = s.tablesBehind(ctx, err).has(malformedTable); err != nil && !unknown {
			return err
		}
	}
	rows, err := s.pool.Query(ctx, `
		SELECT id, request_id, request, raw, stream_sequence, stream_time, source, state, for_person_since IS NOT NULL, received_at, settled_at
		  FROM outbox WHERE request_id = ANY($1) ORDER BY id`, ids)
	if err != nil {
		return database.Wrap("add: read known", err)
	}
	var repeats, conflicts pgx.Batch
	var conflicting []request.Malformed
	var id int64
	var requestID string
	var stored, raw []byte
	var at time.Time
	var f first
	_, err = pgx.ForEachRow(rows, []any{&id, &requestID, &stored, &raw, &f.sequence, &at, &f.source, &f.state, &f.waits, &f.receivedAt, &f.settledAt}, func() error {
		for _, i := range known[requestID] {
			switch e := events[i]; {
			case pasts[i].kind == "malformed": // it was answered so, whatever it is understood as by now
				answers[i] = Redelivered
			case place(e.Message) == spot{f.sequence, at.UnixMicro()}:
				answers[i] = Redelivered
			case unknown:
				answers[i] = waiting
			default:
				differs := differsIn(e, stored, raw)
				if differs == nil {
					answers[i] = Repeated
					queueRepeat(&repeats, id, e.Message)
					break
				}
				answers[i] = Conflicting
				conflicting = append(conflicting, request.Malformed{Message: e.Message, RequestID: e.RequestID, Err: f.conflict(requestID, differs)})
			}
		}
		delete(known, requestID)
		return nil
	})
	if err != nil {
		return database.Wrap("add: read known", err)
	}
	for _, gone := range known {
		for _, i := range gone {
			switch p := pasts[i]; {
			case unknown:
				answers[i] = waiting
			case p.kind != "": // a conflict with it, while there was one
				answers[i] = Redelivered
			case p.tooOld:
				answers[i] = old
			default: // removed between the two statements
				answers[i] = removed
			}
		}
	}
	if unknown && slices.Contains(answers, waiting) {
		_ = s.waitsFor(ctx, malformedTable, began) // Add says it to each
	}
	queueMalformed(&conflicts, "conflict", conflicting)
	return cmp.Or(s.sendAnswered(ctx, repeatsTable, &repeats, Repeated, answers, func(bool) error { return s.keptRepeats(ctx, events, answers) }),
		s.sendAnswered(ctx, malformedTable, &conflicts, Conflicting, answers, func(all bool) error {
			if all {
				return nil
			}
			return s.keptConflicts(ctx, events, answers)
		}))
}

// sendAnswered stores what events are answered with, and has kept look whether each is. Where the table is held, all
// these events wait.
func (s *Store) sendAnswered(ctx context.Context, table string, b *pgx.Batch, answer Added, answers []Added, kept func(all bool) error) error {
	if b.Len() == 0 {
		return nil
	}
	all, err := s.sendAsked(ctx, table, b)
	switch {
	case errors.Is(err, ErrTableLocked):
		for i := range answers {
			if answers[i] == answer {
				answers[i] = waiting
			}
		}
		return nil
	case err != nil:
		return err
	default:
		return kept(all)
	}
}

// past is what is known of a message that made no request, whatever its id is.
type past struct {
	kind   string // under which it was kept in outbox_malformed; "": it was not
	tooOld bool   // to be a new request
}

// pasts reads them for the events at these indices.
func (s *Store) pasts(ctx context.Context, events []request.Event, at []int) (map[int]past, error) {
	streams, sequences, times := make([]string, len(at)), make([]int64, len(at)), make([]time.Time, len(at))
	for n, i := range at {
		streams[n], sequences[n], times[n] = request.Text(events[i].Stream), int64(events[i].Sequence), events[i].Time
	}
	rows, err := s.pool.Query(ctx, `
		SELECT n, coalesce((SELECT kind FROM outbox_malformed m WHERE m.stream = e.stream AND m.stream_sequence = e.sequence AND m.stream_time = e.at), ''),
		       coalesce(at < now() - $4::interval, false)
		  FROM unnest($1::text[], $2::bigint[], $3::timestamptz[]) WITH ORDINALITY AS e (stream, sequence, at, n)`,
		streams, sequences, times, s.newest())
	if err != nil {
		return nil, database.Wrap("add: read malformed", err)
	}
	pasts := make(map[int]past, len(at))
	var n int
	var p past
	_, err = pgx.ForEachRow(rows, []any{&n, &p.kind, &p.tooOld}, func() error {
		pasts[at[n-1]] = p
		return nil
	})
	return pasts, database.Wrap("add: read malformed", err)
}

// keptRepeats makes sure that every repeat is kept: none is when retention has
// removed its request meanwhile, or somebody holds that, or the repeat, locked.
func (s *Store) keptRepeats(ctx context.Context, events []request.Event, answers []Added) error {
	var repeats []int
	var sequences []int64
	var times []time.Time
	var ids []string
	for i, e := range events {
		if answers[i] == Repeated {
			repeats, sequences, times, ids = append(repeats, i), append(sequences, int64(e.Sequence)), append(times, e.Time), append(ids, e.RequestID)
		}
	}
	if len(repeats) == 0 {
		return nil
	}
	rows, err := s.pool.Query(ctx, `
		SELECT n, EXISTS (SELECT FROM outbox WHERE request_id = e.request_id)
		  FROM unnest($1::bigint[], $2::timestamptz[], $3::text[]) WITH ORDINALITY AS e (sequence, at, request_id, n)
		 WHERE NOT EXISTS (SELECT FROM outbox_repeats r WHERE r.stream_sequence = e.sequence AND r.stream_time = e.at)`,
		sequences, times, ids)
	if err != nil {
		return database.Wrap("add: read repeats", err)
	}
	var n int
	var there bool
	_, err = pgx.ForEachRow(rows, []any{&n, &there}, func() error {
		if answers[repeats[n-1]] = removed; there {
			answers[repeats[n-1]] = locked
		}
		return nil
	})
	return database.Wrap("add: read repeats", err)
}

// keptConflicts makes sure that every conflict is kept: none is while somebody holds
// its row locked.
func (s *Store) keptConflicts(ctx context.Context, events []request.Event, answers []Added) error {
	var conflicts []int
	for i := range events {
		if answers[i] == Conflicting {
			conflicts = append(conflicts, i)
		}
	}
	pasts, err := s.pasts(ctx, events, conflicts)
	for _, i := range conflicts {
		if pasts[i].kind == "" {
			answers[i] = locked
		}
	}
	return err
}

// sendAsked stores in a table what waits for an answer of its own, and wakes the Publisher. Where somebody
// holds rows of it locked, as of a message that comes again, all but these are stored; all: there
// are none. Where somebody holds the table it is ErrTableLocked, and nothing is stored.
func (s *Store) sendAsked(ctx context.Context, table string, b *pgx.Batch) (all bool, err error) {
	began := time.Now()
	if s.heldTables(ctx).has(table) {
		return false, s.waitsFor(ctx, table, began)
	}
	all, apart := true, s.waryAsked.Now()
	if !apart {
		var together pgx.Batch
		together.Queue(`SELECT ` + database.Patiently)
		together.QueuedQueries = append(together.QueuedQueries, b.QueuedQueries...)
		if err = s.pool.SendBatch(ctx, &together).Close(); database.RowsLocked(ctx, s.pool, err, "outbox", table) {
			s.waryAsked.Met()
			apart = true
		}
	}
	if apart {
		all, err = s.sendApart(ctx, table, b)
	}
	if s.tablesBehind(ctx, err).has(table) {
		return false, s.waitsFor(ctx, table, began)
	}
	if err != nil {
		return false, database.Wrap("add: keep", err)
	}
	s.kept[table].GoesOn(time.Now())
	s.Results.Asked.Raise()
	return all, nil
}

// sendApart carries out each statement of a batch by itself, and leaves out those that would
// have to wait for a row; all: there are none.
func (s *Store) sendApart(ctx context.Context, table string, b *pgx.Batch) (all bool, err error) {
	all = true
	for _, q := range b.QueuedQueries {
		var one pgx.Batch
		one.Queue(`SELECT set_config('lock_timeout', $1, true)`, database.NoPatience)
		one.Queue(q.SQL, q.Arguments...)
		if err := s.pool.SendBatch(ctx, &one).Close(); err != nil {
			if all = false; !database.RowsLocked(ctx, s.pool, err, "outbox", table) {
				return false, err
			}
		}
	}
	return all, nil
}

func queueRepeat(b *pgx.Batch, id int64, m request.Message) {
	b.Queue(`INSERT INTO outbox_repeats (outbox_id, source, stream_sequence, stream_time, traceparent, stream, tracestate)
		SELECT id, $2::text, $3::bigint, $4::timestamptz, nullif($5::text, ''), $6::text, nullif($7::text, '') FROM outbox WHERE id = $1 FOR KEY SHARE SKIP LOCKED
		ON CONFLICT ON CONSTRAINT repeat_is_kept_once DO NOTHING`,
		id, request.Text(m.Source), int64(m.Sequence), m.Time, request.Traceparent(m.Traceparent), m.Stream, m.KeptTracestate())
}

// queueMalformed queues them in the order of the stream.
func queueMalformed(b *pgx.Batch, kind string, all []request.Malformed) {
	all = slices.Clone(all)
	slices.SortFunc(all, func(x, y request.Malformed) int {
		return cmp.Or(strings.Compare(x.Stream, y.Stream), inStream(x.Message, y.Message))
	})
	for _, m := range all {
		raw := m.Raw
		if raw == nil {
			raw = []byte{}
		}
		b.Queue(`INSERT INTO outbox_malformed (kind, stream, stream_sequence, stream_time, subject, source, request_id, headers, raw, error, traceparent, tracestate)
			VALUES ($1, $2, $3, $4, $5, $6, nullif($7, ''), $8, $9, $10, nullif($11, ''), nullif($12, '')) ON CONFLICT ON CONSTRAINT message_is_kept_once DO NOTHING`,
			kind, m.Stream, int64(m.Sequence), m.Time, request.Text(m.Subject), request.Text(m.Source), m.RequestID, headersJSON(m.Headers), raw, request.Text(m.Err),
			request.Traceparent(m.Traceparent), m.KeptTracestate())
	}
}

// inStream compares the places of two messages.
func inStream(x, y request.Message) int {
	return cmp.Or(cmp.Compare(x.Sequence, y.Sequence), x.Time.Compare(y.Time))
}

// addMalformedBatch is the write of AddMalformed.
func (s *Store) addMalformedBatch(ctx context.Context, all []request.Malformed) ([]error, error) {
	ctx, cancel := database.Bounded(ctx)
	defer cancel()
	var b pgx.Batch
	queueMalformed(&b, "malformed", all)
	own := make([]error, len(all))
	if sent, err := s.sendAsked(ctx, malformedTable, &b); err != nil || sent {
		return own, err
	}
	events, at := make([]request.Event, len(all)), make([]int, len(all))
	for i := range all {
		events[i].Message, at[i] = all[i].Message, i
	}
	pasts, err := s.pasts(ctx, events, at)
	for i := range own {
		if pasts[i].kind == "" {
			own[i] = ErrLocked
		}
	}
	return own, err
}

// whatIsAsked are the members that make a request what it is: what Flex gets.
var whatIsAsked = [...]string{"channel", "routing", "interaction_context_sid", "webhook_ttid"}

// differsIn names what a request asks otherwise than the first under its id, as JSON
// values; nil: it is the same. A member that is absent is null. All else may differ,
// times, priority and metadata too: a service that asks again computes them anew, and
// the first's stand. What is no object, or could not be read, has no members: it is
// compared whole.
func differsIn(e request.Event, request, raw []byte) (names []string) {
	if e.Request == nil || request == nil {
		if e.Request == nil && request == nil && bytes.Equal(e.Raw, raw) {
			return nil
		}
		return []string{"its text"}
	}
	if !isObject(e.Request) || !isObject(request) {
		if rawjson.Equal(e.Request, request) {
			return nil
		}
		return []string{"its text"}
	}
	var rooms [2][16]rawjson.Pair
	asked, first := rawjson.AppendMembers(rooms[0][:0], e.Request), rawjson.AppendMembers(rooms[1][:0], request)
	for _, name := range whatIsAsked {
		if !rawjson.Equal(orJSONNull(asked.Get(name)), orJSONNull(first.Get(name))) {
			names = append(names, name)
		}
	}
	return names
}

// first is the request that has an id, as who met a conflict with it is told.
type first struct {
	sequence   int64
	source     string
	state      request.State
	waits      bool // uncertain: for a person
	receivedAt time.Time
	settledAt  *time.Time
}

// conflict says whose the id is and where that request stands. It goes on untouched
// only where it goes on.
func (f *first) conflict(requestID string, differs []string) string {
	stands := map[request.State]string{
		request.Pending: "waits to be sent", request.Sending: "is being sent", request.Uncertain: "may exist already, which is being looked up",
		request.Created: "was created", request.Rejected: "was rejected", request.Abandoned: "was abandoned", request.Expired: "expired", request.Cancelled: "was cancelled",
	}[f.state]
	switch {
	case f.settledAt != nil:
		stands += " at " + f.settledAt.UTC().Format(time.RFC3339)
	case f.state == request.Uncertain && f.waits:
		stands = "may exist already, and waits for a person to decide"
	default:
		stands += ", and goes on untouched"
	}
	return fmt.Sprintf("request_id %s is taken by another request, which differs in %s: message %d, received from %s at %s; it %s. "+
		"This message was not carried out: ask again under a new request_id",
		requestID, strings.Join(differs, ", "), f.sequence, results.Shorten(results.ShortName, f.source), f.receivedAt.UTC().Format(time.RFC3339), stands)
}

func orJSONNull(value []byte) []byte {
	if value == nil {
		return results.JSONNull
	}
	return value
}

func isObject(text []byte) bool {
	text = bytes.TrimSpace(text)
	return len(text) > 0 && text[0] == '{'
}

// headersJSON is a message's headers as JSON that every json operator can read.
func headersJSON(h map[string][]string) []byte {
	clean := make(map[string][]string, len(h))
	for name, values := range h {
		for _, v := range values {
			clean[request.Text(name)] = append(clean[request.Text(name)], request.Text(v))
		}
	}
	out, err := json.Marshal(clean)
	if err != nil { // cannot be: a map of strings
		return []byte("{}")
	}
	return out
}
