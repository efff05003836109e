package crashtest

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go/jetstream"

	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/flextest"
	"flexworker/internal/testing/natstest"
	"flexworker/internal/testing/pgtest"
	"flexworker/migrations"
)

// program is the worker with its crash points, built once.
var program string

var migrated = pgtest.NewTemplate(migrations.Up)

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "flexworker-crashtest-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	program = filepath.Join(dir, "worker")
	build := exec.Command("go", "build", "-buildvcs=false", "-tags", "crashpoints", "-o", program, "flexworker/cmd/worker")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "%v\n%s", err, out)
		return 1
	}
	// The tests wait for leases and lookups, not for the processor.
	if err := flag.Set("test.parallel", "10"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return pgtest.Run(m)
}

const (
	timeout = time.Second // FLEX_TIMEOUT
	lease   = timeout + 5*time.Second
	settle  = time.Second // LOOKUP_SETTLE
	ackWait = 10 * time.Second
)

// rig is the world of one test.
type rig struct {
	t    *testing.T
	nats *natstest.Server
	flex *flextest.Server
	dsn  string
	pool *pgxpool.Pool
	js   jetstream.JetStream
	sent map[string]bool
}

func newRig(t *testing.T) *rig {
	t.Helper()
	return newRigOn(t, migrated.NewDSN(t))
}

// newRigOn is a rig on a database of the test's own.
func newRigOn(t *testing.T, dsn string) *rig {
	t.Helper()
	r := &rig{t: t, nats: natstest.New(t, natstest.Options{}), dsn: dsn, sent: map[string]bool{},
		flex: flextest.NewWith(t, flextest.Config{Settings: flextest.Settings{Latency: 150 * time.Millisecond}})}
	if _, err := migrations.Up(t.Context(), r.dsn); err != nil {
		t.Fatal(err)
	}
	config, err := pgxpool.ParseConfig(r.dsn)
	if err != nil {
		t.Fatal(err)
	}
	config.MaxConns = 2
	if r.pool, err = pgxpool.NewWithConfig(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.pool.Close)
	if r.js, err = jetstream.New(r.nats.Connect(t), natstest.Unhurried()); err != nil {
		t.Fatal(err)
	}
	for name, subject := range map[string]string{"INTERACTION_REQUESTS": "interactions.requests.>", "INTERACTION_RESULTS": "interactions.results.>"} {
		if _, err := r.js.CreateStream(t.Context(), jetstream.StreamConfig{Name: name, Subjects: []string{subject}}); err != nil {
			t.Fatal(err)
		}
	}
	// What a dead replica had received comes again after AckWait: the shortest
	// that the worker starts with, where its own is a minute.
	if _, err := r.js.CreateConsumer(t.Context(), "INTERACTION_REQUESTS", jetstream.ConsumerConfig{
		Durable: "interaction-worker", FilterSubject: "interactions.requests.>", AckPolicy: jetstream.AckExplicitPolicy,
		AckWait: ackWait, MaxDeliver: 20, MaxAckPending: 10000}); err != nil {
		t.Fatal(err)
	}
	return r
}

// replica is one worker process.
type replica struct {
	rig  *rig
	cmd  *exec.Cmd
	log  expect.Log
	done chan struct{}
	err  error // of the process, once done is closed
}

func (r *rig) command(crashAt string, args ...string) *exec.Cmd {
	cmd := exec.Command(program, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.TempDir(),
		"DATABASE_URL=" + r.dsn, "NATS_URL=" + r.nats.URL(), "FLEX_URL=" + r.flex.URL(), "TASKROUTER_URL=" + r.flex.URL(),
		"TWILIO_ACCOUNT_SID=" + flextest.AccountSID, "TWILIO_AUTH_TOKEN=" + flextest.AuthToken,
		"FLEX_TIMEOUT=" + timeout.String(), "LOOKUP_SETTLE=" + settle.String(), "FLEX_RATE=0", "FLEX_CONCURRENCY=16",
		"RETRY_MIN_DELAY=50ms", "RETRY_MAX_DELAY=500ms", "ADMIN_ADDR=", "LOG_FORMAT=text", "GOMAXPROCS=2"}
	if crashAt != "" {
		cmd.Env = append(cmd.Env, "FLEXWORKER_CRASH_AT="+crashAt)
	}
	return cmd
}

