package senders_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"flexworker/internal/database"
	"flexworker/internal/outbox"
	"flexworker/internal/outbox/operator"
	"flexworker/internal/outbox/request"
	"flexworker/internal/senders"
	"flexworker/internal/testing/contract"
	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/natstest"
	"flexworker/internal/testing/pgtest"
	"flexworker/migrations"
)

var migrated = pgtest.NewTemplate(migrations.Up)

func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }

// rig is a table, a server, and two replicas that answer. No loop runs: what happens to a request is written into its row.
type rig struct {
	pool    *pgxpool.Pool
	store   *outbox.Store
	nats    *natstest.Server
	asker   *nats.Conn
	both    [2]*senders.Service
	next    uint64
	serving int // replicas that answer
}

func newRig(t testing.TB) *rig {
	t.Helper()
	pool := migrated.NewPool(t, database.ForLoops)
	r := &rig{pool: pool, store: outbox.NewStore(pool, "w1", time.Second, "interaction_request"), nats: natstest.New(t, natstest.Options{})}
	r.asker = r.nats.Connect(t, nats.CustomInboxPrefix("_INBOX.crm"))
	for i := range r.both {
		r.both[i], _ = r.serve(t, pool)
	}
	return r
}

// serve is one replica, which answers until stop or the end of the test.
func (r *rig) serve(t testing.TB, pool *pgxpool.Pool) (_ *senders.Service, stop func()) {
	t.Helper()
	conn := r.nats.Connect(t)
	s := senders.New(senders.Config{Conn: conn, Subject: "interactions", Inbox: "_INBOX.flexworker", Version: "development",
		Desk: operator.NewDesk(pool, operator.Caller{}, nil), Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan struct{})
	r.serving++
	go func() { defer close(done); s.Run(ctx) }()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	r.all(t)
	return s, stop
}

// all are the services, once each replica that serves has answered.
func (r *rig) all(t testing.TB) (all []micro.Info) {
	t.Helper()
	expect.Eventually(t, func() error {
		all = r.known(t)
		return expect.Is("services", len(all), r.serving)
	})
	return all
}

// known are the services that answer to `nats micro info` with all their endpoints. A busy machine may be slower than that: there may be
// more.
func (r *rig) known(t testing.TB) (all []micro.Info) {
	t.Helper()
	inbox := r.asker.NewRespInbox()
	sub, err := r.asker.SubscribeSync(inbox)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := r.asker.PublishRequest("$SRV.INFO.flexworker", inbox, nil); err != nil {
		t.Fatal(err)
	}
	for {
		m, err := sub.NextMsg(100 * time.Millisecond)
		if err != nil {
			return all
		}
		var info micro.Info
		if json.Unmarshal(m.Data, &info) == nil && len(info.Endpoints) == 2 {
			all = append(all, info)
		}
	}
}

// add stores a request of a source, or its repeat.
func (r *rig) add(t testing.TB, source, id string, change ...func(*request.Event)) {
	t.Helper()
	r.next++
	e := request.Event{RequestID: id, Message: request.Message{Stream: "REQUESTS", Subject: "interactions.requests." + source, Source: source, Sequence: r.next,
		Time: time.Now().Add(time.Duration(r.next) * time.Millisecond)},
		Request: fmt.Appendf(nil, `{"request_id":%q,"channel":{"type":"sms"},"metadata":{"case":7}}`, id)}
	for _, f := range change {
		f(&e)
	}
	e.Raw = e.Request
	if _, err := r.store.Add(t.Context(), e); err != nil {
		t.Fatal(err)
	}
}

// reply is an answer as its asker sees it.
type reply struct {
	Code, Words, Body string
	Status            operator.OwnStatus // of a status question
	Cancelled         operator.Cancelled // of a cancel
	Error             struct {
		Kind   string
		Faults []request.ShownFault
	}
}

func (r *rig) ask(t testing.TB, subject, body string) (got reply) {
	t.Helper()
	m, err := r.asker.Request("interactions."+subject, []byte(body), expect.Patience)
	if err != nil {
		t.Fatalf("%s: %v", subject, err)
	}
	got.Code, got.Words, got.Body = m.Header.Get(micro.ErrorCodeHeader), m.Header.Get(micro.ErrorHeader), string(m.Data)
	var into any = &got.Status
	if got.Code != "" {
		into = &got
	} else if strings.HasPrefix(subject, "cancel.") {
		into = &got.Cancelled
	}
	if err := json.Unmarshal(m.Data, into); err != nil || m.Header.Get("Content-Type") != "application/json" {
		t.Fatalf("%s: %v: %s %v", subject, err, m.Data, m.Header)
	}
	if err := published(subject, got.Code, m.Data); err != nil {
		t.Errorf("%s: %v: %s", subject, err, m.Data)
	}
	return got
}

// published holds an answer against docs/schema. That of a request which has its outcome is a result.
func published(subject, code string, body []byte) error {
	name := "statusAnswer"
	switch {
	case code != "":
		name = "refusal"
	case strings.HasPrefix(subject, "cancel."):
		name = "cancelAnswer"
	case !bytes.Contains(body, []byte(`"outcome":null`)):
		if err := contract.Result(body); err != nil {
			return err
		}
	}
	return contract.Message(name, body)
}

func (r *rig) set(t testing.TB, id, columns string) {
	t.Helper()
	if tag, err := r.pool.Exec(t.Context(), `UPDATE outbox SET `+columns+` WHERE request_id = $1`, id); err != nil || tag.RowsAffected() != 1 {
		t.Fatal(tag, err)
	}
}

// acts are who did what to a request, as it is recorded.
func (r *rig) acts(t testing.TB, id string) string {
	t.Helper()
	return pgtest.One[string](t, r.pool, `SELECT coalesce(string_agg(who || ' ' || act || ' ' || was || ': ' || why, '; ' ORDER BY id), '') FROM outbox_acts WHERE request_id = $1`, id)
}

const one = `{"request_id":"a-1"}`
const cancelOne = `{"request_id":"a-1","why":"the customer called"}`

func later(e *request.Event) { e.NotBefore = time.Now().Add(time.Hour) }

// TestCancelInTime: a pending request is taken back by its sender, whichever replica hears it, and asking again gets the
// same answer.
func TestCancelInTime(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.add(t, "crm", "a-1", later)
	before := r.ask(t, "status.crm", one).Status
	if before.State != request.Pending || before.Outcome != nil || before.DueAt == nil || before.SettledAt != nil || before.Sequence != 1 || before.Stream != "REQUESTS" ||
		string(before.Metadata) != `{"case":7}` || !strings.HasPrefix(before.Why, "It waits: attempt 1 is due") {
		t.Errorf("before: %+v", before)
	}
	for i := range 6 {
		if got := r.ask(t, "cancel.crm", cancelOne).Cancelled; !got.Cancelled || got.State != request.Cancelled {
			t.Errorf("cancel %d: %+v", i, got)
		}
	}
	if got := r.acts(t, "a-1"); got != "source:crm cancel pending: the customer called" {
		t.Errorf("acts: %s", got)
	}
	after := r.ask(t, "status.crm", one).Status
	if after.State != request.Cancelled || *after.Outcome != "cancelled" || after.SettledAt == nil || after.Error.Message != "cancelled by its sender" || *after.ResolvedBy != "operator" {
		t.Errorf("after: %+v, error %+v", after, after.Error)
	}
	answered := int64(0)
	for _, s := range r.both {
		answered += s.Counters[senders.Cancel][senders.Answered].Load()
	}
	if answered != 6 {
		t.Errorf("%d cancels are counted, want 6", answered)
	}
}

// TestCancelTooLate: what has settled, or is being sent, is not taken back, and nothing is recorded.
func TestCancelTooLate(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ columns, why string }{
		"created":  {`state = 'created', due_at = NULL, attempt = 1, settled_at = now(), resolved_by = 'response', interaction_sid = 'KD0000000000000000000000000000000a'`, "It is created as KD0000000000000000000000000000000a"},
		"rejected": {`state = 'rejected', due_at = NULL, attempt = 1, settled_at = now(), error_kind = 'http_400', error_message = 'no such workflow'`, "no such workflow"},
		"sending":  {`state = 'sending', due_at = NULL, attempt = 1, attempt_began_at = now(), leased_by = 'w1', leased_until = now() + interval '1 minute'`, "It is being sent"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.add(t, "crm", "a-1")
			r.set(t, "a-1", c.columns)
			got := r.ask(t, "cancel.crm", cancelOne).Cancelled
			if got.Cancelled || string(got.State) != name || !strings.Contains(got.Why, c.why) {
				t.Errorf("%+v", got)
			}
			if acts := r.acts(t, "a-1"); acts != "" {
				t.Errorf("acts: %s", acts)
			}
			if status := r.ask(t, "status.crm", one).Status; string(status.State) != name || status.Why != got.Why {
				t.Errorf("status: %+v", status)
			}
		})
	}
}

