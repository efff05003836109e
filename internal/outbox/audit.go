package outbox

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

// Report is what an audit found.
type Report struct {
	Counts    []Count    `json:"counts"`
	Offenders []Offender `json:"offenders"`
	Forgotten int64      `json:"-"` // results that were published before the result stream begins; one of Counts
}

// Count is one number of the account.
type Count struct {
	What string `json:"what"`
	N    int64  `json:"n"`
}

// Offender is something that breaks a rule of the account.
type Offender struct {
	Rule string `json:"rule"`
	ID   string `json:"id"`
	Why  string `json:"why,omitempty"`
}

// rules are what must hold of the tables alone; each statement returns the ids
// that break it. The schema's constraints refuse more than these.
var rules = []struct{ rule, sql string }{
	{"every sid belongs to one request",
		`SELECT interaction_sid || ' (' || string_agg(request_id, ', ' ORDER BY id) || ')' FROM outbox
		  WHERE interaction_sid IS NOT NULL GROUP BY interaction_sid HAVING count(*) > 1`},
	{"every row was written from one message",
		`SELECT min(request_id) FROM outbox GROUP BY stream_sequence, stream_time HAVING count(*) > 1`},
	{"every attempt has one row of history that was applied, or two when a late answer corrected a lapse",
		`SELECT o.request_id FROM outbox o
		  CROSS JOIN LATERAL generate_series(1, o.attempt - CASE WHEN o.state = 'sending' THEN 1 ELSE 0 END) AS n
		  LEFT JOIN outbox_attempts a ON a.outbox_id = o.id AND a.kind = 'attempt' AND a.number = n AND a.applied
		 GROUP BY o.id, o.request_id, n HAVING count(a.id) NOT BETWEEN 1 AND 2`},
	{"every row of history belongs to a request",
		`SELECT DISTINCT a.outbox_id::text FROM outbox_attempts a WHERE NOT EXISTS (SELECT FROM outbox o WHERE o.id = a.outbox_id)`},
	{"every created request has an attempt, a lookup or an act that says so",
		`SELECT request_id FROM outbox o WHERE state = 'created'
		    AND NOT EXISTS (SELECT FROM outbox_attempts a WHERE a.outbox_id = o.id AND a.applied AND a.outcome IN ('created', 'found'))
		    AND NOT EXISTS (SELECT FROM outbox_acts c WHERE c.request_id = o.request_id AND c.act = 'resolve created')`},
	{"what was not created has no attempt that was",
		`SELECT request_id FROM outbox o WHERE state <> 'created'
		    AND EXISTS (SELECT FROM outbox_attempts a WHERE a.outbox_id = o.id AND a.outcome IN ('created', 'found'))`},
	{"no request has two attempts that created",
		`SELECT o.request_id FROM outbox o JOIN outbox_attempts a ON a.outbox_id = o.id
		  WHERE a.kind = 'attempt' AND a.outcome = 'created' GROUP BY o.id, o.request_id HAVING count(DISTINCT a.number) > 1`},
	{"nothing stands in sending long after its lease ran out",
		`SELECT request_id FROM outbox WHERE state = 'sending' AND leased_until < clock_timestamp() - interval '1 minute'`},
}

// Audit balances the account: the request stream against the tables, the tables
// against themselves, and the tables against the result stream. It reads all of
// them; what is in flight meanwhile is not held against anybody, so it is most
// telling when the worker is idle. requests and results may be nil; then that
// side is not looked at. What is older than retention may have been removed from
// the tables, and is not missed there; 0: everything is.
func (desk *Desk) Audit(ctx context.Context, requests, results jetstream.Stream, consumer string, retention time.Duration) (Report, error) {
	r := Report{Offenders: []Offender{}} // [] in JSON where there are none
	if err := desk.auditCounts(ctx, &r); err != nil {
		return r, err
	}
	for _, rule := range rules {
		rows, err := desk.pool.Query(ctx, rule.sql)
		if err != nil {
			return r, database.Wrap("audit: "+rule.rule, err)
		}
		ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return r, database.Wrap("audit: "+rule.rule, err)
		}
		for _, id := range ids {
			r.offend(rule.rule, id, "")
		}
	}
	if requests != nil {
		if err := desk.auditRequests(ctx, &r, requests, consumer, retention); err != nil {
			return r, err
		}
	}
	if results != nil {
		return r, desk.auditResults(ctx, &r, results, retention)
	}
	return r, nil
}

func (r *Report) offend(rule, id, why string) {
	r.Offenders = append(r.Offenders, Offender{Rule: rule, ID: id, Why: why})
}

func (r *Report) count(what string, n int64) { r.Counts = append(r.Counts, Count{What: what, N: n}) }

func (desk *Desk) auditCounts(ctx context.Context, r *Report) error {
	rows, err := desk.pool.Query(ctx, `
		(SELECT 'requests ' || s.state, count(o.id) FROM unnest($1::text[]) WITH ORDINALITY AS s (state, n)
		  LEFT JOIN outbox o USING (state) GROUP BY s.state, s.n ORDER BY s.n)
		UNION ALL SELECT 'repeats', count(*) FROM outbox_repeats
		UNION ALL SELECT kind || ' messages', count(*) FROM outbox_malformed GROUP BY kind
		UNION ALL SELECT kind || 's made', count(*) FROM outbox_attempts WHERE outcome <> 'put_back' GROUP BY kind
		UNION ALL SELECT 'settled, not yet published', count(*) FROM outbox WHERE settled_at IS NOT NULL AND published_at IS NULL`, stateNames())
	if err != nil {
		return database.Wrap("audit: count", err)
	}
	counts, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Count])
	r.Counts = append(r.Counts, counts...)
	return database.Wrap("audit: count", err)
}

func stateNames() []string {
	names := make([]string, len(request.States))
	for i, s := range request.States {
		names[i] = string(s)
	}
	return names
}

// auditRequests holds the request stream against the tables: every message up
// to the point where all are acked is a row, a repeat or malformed.
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

// ledger is what the result stream has: one result for each message id, and
// those that came under none, or under one that another result had.
type ledger struct {
	byID map[string]published
	odd  []published
}

// auditResults holds the settled rows against the result stream.
func (desk *Desk) auditResults(ctx context.Context, r *Report, stream jetstream.Stream, retention time.Duration) error {
	seen, begun, err := readResults(ctx, r, stream)
	if err != nil {
		return err
	}
	rows, err := desk.pool.Query(ctx, `
		SELECT request_id, state, settlement, coalesce(interaction_sid, ''), published_at
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
	r.count("published results that the stream no longer has", r.Forgotten)
	return desk.auditStrangers(ctx, r, seen, retention)
}

// readResults reads the final results off the stream, by message id.
func readResults(ctx context.Context, r *Report, stream jetstream.Stream) (ledger, time.Time, error) {
	seen := ledger{byID: map[string]published{}}
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
		if err := json.Unmarshal(m.Data(), &result); err == nil && request.State(result.Outcome).Final() {
			seen.note(m.Headers().Get(jetstream.MsgIDHeader), result)
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
