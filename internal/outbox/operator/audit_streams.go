package operator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go/jetstream"

	"flexworker/internal/database"
	"flexworker/internal/flex"
	"flexworker/internal/outbox/request"
	"flexworker/internal/outbox/results"
)

// auditRequests holds the request stream against the tables: every message up to the ack floor is a row, a repeat
// or malformed.
func (desk *Desk) auditRequests(ctx context.Context, r *Report, stream jetstream.Stream, consumer string, retention time.Duration) error {
	info, err := stream.Info(ctx)
	if err != nil {
		return fmt.Errorf("outbox: audit: request stream: %w", err)
	}
	acked, err := ackFloor(ctx, stream, consumer, info.State)
	if err != nil {
		return err
	}
	// FirstSeq is 0 while the stream has never had a message, and one past LastSeq when it
	// was purged; the first message has the sequence 1.
	rows, err := desk.pool.Query(ctx, `
		SELECT n FROM generate_series($1::bigint, $2::bigint) AS n
		 WHERE NOT EXISTS (SELECT FROM outbox o WHERE o.stream_sequence = n AND o.stream_time >= $3)
		   AND NOT EXISTS (SELECT FROM outbox_repeats p WHERE p.stream_sequence = n AND p.stream_time >= $3)
		   AND NOT EXISTS (SELECT FROM outbox_malformed m WHERE m.stream_sequence = n AND m.stream_time >= $3)`,
		int64(max(info.State.FirstSeq, 1)), int64(acked), info.State.FirstTime.Truncate(time.Microsecond))
	if err != nil {
		return database.Wrap("audit: sequences", err)
	}
	missing, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return database.Wrap("audit: sequences", err)
	}
	for _, n := range missing {
		switch m, err := stream.GetMsg(ctx, uint64(n)); {
		case errors.Is(err, jetstream.ErrMsgNotFound): // deleted from the stream: no longer a question
		case err != nil:
			return fmt.Errorf("outbox: audit: message %d: %w", n, err)
		case len(m.Data) == 0 && m.Header.Get(jetstream.MarkerReasonHeader) != "": // the server's own note of a deletion
		case retention > 0 && time.Since(m.Time) > retention: // its row was removed when its time came
		default:
			r.offend("every message is a row, a repeat or malformed", fmt.Sprintf("message %d", n), "acked, and in none of the tables")
		}
	}
	r.count("messages in the request stream", int64(info.State.Msgs))
	r.count("messages not acked yet", int64(info.State.LastSeq)-int64(acked))
	return nil
}

// ackFloor is the sequence up to which all messages are acked. A stream that never had a
// message needs no consumer: nothing can be missing.
func ackFloor(ctx context.Context, stream jetstream.Stream, consumer string, state jetstream.StreamState) (uint64, error) {
	c, err := stream.Consumer(ctx, consumer)
	switch {
	case errors.Is(err, jetstream.ErrConsumerNotFound) && state.LastSeq == 0:
		return 0, nil
	case errors.Is(err, jetstream.ErrConsumerNotFound):
		return 0, fmt.Errorf("outbox: audit: stream %s has no consumer %s, by which the worker reads it: is REQUESTS_CONSUMER right? A worker that starts makes it",
			stream.CachedInfo().Config.Name, consumer)
	case err != nil:
		return 0, fmt.Errorf("outbox: audit: consumer %s: %w", consumer, err)
	}
	return c.CachedInfo().AckFloor.Stream, nil
}

// A published result is a final one, or a word about a set-up, as the result stream has it.
type published struct {
	requestID, outcome, sid string
	settled                 time.Time
	different               bool // the same message id with another body
}

// ledger is what the result stream has: one result for each message id. odd are results without a message id, or
// under the id of another result.
type ledger struct {
	byID  map[string]published
	odd   []published
	begun time.Time // what was marked before may have been removed from the stream
	next  uint64    // the sequence from which on the stream was not read yet
}