// TestCancelUncertain: a request that may exist is not cancelled yet, but never sent again; the wish is recorded once.
func TestCancelUncertain(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.add(t, "crm", "a-1")
	r.set(t, "a-1", `state = 'uncertain', attempt = 1, attempt_began_at = now(), uncertain_since = now(), error_kind = 'timeout', error_message = 'no answer'`)
	for range 2 {
		got := r.ask(t, "cancel.crm", cancelOne).Cancelled
		if got.Cancelled || got.State != request.Uncertain || !strings.Contains(got.Why, "never sent again") {
			t.Errorf("%+v", got)
		}
	}
	if acts := r.acts(t, "a-1"); acts != "source:crm cancel uncertain: the customer called" {
		t.Errorf("acts: %s", acts)
	}
}

// TestNotTheirs: whoever has not asked for a request learns nothing of it: the answer is that to an id that nobody has sent.
func TestNotTheirs(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.add(t, "crm.eu", "a-1", later)
	r.add(t, "bad.\xff", "b-1", later)
	never := strings.ReplaceAll(cancelOne, "a-1", "never")
	for _, source := range []string{"crm", "crm.eu.west", "crm.eux", "CRM.eu", "eu", "shop", "crm.eu.x.y", "%"} {
		for _, kind := range []string{"status.", "cancel."} {
			theirs, nobodys := r.ask(t, kind+source, cancelOne), r.ask(t, kind+source, never)
			if kind == "status." {
				theirs, nobodys = r.ask(t, kind+source, one), r.ask(t, kind+source, `{"request_id":"never"}`)
			}
			if theirs.Code != "404" || theirs.Error.Kind != "unknown" || theirs.Body != nobodys.Body || theirs.Words != nobodys.Words || nobodys.Code != "404" {
				t.Errorf("%s%s: %+v and %+v", kind, source, theirs, nobodys)
			}
			if !strings.Contains(nobodys.Words, "no worker may have read it yet: ask again") {
				t.Errorf("it does not say what to do: %s", nobodys.Words)
			}
		}
	}
	// Two sources that are no text are one in the table: neither is told anything, nor is who is named like both.
	for _, source := range []string{"bad.\xff", "bad.\xfe", "bad.\uFFFD"} {
		if got := r.ask(t, "status."+source, `{"request_id":"b-1"}`); got.Code != "404" {
			t.Errorf("%q: %+v", source, got)
		}
	}
	if acts := r.acts(t, "a-1"); acts != "" {
		t.Errorf("acts: %s", acts)
	}
	// Who asks for the same request again has asked for it, too, and is told of its own message.
	r.add(t, "shop", "a-1", later)
	if got := r.ask(t, "status.shop", one).Status; got.Sequence != 3 || got.State != request.Pending {
		t.Errorf("shop: %+v", got)
	}
	if got := r.ask(t, "status.crm.eu", one).Status; got.Sequence != 1 {
		t.Errorf("crm.eu: %+v", got)
	}
	if got := r.ask(t, "cancel.shop", cancelOne).Cancelled; !got.Cancelled || r.acts(t, "a-1") != "source:shop cancel pending: the customer called" {
		t.Errorf("shop: %+v, %s", got, r.acts(t, "a-1"))
	}
}