// start runs a replica that dies at the point crashAt; "": it does not. more is
// of its environment.
func (r *rig) start(crashAt string, more ...string) *replica {
	r.t.Helper()
	w := &replica{rig: r, cmd: r.command(crashAt), done: make(chan struct{})}
	w.cmd.Env = append(w.cmd.Env, more...)
	w.cmd.Stderr = &w.log
	if err := w.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	go func() {
		defer close(w.done)
		w.err = w.cmd.Wait()
	}()
	r.t.Cleanup(func() {
		_ = w.cmd.Process.Kill() // it may have ended; a stopped one dies of it too
		<-w.done
		if r.t.Failed() {
			r.t.Logf("replica %d (%s):\n%s", w.cmd.Process.Pid, crashAt, w.log.String())
		}
	})
	return w
}

// adminToken is the ADMIN_TOKEN of replicas that have one.
const adminToken = "a-token-that-acts-000000"

var listens = regexp.MustCompile(`msg="health and metrics".* address=(\S+)`)

// admin is the address of ADMIN_ADDR, as the replica has logged it.
func (w *replica) admin() string {
	w.rig.t.Helper()
	m := listens.FindStringSubmatch(w.log.String())
	if m == nil {
		w.rig.t.Fatal("it has logged no address")
	}
	return m[1]
}

// consuming waits until the replica is at work.
func (w *replica) consuming() *replica {
	w.rig.t.Helper()
	expect.Eventually(w.rig.t, func() error { return expect.Is("consuming", strings.Contains(w.log.String(), "msg=consuming"), true) })
	return w
}

// killed waits until the replica has died of SIGKILL.
func (w *replica) killed(within time.Duration) error {
	select {
	case <-w.done:
	case <-time.After(within):
		return fmt.Errorf("it is alive after %v", within)
	}
	if status, ok := w.cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
		return fmt.Errorf("it ended by itself: %w", w.err)
	}
	return nil
}

// term asks the replica to stop and waits for its good end.
func (w *replica) term() {
	w.rig.t.Helper()
	if err := w.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		w.rig.t.Fatal(err)
	}
	select {
	case <-w.done:
		if w.err != nil {
			w.rig.t.Errorf("after SIGTERM: %v", w.err)
		}
	case <-time.After(expect.Patience):
		w.rig.t.Fatal("it does not end after SIGTERM")
	}
}

func (w *replica) signal(s syscall.Signal) {
	w.rig.t.Helper()
	if err := w.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) { // a planned crash may come first
		w.rig.t.Fatal(err)
	}
}

// name is a pattern for what the replica signs its leases with.
func (w *replica) name() string { return fmt.Sprintf("%%-%d-%%", w.cmd.Process.Pid) }

// send publishes n requests; more goes into each.
func (r *rig) send(prefix string, n int, more string) {
	r.t.Helper()
	for i := range n {
		id := fmt.Sprintf("%s-%d", prefix, i)
		r.sent[id] = true
		body := fmt.Sprintf(`{"request_id":%q,"channel":{"type":"sms","initiated_by":"api","participants":[{"address":"+15550100","proxy_address":"+15550199"}]},`+
			`"routing":{"properties":{"workspace_sid":%q,"workflow_sid":%q,"task_channel_unique_name":"sms","attributes":{"test_id":%q}}}%s}`,
			id, flextest.WorkspaceSID, flextest.WorkflowSID, id, more)
		if _, err := r.js.Publish(r.t.Context(), "interactions.requests.crm", []byte(body)); err != nil {
			r.t.Fatal(err)
		}
	}
}

func (r *rig) count(sql string, args ...any) int {
	r.t.Helper()
	return pgtest.One[int](r.t, r.pool, sql, args...)
}