// marked is a row that is marked as published: a settled request or a set-up.
type marked struct {
	rule, requestID, outcome, sid, messageID string
	at                                       time.Time
}

// publishedRows are the rows that are marked as published, by the rule that they must keep. Each statement gives request_id, outcome, sid, revision and published_at.
var publishedRows = []struct{ rule, suffix, sql string }{
	{"every settled request has exactly one final result on the stream, with its sid", "", `
		SELECT request_id, state, coalesce(interaction_sid, ''), revision, published_at
		  FROM outbox WHERE settled_at IS NOT NULL AND published_at IS NOT NULL`},
	{"every published word about a set-up is on the stream, and no other", "-setup", `
		SELECT o.request_id, s.word, coalesce(o.interaction_sid, ''), o.revision, s.published_at
		  FROM outbox_setups s JOIN outbox o USING (id) WHERE s.published_at IS NOT NULL`},
}

// auditResults holds what is marked as published against the result stream.
func (desk *Desk) auditResults(ctx context.Context, r *Report, stream jetstream.Stream, retention time.Duration) error {
	seen := ledger{byID: map[string]published{}}
	messages, err := seen.read(ctx, stream)
	if err != nil {
		return err
	}
	r.count("messages on the result stream", int64(messages))
	var missing []marked
	for _, rows := range publishedRows {
		some, err := desk.auditMarked(ctx, r, &seen, rows.rule, rows.suffix, rows.sql)
		if err != nil {
			return err
		}
		missing = append(missing, some...)
	}
	if len(missing) > 0 { // published after the stream was read, unless it is an offence: a mark is later than its message
		if _, err := seen.read(ctx, stream); err != nil {
			return err
		}
	}
	for _, m := range missing {
		switch {
		case seen.judge(r, m):
		case m.at.Before(seen.begun):
			r.Forgotten++ // the stream no longer goes back so far
		default:
			r.offend(m.rule, m.requestID, "marked as published, and not on the stream")
		}
	}
	r.count("published results that the stream no longer has", r.Forgotten)
	return desk.auditStrangers(ctx, r, seen, retention)
}

// auditMarked holds the rows of one statement against what was read of the stream, and gives those that are not there.
func (desk *Desk) auditMarked(ctx context.Context, r *Report, seen *ledger, rule, suffix, sql string) (missing []marked, err error) {
	rows, err := desk.pool.Query(ctx, sql)
	if err != nil {
		return nil, database.Wrap("audit: results", err)
	}
	m := marked{rule: rule}
	var revision int
	_, err = pgx.ForEachRow(rows, []any{&m.requestID, &m.outcome, &m.sid, &revision, &m.at}, func() error {
		m.messageID = fmt.Sprintf("%s-%d%s", flex.LookupKey(m.requestID), revision, suffix)
		switch {
		case seen.judge(r, m):
		case m.at.Before(seen.begun):
			r.Forgotten++ // the stream no longer goes back so far
		default:
			missing = append(missing, m)
		}
		return nil
	})
	return missing, database.Wrap("audit: results", err)
}

// judge holds a row against its message. It reports whether the stream has one.
func (l *ledger) judge(r *Report, m marked) bool {
	p, ok := l.byID[m.messageID]
	delete(l.byID, m.messageID)
	switch {
	case !ok:
		return false
	case p.different:
		r.offend(m.rule, m.requestID, "two different results under one message id")
	case p.requestID != m.requestID || p.outcome != m.outcome || p.sid != m.sid:
		r.offend(m.rule, m.requestID, fmt.Sprintf("the stream says %s %s %s, the table %s %s", p.requestID, p.outcome, p.sid, m.outcome, m.sid))
	}
	return true
}