// TestBadBodies: every fault of a body is named, and nothing is asked of the table.
func TestBadBodies(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, c := range []struct{ subject, body, want string }{
		{"status.crm", ``, ""},
		{"status.crm", `null`, "must be an object"},
		{"status.crm", `["a-1"]`, "must be an object"},
		{"status.crm", "{\"request_id\":\"\xff\"}", "UTF-8"},
		{"status.crm", `{"request_id":"a\u0000"}`, "request_id"},
		{"status.crm", `{"request_id":"a","request_id":"b"}`, "request_id"},
		{"status.crm", `{}`, "request_id is required"},
		{"status.crm", `{"request_id":7}`, "request_id must be a string"},
		{"status.crm", `{"request_id":""}`, "request_id must not be empty"},
		{"status.crm", `{"request_id":"` + strings.Repeat("x", 257) + `"}`, "request_id has 257 bytes, and may have 256"},
		{"status.crm", `{"request_id":"a","why":"x"}`, "why is no field"},
		{"status.crm", `{"request_id":"` + strings.Repeat("x", 16<<10) + `"}`, "the body has"},
		{"cancel.crm", `{"request_Id":7,"why":" "}`, "request_Id is no field; why must not be empty; request_id is required"},
		{"cancel.crm", `{"request_id":"a","why":"..."}`, "why must not be empty"},
		{"cancel.crm", `{"request_id":"a","why":"` + strings.Repeat("x", 1001) + `"}`, "why has 1001 bytes"},
		{"cancel.crm", `{"request_id":"a"}`, "why is required"},
	} {
		got := r.ask(t, c.subject, c.body)
		var said []string
		for _, f := range got.Error.Faults {
			path, _, _ := strings.Cut(strings.TrimSpace(f.Path+" "+f.Problem), ", which is")
			said = append(said, path)
		}
		if got.Code != "400" || len(said) == 0 || !strings.Contains(strings.ReplaceAll(strings.Join(said, "; "), " of this question", ""), c.want) {
			t.Errorf("%s %.60s: %s: %s", c.subject, c.body, got.Code, said)
		}
		if first := got.Error.Faults[0]; !strings.Contains(got.Words, first.Problem) { // for who sees the header alone
			t.Errorf("%s %.60s: the header says %q", c.subject, c.body, got.Words)
		}
	}
}