func (r *rig) states() string {
	rows, err := r.pool.Query(r.t.Context(), `SELECT format('%s %s(%s, attempts %s, uncounted %s)', count(*), state, error_kind, attempt, uncounted) FROM outbox GROUP BY state, error_kind, attempt, uncounted`)
	if err != nil {
		return err.Error()
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return fmt.Sprint(strings.Join(lines, ", "), " ", err)
}

// hold shuts the gate, and release opens it, as a person would.
func (r *rig) hold()    { r.t.Helper(); r.verb("hold", "--why", "the test wants the table filled first") }
func (r *rig) release() { r.t.Helper(); r.verb("release", "--why", "it is filled") }

func (r *rig) verb(args ...string) string {
	r.t.Helper()
	out, err := r.command("", args...).CombinedOutput()
	if err != nil {
		r.t.Errorf("worker %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// fill has n requests stored, and nobody there to send them.
func (r *rig) fill(n int) {
	r.t.Helper()
	r.hold()
	w := r.start("")
	r.send("a", n, "")
	expect.Eventually(r.t, func() error { return expect.Is("stored", r.count(`SELECT count(*) FROM outbox`), n) })
	w.term()
	r.release()
}

// messages on the result stream.
func (r *rig) messages() int {
	r.t.Helper()
	s, err := r.js.Stream(r.t.Context(), "INTERACTION_RESULTS")
	if err != nil {
		r.t.Fatal(err)
	}
	return int(s.CachedInfo().State.Msgs)
}

// unacked are the requests that the stream still holds the worker to. A busy server may let one question
// wait for longer than the client's five seconds: it is asked again.
func (r *rig) unacked() (n int) {
	r.t.Helper()
	expect.Eventually(r.t, func() error {
		c, err := r.js.Consumer(r.t.Context(), "INTERACTION_REQUESTS", "interaction-worker")
		if err == nil {
			n = int(c.CachedInfo().NumPending) + c.CachedInfo().NumAckPending
		}
		return err
	})
	return n
}

// balanced waits until every request is settled and answered, and then holds
// the accounts against each other: table, result stream, Flex's ledger, audit.
// expired are those that must not have been sent.
func (r *rig) balanced(expired int) {
	t := r.t
	t.Helper()
	want := len(r.sent)
	expect.Eventually(t, func() error {
		if err := expect.Is("acked", r.unacked(), 0); err != nil {
			return err
		}
		if err := expect.Is("published", r.count(`SELECT count(*) FROM outbox WHERE published_at IS NOT NULL`), want); err != nil {
			return fmt.Errorf("%w: %s", err, r.states())
		}
		return nil
	})
	if n := r.count(`SELECT count(*) FROM outbox WHERE state = 'created'`); n != want-expired {
		t.Errorf("%d created, want %d: %s", n, want-expired, r.states())
	}
	sids := map[string]string{}
	for _, e := range r.flex.Ledger() {
		if sids[e.TestID] != "" {
			t.Errorf("%s was created twice", e.TestID)
		}
		sids[e.TestID] = e.InteractionSID
	}
	if len(sids) != want-expired {
		t.Errorf("Flex has created %d, want %d", len(sids), want-expired)
	}
	finals := r.finals()
	for id := range r.sent {
		if got := finals[id]; len(got) != 1 || got[0] != sids[id] {
			t.Errorf("%s has the results %q, and Flex created %q", id, got, sids[id])
		}
	}
	if out := r.verb("audit"); t.Failed() {
		t.Logf("worker audit:\n%s", out)
	}
}

// finals are the sids of the final results by request, "" for those without.
func (r *rig) finals() map[string][]string {
	r.t.Helper()
	return r.published(func(outcome string) bool { return !slices.Contains([]string{"uncertain", "confirmed"}, outcome) })
}

// published are the sids of the results with these outcomes by request, "" for those without.
func (r *rig) published(outcomes func(string) bool) map[string][]string {
	r.t.Helper()
	var mu sync.Mutex
	all, n := map[string][]string{}, 0
	c, err := r.js.OrderedConsumer(r.t.Context(), "INTERACTION_RESULTS", jetstream.OrderedConsumerConfig{})
	if err != nil {
		r.t.Fatal(err)
	}
	consuming, err := c.Consume(func(m jetstream.Msg) {
		var body struct {
			RequestID      string `json:"request_id"`
			Outcome        string `json:"outcome"`
			InteractionSID string `json:"interaction_sid"`
		}
		err := json.Unmarshal(m.Data(), &body)
		mu.Lock()
		defer mu.Unlock()
		if n++; err != nil {
			all["unreadable"] = append(all["unreadable"], err.Error())
		} else if outcomes(body.Outcome) {
			all[body.RequestID] = append(all[body.RequestID], body.InteractionSID)
		}
	})
	if err != nil {
		r.t.Fatal(err)
	}
	defer consuming.Stop()
	want := r.messages()
	expect.Eventually(r.t, func() error { mu.Lock(); defer mu.Unlock(); return expect.Is("results are missing", max(want-n, 0), 0) }) // more may come meanwhile
	mu.Lock()
	defer mu.Unlock()
	return all
}
