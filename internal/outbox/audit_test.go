package outbox

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"flexworker/internal/flex"
	"flexworker/internal/outbox/operator"
	"flexworker/internal/outbox/request"
	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/flextest"
	"flexworker/internal/testing/natstest"
	"flexworker/internal/testing/pgtest"
)

// books are the three accounts that an audit holds against each other.
type books struct {
	t        *testing.T
	s        *Store
	results  *resultStream
	requests jetstream.Stream
	inbox    jetstream.Consumer
}

// newBooks settles n requests in earnest: published, taken, sent to Flex, which
// refuses each tenth, and answered. One is asked twice, one message is no request.
func newBooks(t *testing.T, n int) *books {
	t.Helper()
	b := &books{t: t, s: newStore(t), results: newResults(t, natstest.Options{})}
	b.results.create(t)
	var err error
	b.requests, err = b.results.CreateStream(t.Context(), jetstream.StreamConfig{Name: "REQUESTS", Subjects: []string{"interactions.requests.>"}})
	if err != nil {
		t.Fatal(err)
	}
	b.inbox, err = b.requests.CreateConsumer(t.Context(), jetstream.ConsumerConfig{Durable: "worker", AckPolicy: jetstream.AckExplicitPolicy})
	if err != nil {
		t.Fatal(err)
	}
	srv := flextest.New(t)
	for i := range n {
		if i%10 == 9 {
			srv.Script(fmt.Sprintf("a-%d", i), flextest.Status(400))
		}
		b.ask(event(fmt.Sprintf("a-%d", i), 0).Request)
	}
	b.ask(event("a-3", 0).Request)
	b.ask([]byte("hello"))
	stop := start(t, newDeliverer(t, b.s, srv))
	inState(t, b.s, request.Created, n-n/10)
	inState(t, b.s, request.Rejected, n/10)
	stop()
	b.publish()
	return b
}

// ask publishes a message and takes it as the worker does.
func (b *books) ask(raw []byte) {
	b.t.Helper()
	ctx := b.t.Context()
	if _, err := b.results.Publish(ctx, "interactions.requests.crm", raw); err != nil {
		b.t.Fatal(err)
	}
	m, err := b.inbox.Next(jetstream.FetchMaxWait(expect.Patience))
	if err != nil {
		b.t.Fatal(err)
	}
	meta, err := m.Metadata()
	if err != nil {
		b.t.Fatal(err)
	}
	message := request.Message{Stream: "REQUESTS", Subject: m.Subject(), Source: "crm", Sequence: meta.Sequence.Stream, Time: meta.Timestamp, Raw: raw}
	var read struct {
		RequestID string `json:"request_id"`
	}
	if json.Unmarshal(raw, &read) == nil {
		_, err = b.s.Add(ctx, request.Event{Message: message, RequestID: read.RequestID, Request: raw})
	} else {
		err = b.s.AddMalformed(ctx, request.Malformed{Message: message, Err: "not JSON"})
	}
	if err != nil {
		b.t.Fatal(err)
	}
	if err := m.DoubleAck(ctx); err != nil {
		b.t.Fatal(err)
	}
}

func (b *books) publish() {
	b.t.Helper()
	age(b.t, b.s)
	pgtest.Exec(b.t, b.s.pool, `UPDATE outbox_repeats SET received_at = received_at - interval '1 minute'`)
	pgtest.Exec(b.t, b.s.pool, `UPDATE outbox_malformed SET received_at = received_at - interval '1 minute'`)
	if !publishStrays(b.t, b.results.publisher(b.t, b.s)) {
		b.t.Fatal("not all results were published")
	}
	if n := pgtest.One[int](b.t, b.s.pool, `SELECT count(*) FROM outbox WHERE published_at IS NULL`); n != 0 {
		b.t.Fatalf("%d results are not published", n)
	}
}