// TestFaultsInHeader: the header names the first faults and counts the rest, in one line whatever a field is called.
func TestFaultsInHeader(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	got := r.ask(t, "status.crm", `{"request_id":"a-1","b\r\nX: y":1,"c":1,"d":1,"e":1}`)
	const field = "is no field of this question, which is {\"request_id\": \"...\"}"
	if want := "the question has faults: b  X: y: " + field + "; c: " + field + "; d: " + field + "; and 1 more in error.faults"; got.Words != want {
		t.Errorf("the header says\n%q, want\n%q", got.Words, want)
	}
}

// TestHeldRow: while another session holds the row a cancel is refused for now; when the row is free the sender's next try
// does it.
func TestHeldRow(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.add(t, "crm", "a-1", later)
	tx, err := r.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	pgtest.Exec(t, tx, `SELECT FROM outbox WHERE request_id = 'a-1' FOR UPDATE`)
	if got := r.ask(t, "cancel.crm", cancelOne); got.Code != "503" || got.Error.Kind != "locked" {
		t.Errorf("held: %+v", got)
	}
	if got := r.ask(t, "status.crm", one).Status; got.State != request.Pending {
		t.Errorf("held: %+v", got)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := r.ask(t, "cancel.crm", cancelOne).Cancelled; !got.Cancelled {
		t.Errorf("free: %+v", got)
	}
}

// TestDatabaseAway: without Postgres a question is refused in words, and so are those in line behind it.
func TestDatabaseAway(t *testing.T) {
	t.Parallel()
	r := &rig{nats: natstest.New(t, natstest.Options{})}
	r.asker = r.nats.Connect(t)
	pool, err := pgxpool.New(t.Context(), "postgres://worker@127.0.0.1:1/none?connect_timeout=1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	s, _ := r.serve(t, pool)
	for range 50 {
		if got := r.ask(t, "status.crm", one); got.Code != "503" || got.Error.Kind != "unavailable" {
			t.Fatalf("%+v", got)
		}
	}
	if n := s.Counters[senders.Status][senders.Unavailable].Load(); n != 50 {
		t.Errorf("%d are counted", n)
	}
}

// TestAnswersGoToInboxes: a sender cannot have this connection publish where the sender itself may not.
func TestAnswersGoToInboxes(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.add(t, "crm", "a-1", later)
	var mu sync.Mutex
	heard := map[string]int{}
	if _, err := r.asker.Subscribe(">", func(m *nats.Msg) { mu.Lock(); heard[m.Subject]++; mu.Unlock() }); err != nil {
		t.Fatal(err)
	}
	elsewhere := []string{"interactions.results.created.shop", "interactions.requests.shop",
		"interactions.cancel.shop", "_INBOX.flexworker.x.y", "_INBOXES.x", ""}
	for _, to := range elsewhere {
		if err := r.asker.PublishMsg(&nats.Msg{Subject: "interactions.cancel.crm", Reply: to, Data: []byte(cancelOne)}); err != nil {
			t.Fatal(err)
		}
	}
	expect.Eventually(t, func() error {
		n := int64(0)
		for _, s := range r.both {
			n += s.Counters[senders.Cancel][senders.Unanswerable].Load()
		}
		return expect.Is("unanswerable", n, int64(len(elsewhere)))
	})
	if got := r.ask(t, "status.crm", one).Status; got.State != request.Pending {
		t.Errorf("it was obeyed: %+v", got)
	}
	mu.Lock()
	defer mu.Unlock()
	for _, to := range elsewhere {
		if heard[to] != 0 {
			t.Errorf("an answer went to %s", to)
		}
	}
}

// TestStop: Run ends after what is under way was answered, and nothing reaches Postgres afterwards.
func TestStop(t *testing.T) {
	t.Parallel()
	r := &rig{nats: natstest.New(t, natstest.Options{})}
	r.asker = r.nats.Connect(t)
	pool := migrated.NewPool(t, database.ForLoops)
	r.pool, r.store = pool, outbox.NewStore(pool, "w1", time.Second, "interaction_request")
	own, err := pgxpool.NewWithConfig(t.Context(), pool.Config())
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	_, stop := r.serve(t, own)
	r.add(t, "crm", "a-1", later)
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	pgtest.Exec(t, tx, `SELECT FROM outbox WHERE request_id = 'a-1' FOR UPDATE`)
	inbox, err := r.asker.SubscribeSync(r.asker.NewInbox())
	if err != nil {
		t.Fatal(err)
	}
	if err := r.asker.PublishRequest("interactions.cancel.crm", inbox.Subject, []byte(cancelOne)); err != nil {
		t.Fatal(err)
	}
	expect.Eventually(t, func() error { return expect.Is("under way", own.Stat().AcquiredConns(), int32(1)) })
	stop()
	if n := own.Stat().AcquiredConns(); n != 0 {
		t.Errorf("%d questions are under way after the end of Run", n)
	}
	own.Close()
	m, err := inbox.NextMsg(expect.Patience)
	if err != nil || m.Header.Get(micro.ErrorCodeHeader) != "503" {
		t.Errorf("what was under way: %v, %v", m, err)
	}
	if len(r.known(t)) != 0 {
		t.Error("it is still known as a service")
	}
}

// TestInfo: `nats micro ls` and info show each replica, with what to ask.
func TestInfo(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, info := range r.all(t) {
		if info.Name != "flexworker" || info.Version != "0.0.0" || info.Endpoints[0].Subject != "interactions.status.>" || info.Endpoints[1].Subject != "interactions.cancel.>" ||
			info.Endpoints[1].Metadata["body"] == "" {
			t.Errorf("%+v", info)
		}
	}
}

// TestLargeMetadata: a status that no message has room for comes without its metadata, and says so.
func TestLargeMetadata(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.add(t, "crm", "a-1", later, func(e *request.Event) {
		e.Request = fmt.Appendf(nil, `{"request_id":"a-1","channel":{"type":"sms"},"metadata":%q}`, strings.Repeat("m", 1<<20-100))
	})
	if got := r.ask(t, "status.crm", one).Status; !got.MetadataLeftOut || got.State != request.Pending {
		t.Errorf("%+v", got)
	}
}
