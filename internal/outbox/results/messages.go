package results

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"flexworker/internal/database"
	"flexworker/internal/loop"
	"flexworker/internal/outbox/gate"
	"flexworker/internal/outbox/request"
)

// Messages keeps messages that make no new request, each until it is answered: a known request that is asked again in
// outbox_repeats, a conflict and a malformed message in outbox_malformed. Make one with NewMessages. It is safe for
// concurrent use.
//
// A row that somebody holds locked keeps only its own message waiting. A table that somebody holds as a whole keeps those
// waiting that need it, and no new request.
type Messages struct {
	pool       *pgxpool.Pool
	asked      loop.Signal
	wary       database.Wary // a locked row was met lately
	waryTables database.Wary // a locked table was

	// MalformedStall and RepeatsStall say for how long nothing could be kept in outbox_malformed and outbox_repeats, and why.
	MalformedStall, RepeatsStall gate.Stall
}

// NewMessages gives the messages in the tables that pool leads to. asked is raised when one waits for its answer.
func NewMessages(pool *pgxpool.Pool, asked loop.Signal) *Messages {
	return &Messages{pool: pool, asked: asked}
}

// ErrTableLocked is returned for a message that needs outbox_malformed or outbox_repeats, or for a mark that needs any table,
// while another transaction holds that table. Nothing of it was stored. Try it again later; the others go on.
var ErrTableLocked = errors.New("outbox: another transaction holds a table locked that is needed")

// kept says what became of one message. The zero value: it is in its table, from now on or since before.
type kept int

const (
	rowLocked kept = iota + 1 // another transaction holds the message's row, or that of its request: nothing was stored
	gone                      // the repeated request was removed meanwhile: nothing was stored
)

// A repeat is a known request that is asked again: id is outbox.id.
type repeat struct {
	id        int64
	requestID string
	request.Message
}

// keepRepeats keeps repeats, in this order, and says what became of each. It may be called again for the same.
func (m *Messages) keepRepeats(ctx context.Context, repeats []repeat) ([]kept, error) {
	if len(repeats) == 0 {
		return nil, nil
	}
	var b pgx.Batch
	for _, r := range repeats {
		queueRepeat(&b, r.id, r.Message)
	}
	if _, err := m.send(ctx, repeatsTable, &b); err != nil {
		return nil, err
	}
	return m.repeatsKept(ctx, repeats)
}

// KeepMalformed keeps malformed messages. Its first errors are those of single messages: ErrLocked. It may be called again for
// the same.
func (m *Messages) KeepMalformed(ctx context.Context, all []request.Malformed) ([]error, error) {
	ctx, cancel := database.Bounded(ctx)
	defer cancel()
	kept, err := m.keepMalformed(ctx, "malformed", all)
	own := make([]error, len(all))
	for i := range kept {
		if kept[i] == rowLocked {
			own[i] = database.ErrLocked
		}
	}
	return own, err
}

// keepMalformed keeps malformed messages and conflicts, as kind says, and says what became of each. It may be called again
// for the same.
func (m *Messages) keepMalformed(ctx context.Context, kind string, all []request.Malformed) ([]kept, error) {
	became := make([]kept, len(all))
	if len(all) == 0 {
		return became, nil
	}
	var b pgx.Batch
	queueMalformed(&b, kind, all)
	if stored, err := m.send(ctx, malformedTable, &b); err != nil || stored {
		return became, err
	}
	messages := make([]request.Message, len(all))
	for i := range all {
		messages[i] = all[i].Message
	}
	pasts, err := m.pasts(ctx, messages, nil)
	for i := range pasts {
		if pasts[i].kind == "" {
			became[i] = rowLocked
		}
	}
	return became, err
}

// A past is what is known of a message that made no request, whatever its id is.
type past struct {
	kind   string // under which it was kept in outbox_malformed; "": it was not
	tooOld bool   // to be a new request
}

// pasts reads them. A message that is older than newest is too old to be a new request; nil: none is.
func (m *Messages) pasts(ctx context.Context, messages []request.Message, newest *time.Duration) ([]past, error) {
	streams, sequences, times := make([]string, len(messages)), make([]int64, len(messages)), make([]time.Time, len(messages))
	for i, message := range messages {
		streams[i], sequences[i], times[i] = request.Text(message.Stream), int64(message.Sequence), message.Time
	}
	rows, err := m.pool.Query(ctx, `
		SELECT n, coalesce((SELECT kind FROM outbox_malformed m WHERE m.stream = e.stream AND m.stream_sequence = e.sequence AND m.stream_time = e.at), ''),
		       coalesce(at < now() - $4::interval, false)
		  FROM unnest($1::text[], $2::bigint[], $3::timestamptz[]) WITH ORDINALITY AS e (stream, sequence, at, n)`,
		streams, sequences, times, newest)
	if err != nil {
		return nil, database.Wrap("add: read malformed", err)
	}
	pasts := make([]past, len(messages))
	var n int
	var p past
	_, err = pgx.ForEachRow(rows, []any{&n, &p.kind, &p.tooOld}, func() error {
		pasts[n-1] = p
		return nil
	})
	return pasts, database.Wrap("add: read malformed", err)
}