// offenders are what an audit says, one "rule: id" a line.
func (b *books) offenders() []string {
	b.t.Helper()
	results, err := b.results.Stream(b.t.Context(), "RESULTS")
	if err != nil {
		b.t.Fatal(err)
	}
	r, err := b.s.desk().Audit(b.t.Context(), b.requests, results, "worker", 30*24*time.Hour)
	if err != nil {
		b.t.Fatal(err)
	}
	var list []string
	for _, o := range r.Offenders {
		list = append(list, o.Rule+": "+o.ID)
	}
	slices.Sort(list)
	return list
}

// want checks that exactly these ids offend, each under a rule that begins so.
func (b *books) want(t *testing.T, want ...string) {
	t.Helper()
	got := b.offenders()
	left := slices.Clone(got)
	for _, w := range want {
		rule, id, _ := strings.Cut(w, ": ")
		i := slices.IndexFunc(left, func(g string) bool { return strings.HasPrefix(g, rule) && strings.HasSuffix(g, ": "+id) })
		if i < 0 {
			t.Errorf("%s is not found by the audit, which says:\n%s", w, strings.Join(got, "\n"))
			continue
		}
		left = slices.Delete(left, i, i+1)
	}
	if len(left) > 0 {
		t.Errorf("beside what was done the audit says:\n%s", strings.Join(left, "\n"))
	}
}

// The rules by their beginnings.
const (
	ruleMessage  = "every message"
	ruleSid      = "every sid belongs"
	ruleWritten  = "every row was written"
	ruleAttempt  = "every attempt"
	ruleOrphan   = "every row of history"
	ruleCreated  = "every created"
	ruleNot      = "what was not created"
	ruleTwice    = "no request has two attempts"
	ruleSending  = "nothing stands in sending"
	ruleResult   = "every settled request"
	ruleStranger = "every sid on the result stream"
)

