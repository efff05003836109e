package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"flexworker/internal/testing/faultproxy"
	"flexworker/internal/testing/flextest"
	"flexworker/internal/testing/natstest"
	"flexworker/internal/testing/pgtest"
)

const replicas = 2

// world is everything that runs: three servers and the workers.
type world struct {
	door     door
	folder   string
	nats     *natstest.Server
	postgres *pgtest.Server
	flex     *flextest.Server // nil when Flex itself is used
	workers  []*exec.Cmd
	log      *os.File
	conn     *nats.Conn
	stream   jetstream.JetStream
	pool     *pgxpool.Pool
	killed   *exec.Cmd // the worker that was killed on purpose
	keep     bool      // the folder, whose log says what failed
}

// A door is where people find the page, and what lets them in.
type door struct {
	token string
	ports [replicas]int // of each replica
}

func newDoor() (d door, err error) {
	d.token = "demo-" + rand.Text()
	for i := range d.ports {
		if d.ports[i], err = faultproxy.FreePort(); err != nil {
			return d, err
		}
	}
	return d, nil
}

// page is the address of the replica that is not killed.
func (d door) page() string { return "http://" + d.address(replicas-1) + "/" }

func (d door) address(replica int) string { return fmt.Sprintf("127.0.0.1:%d", d.ports[replica]) }

// start brings everything up. After an error nothing is left running.
func start(ctx context.Context, real bool, d door) (_ *world, err error) {
	w := &world{door: d}
	defer func() {
		if err != nil {
			w.stop()
		}
	}()
	if w.folder, err = os.MkdirTemp("", "flexworker-demo-"); err != nil {
		return nil, err
	}
	if err = w.step("Postgres (private, in a temporary folder)", func() (err error) {
		w.postgres, err = pgtest.Start(ctx, pgtest.Options{})
		return err
	}); err != nil {
		return nil, err
	}
	if err = w.step("NATS with JetStream (in this process)", func() (err error) {
		w.nats, err = natstest.Start(natstest.Options{SyncAlways: true})
		return err
	}); err != nil {
		return nil, err
	}
	if !real {
		if err = w.step("Flex and TaskRouter (a strict imitation)", func() (err error) {
			w.flex, err = flextest.Start(flextest.Config{Settings: flextest.Settings{Latency: 150 * time.Millisecond}})
			return err
		}); err != nil {
			return nil, err
		}
	}
	if err = w.step(fmt.Sprintf("%d replicas of the worker", replicas), func() error { return w.startWorkers(ctx) }); err != nil {
		return nil, w.failed(ctx, err)
	}
	return w, nil
}

// step shows what is started and how long that took.
func (w *world) step(what string, do func() error) error {
	begun := time.Now()
	fmt.Printf("starting %-45s ", what)
	if err := do(); err != nil {
		fmt.Println("failed")
		return err
	}
	fmt.Printf("%4d ms\n", time.Since(begun).Milliseconds())
	return nil
}

// startWorkers runs the program that production runs, as processes, and waits
// until each is consuming.
func (w *world) startWorkers(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	program := filepath.Join(filepath.Dir(self), "worker")
	if w.log, err = os.Create(filepath.Join(w.folder, "workers.log")); err != nil {
		return err
	}
	for i := range replicas {
		cmd := exec.CommandContext(context.WithoutCancel(ctx), program) // stop ends it in order
		cmd.Env, cmd.Stdout, cmd.Stderr = w.environment(i), w.log, w.log
		// Of an interrupt typed at a terminal it hears from us: a second signal would end it at once.
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := cmd.Start(); err != nil {
			return fmt.Errorf("%w (make builds it beside the demo)", err)
		}
		w.workers = append(w.workers, cmd)
	}
	if w.conn, err = nats.Connect(w.nats.URL()); err != nil {
		return err
	}
	if w.stream, err = jetstream.New(w.conn); err != nil {
		return err
	}
	if w.pool, err = pgxpool.New(ctx, w.postgres.DSN("postgres")); err != nil {
		return err
	}
	return w.eventually(ctx, 20*time.Second, func() error {
		text, err := os.ReadFile(w.logPath())
		if n := strings.Count(string(text), `"msg":"consuming"`); err == nil && n < replicas {
			err = fmt.Errorf("%d of %d workers are consuming", n, replicas)
		}
		return err
	})
}

// environment is that of a replica: what this process has, without settings of its
// own for the worker, and where the servers are.
func (w *world) environment(replica int) []string {
	env := []string{
		"DATABASE_URL=" + w.postgres.DSN("postgres"), "NATS_URL=" + w.nats.URL(), "CREATE_STREAMS=true",
		"ADMIN_ADDR=" + w.door.address(replica), "ADMIN_TOKEN=" + w.door.token, "RETRY_MIN_DELAY=500ms", "FLEX_RATE=10", "SHUTDOWN_GRACE=5s",
		"FLEX_TIMEOUT=3s", "LOOKUP_SETTLE=3s", // a demo should not take as long as real doubts do
	}
	if w.flex != nil {
		env = append(env, "FLEX_URL="+w.flex.URL(), "TASKROUTER_URL="+w.flex.URL(),
			"TWILIO_ACCOUNT_SID="+flextest.AccountSID, "TWILIO_AUTH_TOKEN="+flextest.AuthToken)
		return append(env, "PATH="+os.Getenv("PATH"))
	}
	for _, name := range []string{"PATH", "HTTPS_PROXY", "NO_PROXY", "TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN", "TWILIO_API_KEY", "TWILIO_API_SECRET"} {
		if v, ok := os.LookupEnv(name); ok && v != "" {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// eventually repeats check until it passes; after limit its last error is returned.
func (w *world) eventually(ctx context.Context, limit time.Duration, check func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}

// failed is an error of the demo together with the place of the workers' log, which stays. After an interrupt nothing stays.
func (w *world) failed(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return errors.New("interrupted: everything is stopped and removed")
	}
	w.keep = true
	return fmt.Errorf("%w\nthe workers' log is %s", err, w.logPath())
}

func (w *world) logPath() string { return filepath.Join(w.folder, "workers.log") }

// stop ends the workers in order, then the servers, and removes the folder
// unless something went wrong with a worker.
func (w *world) stop() {
	clean := true
	for _, cmd := range w.workers {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended by itself
	}
	for _, cmd := range w.workers {
		if cmd == w.killed {
			continue
		}
		if err := cmd.Wait(); err != nil {
			clean = false
			fmt.Fprintln(os.Stderr, "a worker ended with", err, "- its log is", w.logPath())
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
	for _, s := range []interface{ Stop() error }{w.nats, w.postgres} {
		switch s := s.(type) {
		case *natstest.Server:
			if s != nil {
				_ = s.Stop() // its folder is temporary
			}
		case *pgtest.Server:
			if s != nil {
				_ = s.Stop()
			}
		}
	}
	if w.log != nil {
		_ = w.log.Close()
	}
	if clean && !w.keep {
		_ = os.RemoveAll(w.folder)
	}
}
