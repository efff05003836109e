package main

import (
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/faultproxy"
	"flexworker/internal/testing/flextest"
	"flexworker/internal/testing/natstest"
	"flexworker/internal/testing/pgtest"
	"flexworker/migrations"
)

var migrated = pgtest.NewTemplate(migrations.Up)

// TestMain is the worker itself where a test has started it as a child, or a shell.
func TestMain(m *testing.M) {
	if os.Getenv("FLEXWORKER_TEST_SHELL") != "" {
		if err := serveShell(); err != nil {
			panic(err)
		}
		os.Exit(0)
	}
	if os.Getenv("FLEXWORKER_TEST_CHILD") != "" {
		main() // which exits
	}
	// These tests wait far more than they work: more at once than there are cores,
	// unless somebody says how many.
	flag.Parse()
	said := false
	flag.Visit(func(f *flag.Flag) { said = said || f.Name == "test.parallel" })
	if !said {
		if err := flag.Set("test.parallel", "8"); err != nil {
			panic(err)
		}
	}
	var err error
	if folder, err = os.MkdirTemp("", "flexworker-test-"); err != nil {
		panic(err)
	}
	code := pgtest.Run(m)
	_ = os.RemoveAll(folder)
	os.Exit(code)
}

// folder is for what the tests of this process share.
var folder string

// rig is the world around the worker: NATS, Postgres and Flex, and what a sender
// and a reader of results have in hand.
type rig struct {
	t    *testing.T
	nats *natstest.Server
	flex *flextest.Server
	dsn  string
	pool *pgxpool.Pool
	js   jetstream.JetStream

	program string // of its processes; "": this test binary
	natsVia string // where replicas reach NATS; "": at nats itself
}

func newRig(t *testing.T) *rig {
	t.Helper()
	return rigOn(t, migrated.NewDSN(t))
}

// rigOn is a rig on a database of the test's own.
func rigOn(t *testing.T, dsn string) *rig {
	t.Helper()
	return rigWith(t, dsn, natstest.Options{})
}

// rigWith is a rig whose NATS server has options of its own.
func rigWith(t *testing.T, dsn string, o natstest.Options) *rig {
	t.Helper()
	return rigAt(t, dsn, natstest.New(t, o), 1)
}

// rigAt is a rig whose streams are kept by so many servers of NATS.
func rigAt(t *testing.T, dsn string, at *natstest.Server, replicas int) *rig {
	t.Helper()
	r := &rig{t: t, nats: at, flex: flextest.New(t), dsn: dsn}
	if _, err := migrations.Up(t.Context(), dsn); err != nil {
		t.Fatal(err)
	}
	r.join(replicas)
	return r
}

// join connects the test to Postgres and NATS, and makes the streams.
func (r *rig) join(replicas int) {
	t := r.t
	t.Helper()
	var err error
	if r.pool, err = pgxpool.New(t.Context(), r.dsn); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.pool.Close)
	if r.js, err = jetstream.New(r.nats.Connect(t), natstest.Unhurried()); err != nil {
		t.Fatal(err)
	}
	for name, subject := range map[string]string{"INTERACTION_REQUESTS": "interactions.requests.>", "INTERACTION_RESULTS": "interactions.results.>"} {
		expect.Eventually(t, func() error { // asked again where a busy server lets one question wait for too long
			_, err := r.js.CreateStream(t.Context(), jetstream.StreamConfig{Name: name, Subjects: []string{subject}, Duplicates: 30 * time.Minute, Replicas: replicas})
			return err
		})
	}
}

// redeliversSoon gives the consumer, which it makes where there is none, the shortest AckWait that the worker starts with, where
// its own is a minute: what was given to a connection that broke comes again after that.
func (r *rig) redeliversSoon() {
	r.t.Helper()
	config := jetstream.ConsumerConfig{Durable: "interaction-worker",
		FilterSubject: "interactions.requests.>", AckPolicy: jetstream.AckExplicitPolicy, MaxDeliver: 20, MaxAckPending: 10000}
	if c, err := r.js.Consumer(r.t.Context(), "INTERACTION_REQUESTS", "interaction-worker"); err == nil {
		config = c.CachedInfo().Config
	}
	config.AckWait = 10 * time.Second
	if _, err := r.js.CreateOrUpdateConsumer(r.t.Context(), "INTERACTION_REQUESTS", config); err != nil {
		r.t.Fatal(err)
	}
}

func secretOf(value string) Secret { return Secret{&secret{value: value}} }