// repeatsOfErased says which messages under the ids of erased requests are kept as repeats: as nothing can be compared with
// an erased request, what came before is known by its place alone. nil: that cannot be read, while a table is held.
func (m *Messages) repeatsOfErased(ctx context.Context, all []request.Malformed) ([]bool, error) {
	repeated, err := m.repeated(ctx, all)
	if len(m.HeldAfter(ctx, err)) > 0 {
		return nil, nil
	}
	return repeated, err
}

func (m *Messages) repeated(ctx context.Context, all []request.Malformed) ([]bool, error) {
	repeated := make([]bool, len(all))
	if len(all) == 0 {
		return repeated, nil
	}
	sequences, times := make([]int64, len(all)), make([]time.Time, len(all))
	for i, message := range all {
		sequences[i], times[i] = int64(message.Sequence), message.Time
	}
	rows, err := m.pool.Query(ctx, `
		SELECT n FROM unnest($1::bigint[], $2::timestamptz[]) WITH ORDINALITY AS e (sequence, at, n)
		 WHERE EXISTS (SELECT FROM outbox_repeats r WHERE r.stream_sequence = e.sequence AND r.stream_time = e.at)`, sequences, times)
	if err != nil {
		return nil, database.Wrap("add: read repeats", err)
	}
	var n int
	_, err = pgx.ForEachRow(rows, []any{&n}, func() error {
		repeated[n-1] = true
		return nil
	})
	return repeated, database.Wrap("add: read repeats", err)
}

// repeatsKept makes sure that every repeat is kept: none is when retention has
// removed its request meanwhile, or somebody holds that, or the repeat, locked.
func (m *Messages) repeatsKept(ctx context.Context, repeats []repeat) ([]kept, error) {
	sequences, times, ids := make([]int64, len(repeats)), make([]time.Time, len(repeats)), make([]string, len(repeats))
	for i, r := range repeats {
		sequences[i], times[i], ids[i] = int64(r.Sequence), r.Time, r.requestID
	}
	rows, err := m.pool.Query(ctx, `
		SELECT n, EXISTS (SELECT FROM outbox WHERE request_id = e.request_id)
		  FROM unnest($1::bigint[], $2::timestamptz[], $3::text[]) WITH ORDINALITY AS e (sequence, at, request_id, n)
		 WHERE NOT EXISTS (SELECT FROM outbox_repeats r WHERE r.stream_sequence = e.sequence AND r.stream_time = e.at)`,
		sequences, times, ids)
	if err != nil {
		return nil, database.Wrap("add: read repeats", err)
	}
	became := make([]kept, len(repeats))
	var n int
	var there bool
	_, err = pgx.ForEachRow(rows, []any{&n, &there}, func() error {
		if became[n-1] = gone; there {
			became[n-1] = rowLocked
		}
		return nil
	})
	return became, database.Wrap("add: read repeats", err)
}

// send stores in a table what waits for an answer of its own, and wakes the Publisher. Where somebody
// holds rows of it locked, as of a message that comes again, all but these are stored; all: there
// are none. Where somebody holds the table it is ErrTableLocked, and nothing is stored.
func (m *Messages) send(ctx context.Context, table string, b *pgx.Batch) (all bool, err error) {
	began := time.Now()
	if m.Held(ctx).has(table) {
		return false, m.waitsFor(ctx, table, began)
	}
	all, apart := true, m.wary.Now()
	if !apart {
		var together pgx.Batch
		together.Queue(`SELECT ` + database.Patiently)
		together.QueuedQueries = append(together.QueuedQueries, b.QueuedQueries...)
		if err = m.pool.SendBatch(ctx, &together).Close(); database.RowsLocked(ctx, m.pool, err, "outbox", table) {
			m.wary.Met()
			apart = true
		}
	}
	if apart {
		all, err = m.sendApart(ctx, table, b)
	}
	if m.HeldAfter(ctx, err).has(table) {
		return false, m.waitsFor(ctx, table, began)
	}
	if err != nil {
		return false, database.Wrap("add: keep", err)
	}
	m.stall(table).GoesOn(time.Now())
	m.asked.Raise()
	return all, nil
}

// sendApart carries out each statement of a batch by itself, and leaves out those that would
// have to wait for a row; all: there are none. Where so many have that the time does not suffice, it leaves out the rest.
func (m *Messages) sendApart(ctx context.Context, table string, b *pgx.Batch) (all bool, err error) {
	all = true
	for _, q := range b.QueuedQueries {
		var one pgx.Batch
		one.Queue(`SELECT set_config('lock_timeout', $1, true)`, database.NoPatience)
		one.Queue(q.SQL, q.Arguments...)
		if err := m.pool.SendBatch(ctx, &one).Close(); err != nil {
			if all = false; !database.RowsLocked(ctx, m.pool, err, "outbox", table) {
				return false, err
			}
			if database.LittleLeft(ctx) {
				break
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
		return cmp.Or(strings.Compare(x.Stream, y.Stream), x.Compare(y.Message))
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
