package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"flexworker/internal/testing/expect"
)

// child is a worker in a process of its own: this test binary, the plain worker or the rig's program.
type child struct {
	rig     *rig
	cmd     *exec.Cmd
	address string // ADMIN_ADDR
	out     bytes.Buffer
	log     expect.Log
	done    chan struct{}
	err     error // of the process, once done is closed
}

// plainWorker is the worker without the tests and without the race detector, built once. A process of the plain worker starts in
// half of the time that the test binary needs, and in a fifth of the time with the race detector.
func plainWorker(t *testing.T) string {
	t.Helper()
	program, err := buildPlain()
	if err != nil {
		t.Fatal(err)
	}
	return program
}

var buildPlain = sync.OnceValues(func() (string, error) {
	program := filepath.Join(folder, "worker")
	out, err := exec.Command("go", "build", "-buildvcs=false", "-o", program, ".").CombinedOutput()
	if err != nil {
		err = fmt.Errorf("go build: %w\n%s", err, out)
	}
	return program, err
})

// environment is what a replica of this rig is started with, as a process.
func (r *rig) environment(more ...string) []string {
	cfg := r.config()
	env := []string{"FLEXWORKER_TEST_CHILD=1", "PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "TMPDIR=" + os.TempDir(),
		"DATABASE_URL=" + r.dsn, "NATS_URL=" + string(cfg.NATSURL), "FLEX_URL=" + cfg.FlexURL, "TASKROUTER_URL=" + cfg.TaskRouterURL,
		"TWILIO_ACCOUNT_SID=" + string(cfg.TwilioAccountSID), "TWILIO_AUTH_TOKEN=" + cfg.TwilioAuthToken.Value(),
		"FLEX_TIMEOUT=2s", "FLEX_RATE=0", "RETRY_MIN_DELAY=50ms", "RETRY_MAX_DELAY=500ms", "LOOKUP_SETTLE=1s",
		"ADMIN_ADDR=" + cfg.AdminAddr, "LOG_LEVEL=info"}
	return append(env, more...)
}

// prompt is the environment of a process that ends at once. With the race detector every process
// sleeps for a second at its end, unless told otherwise.
// A race is reported when it is found, so none is missed while the process works.
func prompt(env []string) []string { return slices.Concat(env, []string{"GORACE=atexit_sleep_ms=0"}) }

// command starts a process with this environment; the test's end kills it. A worker that serves is this test binary, so that the
// race detector sees it. Any other command is the plain worker's.
func (r *rig) command(env []string, args ...string) *child {
	r.t.Helper()
	program := r.program
	switch {
	case program != "":
	case serves(args):
		program = os.Args[0]
	default:
		program = plainWorker(r.t)
	}
	return r.commandOf(env, exec.Command(program, args...))
}

// commandOf is command with a process of the caller's, which may have said where it writes.
func (r *rig) commandOf(env []string, process *exec.Cmd) *child {
	r.t.Helper()
	c := &child{rig: r, cmd: process, done: make(chan struct{})}
	for _, e := range env {
		if address, ok := strings.CutPrefix(e, "ADMIN_ADDR="); ok {
			c.address = address
		}
	}
	c.cmd.Env = prompt(env)
	if c.cmd.Stdout == nil {
		c.cmd.Stdout, c.cmd.Stderr = &c.out, &c.log
	}
	if err := c.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	go func() { c.err = c.cmd.Wait(); close(c.done) }()
	r.t.Cleanup(func() {
		_ = c.cmd.Process.Kill() // it may be gone
		<-c.done
		if r.t.Failed() {
			log := c.log.String()
			r.t.Logf("worker %d wrote:\n%s", c.cmd.Process.Pid, log[max(0, len(log)-4000):])
		}
	})
	return c
}

// exit waits for the process to end and returns its status.
func (c *child) exit() int {
	c.rig.t.Helper()
	select {
	case <-c.done:
	case <-time.After(expect.Patience):
		c.rig.t.Fatal("the process does not end")
	}
	var status *exec.ExitError
	if errors.As(c.err, &status) {
		return status.ExitCode()
	}
	if c.err != nil {
		c.rig.t.Fatal(c.err)
	}
	return 0
}