// TestAuditTables: an account of real work balances, and each single change by
// hand in the tables is found and named.
//
// A row added by hand as created, with a history that says so and a sid that no
// result names, is out of its reach, as is an interaction that Flex has and no
// row names: the audit asks Flex nothing. The soak judges that, by the ledger.
func TestAuditTables(t *testing.T) {
	t.Parallel()
	b := newBooks(t, 50)
	b.want(t)
	pool := b.s.pool
	for _, table := range []string{"outbox", "outbox_attempts", "outbox_repeats", "outbox_malformed"} {
		pgtest.Exec(t, pool, `CREATE TABLE kept_`+table+` AS TABLE `+table)
	}
	restore := func() {
		for _, table := range []string{"outbox", "outbox_attempts", "outbox_repeats", "outbox_malformed"} {
			pgtest.Exec(t, pool, `TRUNCATE `+table)
			pgtest.Exec(t, pool, `INSERT INTO `+table+` OVERRIDING SYSTEM VALUE TABLE kept_`+table)
		}
	}
	const someSid = "KDffffffffffffffffffffffffffffffff"
	sid := func(id string) string { return *b.s.row(t, id).InteractionSID }
	number := func(id string) string { return fmt.Sprint(b.s.row(t, id).ID) }
	one, two := sid("a-10"), sid("a-11")
	for _, tt := range []struct {
		name, sql string
		want      []string
	}{
		{"created row deleted", `DELETE FROM outbox WHERE request_id = 'a-10'`,
			[]string{ruleMessage + ": message 11", ruleOrphan + ": " + number("a-10"), ruleStranger + ": " + one}},
		{"rejected row deleted", `DELETE FROM outbox WHERE request_id = 'a-9'`,
			[]string{ruleMessage + ": message 10", ruleOrphan + ": " + number("a-9")}},
		{"row and history deleted", `WITH gone AS (DELETE FROM outbox WHERE request_id = 'a-10' RETURNING id) DELETE FROM outbox_attempts WHERE outbox_id = (SELECT id FROM gone)`,
			[]string{ruleMessage + ": message 11", ruleStranger + ": " + one}},
		{"sid changed", `UPDATE outbox SET interaction_sid = '` + someSid + `' WHERE request_id = 'a-10'`,
			[]string{ruleResult + ": a-10"}},
		{"sid copied", `UPDATE outbox SET interaction_sid = '` + one + `' WHERE request_id = 'a-11'`,
			[]string{ruleSid + ": " + one + " (a-10, a-11)", ruleResult + ": a-11"}},
		{"sids swapped", `UPDATE outbox SET interaction_sid = CASE request_id WHEN 'a-10' THEN '` + two + `' ELSE '` + one + `' END WHERE request_id IN ('a-10', 'a-11')`,
			[]string{ruleResult + ": a-10", ruleResult + ": a-11"}},
		{"created became rejected", `UPDATE outbox SET state = 'rejected', interaction_sid = NULL, error_kind = 'invalid' WHERE request_id = 'a-10'`,
			[]string{ruleNot + ": a-10", ruleResult + ": a-10"}},
		{"rejected became cancelled", `UPDATE outbox SET state = 'cancelled' WHERE request_id = 'a-9'`,
			[]string{ruleResult + ": a-9"}},
		{"rejected became created", `UPDATE outbox SET state = 'created', interaction_sid = '` + someSid + `', resolved_by = 'lookup' WHERE request_id = 'a-9'`,
			[]string{ruleCreated + ": a-9", ruleResult + ": a-9"}},
		{"created became pending", `UPDATE outbox SET state = 'pending', interaction_sid = NULL, due_at = now(), settled_at = NULL, published_at = NULL WHERE request_id = 'a-10'`,
			[]string{ruleNot + ": a-10", ruleStranger + ": " + one}},
		{"created became sending for ever", `UPDATE outbox SET state = 'sending', interaction_sid = NULL, settled_at = NULL, published_at = NULL,
			leased_by = 'w', leased_until = now() - interval '2 minutes' WHERE request_id = 'a-10'`,
			[]string{ruleNot + ": a-10", ruleSending + ": a-10", ruleStranger + ": " + one}},
		{"revision changed", `UPDATE outbox SET revision = 2 WHERE request_id = 'a-10'`,
			[]string{ruleResult + ": a-10"}},
		{"id changed", `UPDATE outbox SET request_id = 'z' WHERE request_id = 'a-10'`,
			[]string{ruleResult + ": z", ruleStranger + ": " + one}},
		{"history of a created one deleted", `DELETE FROM outbox_attempts WHERE outbox_id = ` + number("a-10"),
			[]string{ruleAttempt + ": a-10", ruleCreated + ": a-10"}},
		{"history of a rejected one deleted", `DELETE FROM outbox_attempts WHERE outbox_id = ` + number("a-9"),
			[]string{ruleAttempt + ": a-9"}},
		{"history that was not applied", `UPDATE outbox_attempts SET applied = false WHERE outbox_id = ` + number("a-10"),
			[]string{ruleAttempt + ": a-10", ruleCreated + ": a-10"}},
		{"an attempt invented", `UPDATE outbox SET attempt = 2 WHERE request_id = 'a-10'`,
			[]string{ruleAttempt + ": a-10"}},
		{"created again, too late", `INSERT INTO outbox_attempts (outbox_id, kind, number, worker, started_at, outcome, error, applied)
			VALUES (` + number("a-10") + `, 'attempt', 2, 'w', now(), 'created', '` + someSid + `', false)`,
			[]string{ruleTwice + ": a-10"}},
		{"another message", `UPDATE outbox SET (stream_sequence, stream_time) = (SELECT stream_sequence, stream_time FROM outbox WHERE request_id = 'a-10') WHERE request_id = 'a-11'`,
			[]string{ruleWritten + ": a-10", ruleMessage + ": message 12"}},
		{"repeat deleted", `DELETE FROM outbox_repeats`, []string{ruleMessage + ": message 51"}},
		{"malformed deleted", `DELETE FROM outbox_malformed`, []string{ruleMessage + ": message 52"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			pgtest.Exec(t, pool, tt.sql)
			b.want(t, tt.want...)
			restore()
		})
	}
	b.want(t)
}