// read reads the stream's results from where it was read last up to its end, and says how many messages the stream has.
func (l *ledger) read(ctx context.Context, stream jetstream.Stream) (messages uint64, err error) {
	info, err := stream.Info(ctx)
	if err != nil {
		return 0, fmt.Errorf("outbox: audit: result stream: %w", err)
	}
	switch l.begun = info.State.FirstTime; {
	case info.State.Msgs == 0:
		l.begun = time.Now()
	case info.State.FirstSeq > 1:
		// A mark is later than its message: by up to the duplicate window where the result was published again, which
		// the stream had acknowledged and dropped.
		l.begun = l.begun.Add(info.Config.Duplicates)
	}
	if info.State.Msgs == 0 || info.State.LastSeq < l.next {
		return info.State.Msgs, nil
	}
	if err := l.readTo(ctx, stream, info.State.LastSeq); err != nil {
		return 0, fmt.Errorf("outbox: audit: result stream: %w", err)
	}
	l.next = info.State.LastSeq + 1
	return info.State.Msgs, nil
}

// readTo reads the messages from l.next up to last.
func (l *ledger) readTo(ctx context.Context, stream jetstream.Stream, last uint64) error {
	cfg := jetstream.OrderedConsumerConfig{}
	if l.next > 0 {
		cfg.DeliverPolicy, cfg.OptStartSeq = jetstream.DeliverByStartSequencePolicy, l.next
	}
	consumer, err := stream.OrderedConsumer(ctx, cfg)
	if err != nil {
		return err
	}
	// As its creation told: to ask for it would need one more permission.
	if consumer.CachedInfo().NumPending == 0 { // what was there has been deleted
		return nil
	}
	messages, err := consumer.Messages()
	if err != nil {
		return err
	}
	defer messages.Stop()
	for {
		m, err := messages.Next(jetstream.NextMaxWait(10 * time.Second))
		if err != nil {
			return err
		}
		var result results.Result
		if json.Unmarshal(m.Data(), &result) == nil && (result.Confirmation != nil || request.State(result.Outcome).Final()) {
			l.note(m.Headers().Get(jetstream.MsgIDHeader), result)
		}
		// The latest message may have been deleted: then none comes with its sequence.
		if meta, err := m.Metadata(); err != nil || meta.Sequence.Stream >= last || meta.NumPending == 0 {
			return err
		}
	}
}

// note keeps a result; answers to repeats carry message ids of their own.
func (l *ledger) note(id string, result results.Result) {
	p := published{outcome: result.Outcome}
	if result.RequestID != nil {
		p.requestID = *result.RequestID
	}
	if result.SettledAt != nil {
		p.settled = *result.SettledAt
	}
	if result.InteractionSID != nil {
		p.sid = *result.InteractionSID
	}
	before, ok := l.byID[id]
	switch {
	case id == "":
		l.odd = append(l.odd, p)
	case !ok:
		l.byID[id] = p
	case before.requestID != p.requestID || before.outcome != p.outcome || before.sid != p.sid:
		before.different = true
		l.byID[id] = before
		l.odd = append(l.odd, p)
	}
}

// auditStrangers looks at results that no row explains.
func (desk *Desk) auditStrangers(ctx context.Context, r *Report, seen ledger, retention time.Duration) error {
	var ids, sids []string
	for _, p := range slices.AppendSeq(seen.odd, maps.Values(seen.byID)) {
		removed := retention > 0 && !p.settled.IsZero() && time.Since(p.settled) > retention
		if p.sid != "" && !removed {
			ids, sids = append(ids, p.requestID), append(sids, p.sid)
		}
	}
	rows, err := desk.pool.Query(ctx, `
		SELECT DISTINCT r.sid, r.id FROM unnest($1::text[], $2::text[]) AS r (id, sid)
		 WHERE NOT EXISTS (SELECT FROM outbox o WHERE o.request_id = r.id AND o.interaction_sid = r.sid) ORDER BY 1, 2`, ids, sids)
	if err != nil {
		return database.Wrap("audit: strangers", err)
	}
	var sid, id string
	_, err = pgx.ForEachRow(rows, []any{&sid, &id}, func() error {
		r.offend("every sid on the result stream is its request's", sid, "a result says so of "+id+", and no row does: was the row removed or changed?")
		return nil
	})
	return database.Wrap("audit: strangers", err)
}