// TestCommands: what a person types, as he types it.
func TestCommands(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	env := r.environment()
	bare := []string{"FLEXWORKER_TEST_CHILD=1"}
	serving := r.command(env, "run")
	r.says(serving.address, "ok", 200)
	file := t.TempDir() + "/events"
	if err := os.WriteFile(file, append(append(requestOf("sent-1"), "\n\n"...), requestOf("sent-2")...), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		env    []string
		args   string
		status int
		want   string // in what it writes, to either side
	}{
		{bare, "version", 0, "flexworker development\n"},
		{bare, "--help", 0, "Available Commands:"},
		{bare, "migrate --help", 0, "Bring the schema up to date"},
		{bare, "nonsense", 2, `worker: unknown command "nonsense" for "worker"`},
		{bare, "run now", 2, `worker run takes no arguments, and "now" is one`},
		{bare, "", 2, "worker: the settings have faults:\nDATABASE_URL is required"},
		{bare, "config", 2, "DATABASE_URL is required"},
		{bare, "migrate up", 2, "worker: DATABASE_URL is required"},
		{env, "config", 0, "FLEX_TIMEOUT"},
		{env, "config --json", 0, `"name": "FLEX_TIMEOUT",`},
		{bare, "config --json", 2, `"DATABASE_URL is required`},
		{bare, "version --json", 0, `"version": "development"`},
		{env, "migrate status --json", 0, `"name": "0001_outbox.sql"`},
		{env, "migrate up --json", 0, `"taken": 0`},
		{env, "healthcheck --json", 0, `"healthy": true`},
		{env, "migrate status", 0, "applied  0001_outbox.sql\n"},
		{env, "migrate up", 0, "migrations taken: 0; the schema is up to date\n"},
		{env, "migrate down", 1, "this takes 0007_views.sql back; it drops no table and no row; say --yes if you mean it"},
		{env, "healthcheck", 0, ""},
		{env, "healthcheck --ready", 0, ""},
		{append(env, "ADMIN_ADDR="), "healthcheck", 0, "ADMIN_ADDR is empty: this worker serves no health"},
		{append(env, "ADMIN_ADDR="), "healthcheck --ready", 0, "ADMIN_ADDR is empty: this worker serves no health"},
		{append(env, "HTTP_PROXY=http://192.0.2.1:3128"), "healthcheck", 0, ""},
		{append(env, "ADMIN_ADDR=127.0.0.1:1"), "healthcheck", 3, "connection refused"},
		{append(env, "ADMIN_ADDR=8080"), "healthcheck", 2, "ADMIN_ADDR=8080 must be host:port or :port"},
		{env, "send " + file + "-not", 2, "no such file"},
		{env, "send --source a..b " + file, 2, "--source a..b: letters, digits"},
		{env, "send --wait 30s " + file, 0, `"request_id":"sent-2","outcome":"created"`},
		{env, "send " + file, 0, "sent: 2\n"},
	} {
		status, out, errs := r.process(c.env, strings.Fields(c.args)...)
		if status != c.status || !strings.Contains(out+errs, c.want) {
			t.Errorf("worker %s: status %d\n%s%s\nwant %d and %q", c.args, status, out, errs, c.status, c.want)
		}
		if strings.Contains(out+errs, "not-a-real-token") {
			t.Errorf("worker %s shows a secret:\n%s%s", c.args, out, errs)
		}
	}
	if n := len(r.flex.Ledger()); n != 2 {
		t.Errorf("%d interactions, want 2", n)
	}
	stopped(t, serving)
	if status, _, errs := r.try(env, "migrate", "down", "--yes"); status != 0 {
		t.Errorf("migrate down: %d %s", status, errs)
	}
	if _, out, _ := r.try(env, "migrate", "status"); !strings.Contains(out, "missing ") {
		t.Errorf("after a step down:\n%s", out)
	}
	for _, warned := range []string{"0006_minutes.sql back and drops outbox_counted and outbox_minutes with", "0005_acts.sql back and drops outbox_idempotency_keys and outbox_acts with",
		"0004_messages.sql back and drops outbox_repeats and outbox_malformed with"} {
		if status, _, errs := r.try(env, "migrate", "down"); status != 1 || !strings.Contains(errs, warned) {
			t.Errorf("migrate down: %d %s, want %s", status, errs, warned)
		}
		if status, _, errs := r.try(env, "migrate", "down", "--yes"); status != 0 {
			t.Errorf("migrate down: %d %s", status, errs)
		}
	}
	if status, out, errs := r.try(env, "migrate", "up"); status != 0 || out != "migrations taken: 4; the schema is up to date\n" {
		t.Errorf("migrate up: %d %s %s", status, out, errs)
	}
}

// stopped ends a worker in order.
func stopped(t *testing.T, c *child) {
	t.Helper()
	if err := c.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if status := c.exit(); status != 0 {
		t.Errorf("SIGINT: status %d", status)
	}
}