// TestAuditResults: what was done to the result stream is found and named.
func TestAuditResults(t *testing.T) {
	t.Parallel()
	b := newBooks(t, 20)
	b.want(t)
	ctx := t.Context()
	stream, err := b.results.Stream(ctx, "RESULTS")
	if err != nil {
		t.Fatal(err)
	}
	sequence := func(id string) uint64 { // of the result of this revision
		for _, m := range b.results.all(t) {
			if m.Header.Get(jetstream.MsgIDHeader) == flex.LookupKey(id)+"-1" {
				return m.Sequence
			}
		}
		t.Fatalf("%s has no result", id)
		return 0
	}
	forge := func(messageID, body string) {
		t.Helper()
		m := nats.NewMsg("interactions.results.created.crm")
		m.Data = []byte(body)
		m.Header.Set(natstest.Forged, "in the worker's place")
		if messageID != "" {
			m.Header.Set(jetstream.MsgIDHeader, messageID)
		}
		if ack, err := b.results.PublishMsg(ctx, m); err != nil || ack.Duplicate {
			t.Fatal(ack, err)
		}
	}
	forgery := func(n int) string { return fmt.Sprintf("KD%032d", n) }
	body := func(id, sid, more string) string {
		return fmt.Sprintf(`{"request_id":%q,"outcome":"created","interaction_sid":%q%s}`, id, sid, more)
	}
	now := time.Now().UTC().Format(time.RFC3339Nano)
	another := b.s.row(t, "a-4").InteractionSID

	// One after the other, since a message cannot be taken back: each adds to what is found.
	first, second := sequence("a-2"), sequence("a-5")
	var found []string
	for _, tt := range []struct {
		name string
		do   func() error
		want []string
	}{
		{"forged", func() error {
			forge("x", body("a-4", forgery(1), `,"received_at":"`+now+`","settled_at":"`+now+`"`))
			return nil
		},
			[]string{ruleStranger + ": " + forgery(1)}},
		{"forged without times and id", func() error { forge("", body("a-4", forgery(2), "")); return nil },
			[]string{ruleStranger + ": " + forgery(2)}},
		{"another without an id", func() error { forge("", body("a-4", forgery(3), "")); return nil },
			[]string{ruleStranger + ": " + forgery(3)}},
		{"the sid of another request", func() error { forge("y", body("a-1", *another, "")); return nil },
			[]string{ruleStranger + ": " + *another}},
		{"deleted", func() error { return stream.DeleteMsg(ctx, first) }, []string{ruleResult + ": a-2"}},
		{"deleted securely", func() error { return stream.SecureDeleteMsg(ctx, second) }, []string{ruleResult + ": a-5"}},
		{"the latest message deleted", func() error {
			forge("last", body("a-4", *another, ""))
			info, err := stream.Info(ctx)
			if err != nil {
				return err
			}
			return stream.DeleteMsg(ctx, info.State.LastSeq)
		}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := tt.do(); err != nil {
				t.Fatal(err)
			}
			found = append(found, tt.want...)
			b.want(t, found...)
		})
	}
}

// TestAuditForgotten: a result that the stream no longer has, since it was emptied
// or made anew, offends nobody, and is counted.
func TestAuditForgotten(t *testing.T) {
	t.Parallel()
	b := newBooks(t, 10)
	ctx := t.Context()
	check := func(when string, want int64) {
		t.Helper()
		b.want(t)
		results, err := b.results.Stream(ctx, "RESULTS")
		if err != nil {
			t.Fatal(err)
		}
		r, err := b.s.desk().Audit(ctx, b.requests, results, "worker", 0)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Contains(r.Counts, operator.Count{What: "published results that the stream no longer has", N: want}) || r.Forgotten != want {
			t.Errorf("%s: %d, %v, want %d", when, r.Forgotten, r.Counts, want)
		}
	}
	check("all there", 0)
	results, err := b.results.Stream(ctx, "RESULTS")
	if err != nil {
		t.Fatal(err)
	}
	if err := results.Purge(ctx); err != nil {
		t.Fatal(err)
	}
	check("emptied", 10)
	b.ask(event("later", 0).Request)
	if _, err := b.s.cancel(ctx, operator.Act{Why: "a test"}, operator.Filter{RequestIDs: []string{"later"}}); err != nil {
		t.Fatal(err)
	}
	b.publish()
	check("one more", 10)
	if err := b.results.DeleteStream(ctx, "RESULTS"); err != nil {
		t.Fatal(err)
	}
	b.results.create(t)
	check("made anew", 11)
}