// config is what a replica of this rig is started with.
func (r *rig) config() Config {
	r.t.Helper()
	port, err := faultproxy.FreePort()
	if err != nil {
		r.t.Fatal(err)
	}
	return Config{
		DatabaseURL: secretOf(r.dsn), Migrate: true, NATSURL: natsURL(cmp.Or(r.natsVia, r.nats.URL())),
		RequestsStream: "INTERACTION_REQUESTS", RequestsSubject: "interactions.requests", RequestsConsumer: "interaction-worker",
		ResultsStream: "INTERACTION_RESULTS", ResultsSubject: "interactions.results", ServiceSubject: "interactions",
		TwilioAccountSID: flextest.AccountSID, TwilioAuthToken: secretOf(flextest.AuthToken),
		FlexURL: r.flex.URL(), TaskRouterURL: r.flex.URL(), FlexTimeout: 2 * time.Second, FlexConcurrency: 16,
		RetryMaxAttempts: 10, RetryMinDelay: 50 * time.Millisecond, RetryMaxDelay: 500 * time.Millisecond,
		LookupAttribute: "interaction_request", LookupSettle: time.Second, UncertainPolicy: "hold", ConfirmRate: 5,
		ShutdownGrace: 20 * time.Second, AdminAddr: fmt.Sprintf("127.0.0.1:%d", port), LogLevel: "info", LogFormat: "text",
	}
}

// unhurriedCalls is the setting of unhurried, for a worker that is a process.
const unhurriedCalls = "FLEX_TIMEOUT=20s"

// unhurried is config for tests in which Flex is well: however busy the machine is, no call takes too long.
func (r *rig) unhurried() Config {
	r.t.Helper()
	cfg := r.config()
	cfg.FlexTimeout = 20 * time.Second
	return cfg
}

// replica is one worker in this process.
type replica struct {
	rig  *rig
	cfg  Config
	done chan struct{}
	stop context.CancelFunc
	err  error // of run, once done is closed
}

// start runs the worker until stop, or the test's end.
func (r *rig) start(cfg Config) *replica {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.t.Context()))
	w := &replica{rig: r, cfg: cfg, done: make(chan struct{}), stop: cancel}
	go func() {
		defer close(w.done)
		w.err = run(ctx, cfg, slog.New(slog.NewTextHandler(r.t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})), nil)
	}()
	r.t.Cleanup(func() { cancel(); w.wait() })
	return w
}

// wait waits for the end of a replica, which must be a good one.
func (w *replica) wait() {
	w.rig.t.Helper()
	select {
	case <-w.done:
		if w.err != nil {
			w.rig.t.Errorf("run: %v", w.err)
		}
	case <-time.After(expect.Patience):
		w.rig.t.Error("run does not return")
	}
}

