package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
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
	// kept is for how many calls the endpoint keeps what they carried, and for twice as many the event log: for longer than
	// any lookup asks, and not for a million.
	kept = 200_000
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
	beside   *beside
	reading  sync.Mutex // of the ledger
	verified int        // decisions of the person for which TaskRouter was asked
	samples  []sample

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
	// fsync is on. Six replicas want 84 connections.
	if w.postgres, err = pgtest.Start(ctx, pgtest.Options{Settings: map[string]string{"max_connections": "150"}}); err != nil {
		return nil, err
	}
	if w.queue, err = startQueue(filepath.Join(w.folder, "nats")); err != nil {
		return nil, err
	}
	port, err := faultproxy.FreePort()
	if err != nil {
		return nil, err
	}
	w.flex, err = flextest.Start(flextest.Config{Addr: fmt.Sprintf("127.0.0.1:%d", port), Seed: o.seed, Keep: kept,
		Settings: usual, TaskRouter: flextest.TaskRouter{Lag: lag, EventLag: lag}})
	if err != nil {
		return nil, err
	}
	if err := w.connect(ctx); err != nil {
		return nil, err
	}
	if w.beside, err = startBeside(ctx, w.stream, o.seed); err != nil {
		return nil, err
	}
	for n := range places {
		if err := w.addReplica(n); err != nil {
			return nil, err
		}
	}
	if err := w.scale(o.replicas); err != nil {
		return nil, err
	}
	limit, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	for _, r := range w.fleet() {
		for r.log.consuming() == 0 {
			if !rest(limit, 50*time.Millisecond) {
				return nil, fmt.Errorf("replica %d does not consume; its last words:\n%s", r.number, r.log.last())
			}
		}
	}
	return w, nil
}

// usual is how the endpoint behaves when nothing strikes it. The set-up of one in five of what it creates goes wrong.
var usual = flextest.Settings{Latency: 20 * time.Millisecond, Drip: 500 * time.Millisecond,
	SetupFates: flextest.SetupFates{ChannelFailed: .05, NoCustomer: .05, TaskCanceled: .05, Stuck: .05}}

func (w *world) connect(ctx context.Context) (err error) {
	config, err := pgxpool.ParseConfig(w.postgres.DSN("postgres"))
	if err != nil {
		return err
	}
	config.ConnConfig.RuntimeParams["application_name"] = "soak"
	config.ConnConfig.RuntimeParams["enable_seqscan"] = "off" // the backlog is counted each second, beside a million rows
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

// addReplica makes the n-th place: a proxy between its worker and each server, and the same for the plain consumer.
func (w *world) addReplica(n int) error {
	r := &replica{number: n + 1, program: w.program, book: w.book, log: &logFile{path: filepath.Join(w.folder, fmt.Sprintf("worker-%d.log", n+1))}}
	w.replicas = append(w.replicas, r)
	var err error
	if r.proxies, err = ways(map[string]string{"postgres": w.postgres.Addr(), "nats": w.queue.addr(), "flex": w.flex.Addr()}); err != nil {
		return err
	}
	dsn, err := url.Parse(w.postgres.DSN("postgres"))
	if err != nil {
		return err
	}
	dsn.Host, r.admin = r.proxies["postgres"].Addr(), "127.0.0.1:0"
	if n == 0 { // its metrics are read; a port that is free for a while may be another program's afterwards
		port, err := faultproxy.FreePort()
		if err != nil {
			return err
		}
		r.admin = fmt.Sprintf("127.0.0.1:%d", port)
	}
	r.env = environment(dsn.String(), r.proxies["nats"].Addr(), r.proxies["flex"].Addr(), r.admin)
	r.beside, err = w.beside.place(n+1, w.queue.addr(), w.folder)
	return err
}

// ways are proxies to servers.
func ways(to map[string]string) (map[string]*faultproxy.Proxy, error) {
	all := map[string]*faultproxy.Proxy{}
	for name, target := range to {
		p, err := faultproxy.Start(target)
		if err != nil {
			return all, err
		}
		all[name] = p
	}
	return all, nil
}

// environment is a worker's. Nothing of the soak's own environment reaches it
// but where programs are.
func environment(dsn, queue, endpoint, admin string) []string {
	return []string{
		"PATH=" + os.Getenv("PATH"), "DATABASE_URL=" + dsn, "NATS_URL=nats://" + queue, "CREATE_STREAMS=true",
		"FLEX_URL=http://" + endpoint, "TASKROUTER_URL=http://" + endpoint,
		"TWILIO_ACCOUNT_SID=" + flextest.AccountSID, "TWILIO_AUTH_TOKEN=" + flextest.AuthToken,
		"FLEX_RATE=0", "FLEX_CONCURRENCY=16", "FLEX_TIMEOUT=" + callLimit.String(), "LOOKUP_SETTLE=" + settle.String(),
		"RETRY_MIN_DELAY=100ms", "RETRY_MAX_DELAY=2s", "RETRY_MAX_ATTEMPTS=1000", "SHUTDOWN_GRACE=8s",
		"CONFIRM=true", "CONFIRM_RATE=10000", "ADMIN_ADDR=" + admin,
	}
}

// operator runs one of the operators' verbs and returns what it printed.
func (w *world) operator(ctx context.Context, args ...string) (out, said string, err error) {
	limit := 2 * time.Minute
	if args[0] == "audit" { // reads everything
		limit = time.Hour
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, w.program, args...)
	cmd.Env = environment(w.postgres.DSN("postgres"), w.queue.addr(), w.flex.Addr(), "127.0.0.1:0")
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
	endReplicas(w.replicas, syscall.SIGTERM)
	for _, r := range w.replicas {
		_ = r.both(func(r *replica) error {
			for _, p := range r.proxies {
				p.Close()
			}
			return nil
		})
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
	if w.beside != nil {
		w.beside.flex.Close()
	}
	if w.queue != nil {
		_ = w.queue.end(0) // its folder goes with ours
	}
	if w.postgres != nil {
		_ = w.postgres.Stop() // its folder is temporary
	}
	if clean {
		_ = os.RemoveAll(w.folder)
	} else if w.folder != "" {
		_ = os.RemoveAll(filepath.Join(w.folder, "nats"))
		w.board.say("the logs stay in %s", w.folder)
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