// TestAuditMarkedLate: results that were marked, within the duplicate window, after the stream had stored them offend nobody when the stream
// has removed them, as by its age limit, and still has one that was stored before those marks.
func TestAuditMarkedLate(t *testing.T) {
	t.Parallel()
	b := newBooks(t, 10)
	results, err := b.results.Stream(t.Context(), "RESULTS")
	if err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, b.s.pool, `UPDATE outbox SET published_at = published_at + interval '30 seconds'`)
	if err := results.Purge(t.Context(), jetstream.WithPurgeSequence(results.CachedInfo().State.LastSeq)); err != nil {
		t.Fatal(err)
	}
	b.want(t)
}

// growing is a stream on which something happens after an audit has asked how far to read it.
type growing struct {
	jetstream.Stream
	do func()
}

func (s *growing) Info(ctx context.Context, o ...jetstream.StreamInfoOpt) (*jetstream.StreamInfo, error) {
	info, err := s.Stream.Info(ctx, o...)
	if do := s.do; do != nil {
		s.do = nil
		do()
	}
	return info, err
}

// TestAuditWhilePublishing: a result and a word that are published and marked while the audit reads the stream offend nobody.
// What is marked meanwhile and was never published does.
func TestAuditWhilePublishing(t *testing.T) {
	t.Parallel()
	b := newBooks(t, 10)
	ctx := t.Context()
	results, err := b.results.Stream(ctx, "RESULTS")
	if err != nil {
		t.Fatal(err)
	}
	b.ask(event("later", 0).Request)
	word := func(id string) {
		pgtest.Exec(t, b.s.pool, `INSERT INTO outbox_setups (id, created_at, word, decided_at, published_at)
			SELECT id, now(), 'confirmed', now(), clock_timestamp() FROM outbox WHERE request_id = $1`, id)
	}
	stream := &growing{Stream: results, do: func() {
		if _, err := b.s.cancel(ctx, operator.Act{Why: "a test"}, operator.Filter{RequestIDs: []string{"later"}}); err != nil {
			t.Error(err)
		}
		b.publish()
		m := nats.NewMsg("interactions.results.confirmed.crm")
		m.Data = []byte(fmt.Sprintf(`{"request_id":"a-4","outcome":"confirmed","interaction_sid":%q,"task":null,"checks":1}`, *b.s.row(t, "a-4").InteractionSID))
		m.Header.Set(natstest.Forged, "in the Publisher's place")
		m.Header.Set(jetstream.MsgIDHeader, flex.LookupKey("a-4")+"-1-setup")
		if _, err := b.results.PublishMsg(ctx, m); err != nil {
			t.Error(err)
		}
		word("a-4")
		word("a-5")
	}}
	r, err := b.s.desk().Audit(ctx, b.requests, stream, "worker", 30*24*time.Hour)
	want := []operator.Offender{{Rule: "every published word about a set-up is on the stream, and no other", ID: "a-5", Why: "marked as published, and not on the stream"}}
	if err != nil || !slices.Equal(r.Offenders, want) {
		t.Errorf("%v, %v, want %v", r.Offenders, err, want)
	}
}

