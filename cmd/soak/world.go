package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"flexworker/internal/testing/faultproxy"
	"flexworker/internal/testing/flextest"
	"flexworker/internal/testing/pgtest"
)

// How long things take here, so that the soak meets in minutes what production
// meets in months. settle is more than lag, by more than a late call can be late.
const (
	callLimit = 2 * time.Second
	settle    = 6 * time.Second
	lag       = time.Second // of TaskRouter, usually; never above maxLag
	maxLag    = 2500 * time.Millisecond
)

// world is everything that runs.
type world struct {
	options
	board    *board
	book     *book
	folder   string
	program  string
	postgres *pgtest.Server
	queue    *queue
	flex     *flextest.Server
	replicas []*replica
	verified int // decisions of the person for which TaskRouter was asked

	// The soak's own connections go past the proxies.
	pool   *pgxpool.Pool
	conn   *nats.Conn
	stream jetstream.JetStream
}

// start brings everything up; after an error nothing is left running.
func start(ctx context.Context, o options, b *board) (_ *world, err error) {
	w := &world{options: o, board: b, book: newBook()}
	defer func() {
		if err != nil {
			w.stop(false)
		}
	}()
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	w.program = filepath.Join(filepath.Dir(self), "worker")
	if w.folder, err = os.MkdirTemp("", "flexworker-soak-"); err != nil {
		return nil, err
	}
	if w.postgres, err = pgtest.Start(ctx, pgtest.Options{}); err != nil { // fsync is on
		return nil, err
	}
	if w.queue, err = startQueue(filepath.Join(w.folder, "nats")); err != nil {
		return nil, err
	}
	port, err := faultproxy.FreePort()
	if err != nil {
		return nil, err
	}
	w.flex, err = flextest.Start(flextest.Config{Addr: fmt.Sprintf("127.0.0.1:%d", port), Seed: o.seed,
		Settings: usual, TaskRouter: flextest.TaskRouter{Lag: lag, EventLag: lag}})
	if err != nil {
		return nil, err
	}
	if err := w.connect(ctx); err != nil {
		return nil, err
	}
	for n := range o.replicas {
		if err := w.addReplica(n); err != nil {
			return nil, err
		}
	}
	limit, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	for _, r := range w.replicas {
		for r.log.consuming() == 0 {
			if !rest(limit, 50*time.Millisecond) {
				return nil, fmt.Errorf("replica %d does not consume; its last words:\n%s", r.number, r.log.last())
			}
		}
	}
	return w, nil
}

// usual is how the endpoint behaves when nothing strikes it.
var usual = flextest.Settings{Latency: 20 * time.Millisecond, Drip: 500 * time.Millisecond}

func (w *world) connect(ctx context.Context) (err error) {
	config, err := pgxpool.ParseConfig(w.postgres.DSN("postgres"))
	if err != nil {
		return err
	}
	config.ConnConfig.RuntimeParams["application_name"] = "soak"
	if w.pool, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		return err
	}
	w.conn, err = nats.Connect("nats://"+w.queue.addr(), nats.MaxReconnects(-1), nats.ReconnectWait(200*time.Millisecond),
		nats.ReconnectBufSize(-1), nats.PingInterval(5*time.Second))
	if err != nil {
		return err
	}
	if w.stream, err = jetstream.New(w.conn); err != nil {
		return err
	}
	// The senders repeat what was not acknowledged under the same message id: the stream
	// has to drop it when it was stored all the same, or nobody knows its sequence. The
	// window of a stream that the worker makes is too short for that.
	_, err = w.stream.CreateStream(ctx, jetstream.StreamConfig{Name: "INTERACTION_REQUESTS", Subjects: []string{"interactions.requests.>"},
		Duplicates: 10 * time.Minute, MaxAge: 24 * time.Hour})
	return err
}

// addReplica puts a proxy between the new replica and each server, and starts it.
func (w *world) addReplica(n int) error {
	r := &replica{number: n, program: w.program, book: w.book, proxies: map[string]*faultproxy.Proxy{},
		log: &logFile{path: filepath.Join(w.folder, fmt.Sprintf("worker-%d.log", n))}}
	w.replicas = append(w.replicas, r)
	for name, target := range map[string]string{"postgres": w.postgres.Addr(), "nats": w.queue.addr(), "flex": w.flex.Addr()} {
		p, err := faultproxy.Start(target)
		if err != nil {
			return err
		}
		r.proxies[name] = p
	}
	dsn, err := url.Parse(w.postgres.DSN("postgres"))
	if err != nil {
		return err
	}
	dsn.Host = r.proxies["postgres"].Addr()
	r.env = environment(dsn.String(), r.proxies["nats"].Addr(), r.proxies["flex"].Addr())
	return r.start()
}

// environment is a worker's. Nothing of the soak's own environment reaches it
// but where programs are.
func environment(dsn, queue, endpoint string) []string {
	return []string{
		"PATH=" + os.Getenv("PATH"), "DATABASE_URL=" + dsn, "NATS_URL=nats://" + queue, "CREATE_STREAMS=true",
		"FLEX_URL=http://" + endpoint, "TASKROUTER_URL=http://" + endpoint,
		"TWILIO_ACCOUNT_SID=" + flextest.AccountSID, "TWILIO_AUTH_TOKEN=" + flextest.AuthToken,
		"FLEX_RATE=0", "FLEX_CONCURRENCY=16", "FLEX_TIMEOUT=" + callLimit.String(), "LOOKUP_SETTLE=" + settle.String(),
		"RETRY_MIN_DELAY=100ms", "RETRY_MAX_DELAY=2s", "RETRY_MAX_ATTEMPTS=1000", "SHUTDOWN_GRACE=8s",
		"ADMIN_ADDR=127.0.0.1:0",
	}
}

// operator runs one of the operators' verbs and returns what it printed.
func (w *world) operator(ctx context.Context, args ...string) (out, said string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, w.program, args...) //nolint:gosec // the worker beside this program
	cmd.Env = environment(w.postgres.DSN("postgres"), w.queue.addr(), w.flex.Addr())
	text, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		said = string(exit.Stderr)
	}
	return string(text), said, err
}

// stop ends the replicas in order, then the servers, and removes the folder of
// a run in which all was well.
func (w *world) stop(clean bool) {
	w.endReplicas(syscall.SIGTERM)
	for _, r := range w.replicas {
		for _, p := range r.proxies {
			p.Close()
		}
	}
	if w.pool != nil {
		w.pool.Close()
	}
	if w.conn != nil {
		w.conn.Close()
	}
	if w.flex != nil {
		w.flex.Close()
	}
	if w.queue != nil {
		_ = w.queue.end(0) // its folder goes with ours
	}
	if w.postgres != nil {
		_ = w.postgres.Stop() // its folder is temporary
	}
	if clean {
		_ = os.RemoveAll(w.folder) //nolint:gosec // our own temporary folder
	} else if w.folder != "" {
		_ = os.RemoveAll(filepath.Join(w.folder, "nats")) //nolint:gosec // the same
		w.board.say("the logs stay in %s", w.folder)
	}
}

// endReplicas ends all of them at once; those that have ended stay so.
func (w *world) endReplicas(how syscall.Signal) {
	done := make(chan struct{})
	for _, r := range w.replicas {
		go func() {
			defer func() { done <- struct{}{} }()
			_ = r.end(how) // what went wrong is in the book
		}()
	}
	for range w.replicas {
		<-done
	}
}

// rest waits; false when ctx ended first.
func rest(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
