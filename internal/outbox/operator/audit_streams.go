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

// A published result is a final one as the result stream has it.
type published struct {
	requestID, outcome, sid string
	settled                 time.Time
	different               bool // the same message id with another body
}

// ledger is what the result stream has: one result for each message id. odd are results without a message id, or
// under the id of another result.
type ledger struct {
	byID map[string]published
	odd  []published
	// words are the messages about set-ups, by message id too.
	words map[string]published
}

// auditResults holds the settled rows against the result stream.
func (desk *Desk) auditResults(ctx context.Context, r *Report, stream jetstream.Stream, retention time.Duration) error {
	seen, begun, err := readResults(ctx, r, stream)
	if err != nil {
		return err
	}
	rows, err := desk.pool.Query(ctx, `
		SELECT request_id, state, revision, coalesce(interaction_sid, ''), published_at
		  FROM outbox WHERE settled_at IS NOT NULL AND published_at IS NOT NULL`)
	if err != nil {
		return database.Wrap("audit: results", err)
	}
	const rule = "every settled request has exactly one final result on the stream, with its sid"
	var requestID, state, sid string
	var number int
	var at time.Time
	_, err = pgx.ForEachRow(rows, []any{&requestID, &state, &number, &sid, &at}, func() error {
		id := fmt.Sprintf("%s-%d", flex.LookupKey(requestID), number)
		p, ok := seen.byID[id]
		delete(seen.byID, id)
		switch {
		case !ok && at.Before(begun):
			r.Forgotten++ // the stream no longer goes back so far
		case !ok:
			r.offend(rule, requestID, "marked as published, and not on the stream")
		case p.different:
			r.offend(rule, requestID, "two different results under one message id")
		case p.requestID != requestID || p.outcome != state || p.sid != sid:
			r.offend(rule, requestID, fmt.Sprintf("the stream says %s %s %s, the table %s %s", p.requestID, p.outcome, p.sid, state, sid))
		}
		return nil
	})
	if err != nil {
		return database.Wrap("audit: results", err)
	}
	if err := desk.auditWords(ctx, r, seen, begun); err != nil {
		return err
	}
	r.count("published results that the stream no longer has", r.Forgotten)
	return desk.auditStrangers(ctx, r, seen, retention)
}

// readResults reads the final results off the stream, by message id.
func readResults(ctx context.Context, r *Report, stream jetstream.Stream) (ledger, time.Time, error) {
	seen := ledger{byID: map[string]published{}, words: map[string]published{}}
	info, err := stream.Info(ctx)
	if err != nil {
		return seen, time.Time{}, fmt.Errorf("outbox: audit: result stream: %w", err)
	}
	r.count("messages on the result stream", int64(info.State.Msgs))
	if info.State.Msgs == 0 {
		return seen, time.Now(), nil
	}
	consumer, err := stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{})
	if err != nil {
		return seen, time.Time{}, fmt.Errorf("outbox: audit: result stream: %w", err)
	}
	messages, err := consumer.Messages()
	if err != nil {
		return seen, time.Time{}, fmt.Errorf("outbox: audit: result stream: %w", err)
	}
	defer messages.Stop()
	for {
		m, err := messages.Next(jetstream.NextMaxWait(10 * time.Second))
		if err != nil {
			return seen, time.Time{}, fmt.Errorf("outbox: audit: result stream: %w", err)
		}
		var result results.Result
		id := m.Headers().Get(jetstream.MsgIDHeader)
		switch err := json.Unmarshal(m.Data(), &result); {
		case err != nil:
		case result.Confirmation != nil:
			seen.noteWord(id, result)
		case request.State(result.Outcome).Final():
			seen.note(id, result)
		}
		// The latest message may have been deleted: then none comes with its sequence.
		if meta, err := m.Metadata(); err != nil || meta.Sequence.Stream >= info.State.LastSeq || meta.NumPending == 0 {
			return seen, info.State.FirstTime, err
		}
	}
}

// note keeps a final result; answers to repeats carry message ids of their own.
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