// TestAuditRequests: a message that was acked behind the worker's back is named;
// one that is not acked yet, or was deleted, is no question.
func TestAuditRequests(t *testing.T) {
	t.Parallel()
	b := newBooks(t, 10)
	send := func() {
		t.Helper()
		if _, err := b.results.Publish(t.Context(), "interactions.requests.crm", event("lost", 0).Request); err != nil {
			t.Fatal(err)
		}
	}
	take := func() jetstream.Msg {
		t.Helper()
		m, err := b.inbox.Next(jetstream.FetchMaxWait(expect.Patience))
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	send() // 13, after ten requests, a repeat and one that is malformed
	b.want(t)
	lost := take()
	b.want(t)
	if err := lost.DoubleAck(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.want(t, ruleMessage+": message 13")
	if err := b.requests.DeleteMsg(t.Context(), 13); err != nil {
		t.Fatal(err)
	}
	b.want(t)

	// The consumer of another name is an error, not a balance.
	if _, err := b.s.desk().Audit(t.Context(), b.requests, nil, "nobody", 0); err == nil || !strings.Contains(err.Error(), "nobody") {
		t.Errorf("a consumer that is not there: %v", err)
	}
}

// TestAuditAfterRetention: what retention removed is nobody's fault, although a
// request that is older still waits; what a person removed is.
func TestAuditAfterRetention(t *testing.T) {
	t.Parallel()
	b := newBooks(t, 20)
	b.ask(event("waits", 0).Request)
	pgtest.Exec(t, b.s.pool, `UPDATE outbox SET received_at = received_at - interval '40 days', due_at = now() + interval '1 day' WHERE request_id = 'waits'`)
	// Streams keep their own time, so retention is made short in place of the messages old.
	retention := pgtest.One[time.Duration](t, b.s.pool, `SELECT clock_timestamp() - greatest((SELECT max(settled_at) FROM outbox), (SELECT max(stream_time) FROM outbox_repeats))`)
	pgtest.Exec(t, b.s.pool, `DELETE FROM outbox_malformed`) // goes by when it was answered
	results, err := b.results.Stream(t.Context(), "RESULTS")
	if err != nil {
		t.Fatal(err)
	}
	if n, err := b.s.prune(t.Context(), retention); err != nil || n != 20 {
		t.Fatal(n, err)
	}
	expect.Eventually(t, func() error {
		r, err := b.s.desk().Audit(t.Context(), b.requests, results, "worker", time.Millisecond)
		if err == nil && len(r.Offenders) > 0 {
			err = fmt.Errorf("%v", r.Offenders)
		}
		return err
	})
	r, err := b.s.desk().Audit(t.Context(), b.requests, results, "worker", 0)
	if err != nil || len(r.Offenders) != 22+18 { // 20 requests, a repeat, a malformed one; 18 sids
		t.Errorf("without retention: %d offenders %v, %v", len(r.Offenders), r.Offenders, err)
	}
}

// TestAuditEmptyAccount: an account balances before the first message, with and without
// the consumer that a worker makes, and after both streams were purged whole.
func TestAuditEmptyAccount(t *testing.T) {
	t.Parallel()
	b := newBooks(t, 10)
	ctx := t.Context()
	if err := b.requests.Purge(ctx); err != nil {
		t.Fatal(err)
	}
	results, err := b.results.Stream(ctx, "RESULTS")
	if err != nil {
		t.Fatal(err)
	}
	if err := results.Purge(ctx); err != nil {
		t.Fatal(err)
	}
	b.want(t)
	if err := b.results.DeleteStream(ctx, "REQUESTS"); err != nil {
		t.Fatal(err)
	}
	b.requests, err = b.results.CreateStream(ctx, jetstream.StreamConfig{Name: "REQUESTS", Subjects: []string{"interactions.requests.>"}})
	if err != nil {
		t.Fatal(err)
	}
	b.want(t) // the worker has not made its consumer yet
	if _, err := b.requests.CreateConsumer(ctx, jetstream.ConsumerConfig{Durable: "worker", AckPolicy: jetstream.AckExplicitPolicy}); err != nil {
		t.Fatal(err)
	}
	b.want(t)
	if _, err := b.results.Publish(ctx, "interactions.requests.crm", []byte("waits")); err != nil {
		t.Fatal(err)
	}
	b.want(t)
	_, err = b.s.desk().Audit(ctx, b.requests, nil, "mistyped", 0)
	if want := "stream REQUESTS has no consumer mistyped"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %s", err, want)
	}
}