// word is what /readyz says, and whether it says that the replica is ready.
func word(address string) (string, int, error) {
	client := http.Client{Timeout: 5 * time.Second}
	response, err := client.Get("http://" + address + "/readyz")
	if err != nil {
		return "", 0, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return strings.TrimSpace(string(body)), response.StatusCode, err
}

// eventually waits longer after an outage than others: what came in it takes its time.
func (r *rig) eventually(ask func() error) {
	r.t.Helper()
	expect.EventuallyWithin(r.t, expect.Patience+*outageFor, ask)
}

// says waits until /readyz says so, with that status.
func (r *rig) says(address, want string, status int) {
	r.t.Helper()
	r.eventually(func() error {
		got, code, err := word(address)
		if err != nil {
			return err
		}
		return expect.Is("readyz", fmt.Sprint(got, " ", code), fmt.Sprint(want, " ", status))
	})
}

// request is one event in order by the contract's section 3.
func requestOf(id string) []byte {
	return fmt.Appendf(nil, `{"request_id":%q,"channel":{"type":"sms","initiated_by":"api","participants":[{"address":"+15550100","proxy_address":"+15550199"}]},`+
		`"routing":{"properties":{"workspace_sid":%q,"workflow_sid":%q,"task_channel_unique_name":"sms","attributes":{"test_id":%q}}},"metadata":{"for":%q}}`,
		id, flextest.WorkspaceSID, flextest.WorkflowSID, id, id)
}

// send publishes requests named prefix-from up to prefix-to, which is not sent.
func (r *rig) send(prefix string, from, to int) {
	r.t.Helper()
	var sent []jetstream.PubAckFuture
	for i := from; i < to; i++ {
		ack, err := r.js.PublishAsync("interactions.requests.crm", requestOf(fmt.Sprintf("%s-%d", prefix, i)))
		if err != nil {
			r.t.Fatal(err)
		}
		sent = append(sent, ack)
	}
	select {
	case <-r.js.PublishAsyncComplete():
	case <-time.After(expect.Patience):
		r.t.Fatal("the stream does not acknowledge")
	}
	for _, s := range sent {
		select {
		case err := <-s.Err(): // which completes it as well
			r.t.Fatal(err)
		case <-s.Ok():
		}
	}
}

// result is a message of the result stream as its reader sees it.
type result struct {
	Subject string
	Header  nats.Header
	Body    struct {
		RequestID      string          `json:"request_id"`
		Outcome        string          `json:"outcome"`
		InteractionSID string          `json:"interaction_sid"`
		TaskSID        string          `json:"task_sid"`
		Routing        json.RawMessage `json:"routing"`
		Attempts       int             `json:"attempts"`
		ResolvedBy     string          `json:"resolved_by"`
		Metadata       json.RawMessage `json:"metadata"`
		SettledAt      time.Time       `json:"settled_at"`
		Sequence       uint64          `json:"sequence"`
		Error          json.RawMessage `json:"error"`
		Warnings       json.RawMessage `json:"warnings"`
	}
}

// reader collects what the result stream holds, as it comes.
type reader struct {
	rig    *rig
	mu     sync.Mutex
	all    []result
	finals map[string][]result // by request id
}

func (r *rig) read() *reader {
	r.t.Helper()
	c, err := r.js.OrderedConsumer(r.t.Context(), "INTERACTION_RESULTS", jetstream.OrderedConsumerConfig{FilterSubjects: []string{"interactions.results.>"}})
	if err != nil {
		r.t.Fatal(err)
	}
	in := &reader{rig: r, finals: map[string][]result{}}
	consuming, err := c.Consume(func(m jetstream.Msg) {
		got := result{Subject: m.Subject(), Header: m.Headers()}
		if err := json.Unmarshal(m.Data(), &got.Body); err != nil {
			r.t.Errorf("%s: %v: %s", m.Subject(), err, m.Data())
		}
		in.mu.Lock()
		defer in.mu.Unlock()
		in.all = append(in.all, got)
		if id := got.Body.RequestID; got.Body.Outcome != "uncertain" {
			in.finals[id] = append(in.finals[id], got)
		}
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(consuming.Stop)
	return in
}

// final are the results by request id; "uncertain" is followed by another.
func (in *reader) final() map[string][]result {
	in.mu.Lock()
	defer in.mu.Unlock()
	return maps.Clone(in.finals)
}

// ended is how many requests have their final result.
func (in *reader) ended() int {
	in.mu.Lock()
	defer in.mu.Unlock()
	return len(in.finals)
}

// list is all that came so far.
func (in *reader) list() []result {
	in.mu.Lock()
	defer in.mu.Unlock()
	return slices.Clone(in.all)
}

// subjects are how many results came on which subject.
func (in *reader) subjects() map[string]int {
	in.mu.Lock()
	defer in.mu.Unlock()
	n := map[string]int{}
	for _, one := range in.all {
		n[one.Subject]++
	}
	return n
}

// balanced waits until so many requests have their final result, for each of them as long as for any step: how long all
// of them take is up to the machine. Then it holds the three accounts against each other: the table, the results and what
// Flex has really created.
func (in *reader) balanced(want int) {
	t := in.rig.t
	t.Helper()
	for had := in.ended(); had != want; had = in.ended() {
		in.rig.eventually(func() error {
			if in.ended() == had {
				return expect.Is("results", had, want)
			}
			return nil
		})
	}
	in.rig.eventually(func() error {
		return expect.Is("unpublished", in.rig.count(`SELECT count(*) FROM outbox WHERE published_at IS NULL`), 0)
	})
	if n := in.rig.count(`SELECT count(*) FROM outbox WHERE state = 'created'`); n != want {
		t.Errorf("%d created in the table, want %d: %s", n, want, in.rig.states())
	}
	if twice := in.rig.flex.Duplicates(); len(twice) > 0 {
		t.Errorf("created more than once: %v", twice)
	}
	sids := map[string]string{}
	for _, e := range in.rig.flex.Ledger() {
		sids[e.TestID] = e.InteractionSID
	}
	if len(sids) != want {
		t.Errorf("Flex has created %d, want %d", len(sids), want)
	}
	for id, results := range in.final() {
		if len(results) != 1 || results[0].Body.InteractionSID != sids[id] || sids[id] == "" {
			t.Errorf("%s has %d results, the first names %s; Flex created %s", id, len(results), results[0].Body.InteractionSID, sids[id])
		}
	}
}

// count runs a query for one number; -1 while Postgres does not answer.
func (r *rig) count(sql string, args ...any) int {
	r.t.Helper()
	n := -1
	_ = r.pool.QueryRow(r.t.Context(), sql, args...).Scan(&n) // -1 is the answer then
	return n
}

// states is the table in one line, for messages.
func (r *rig) states() string {
	rows, err := r.pool.Query(r.t.Context(), `SELECT format('%s %s(%s, attempts %s, uncounted %s)', count(*), state, error_kind, attempt, uncounted) FROM outbox GROUP BY state, error_kind, attempt, uncounted`)
	if err != nil {
		return err.Error()
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return fmt.Sprint(strings.Join(lines, ", "), " ", err)
}
