package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"flexworker/internal/testing/expect"
)

// metric is the present value of one series on /metrics.
func metric(address, series string) (float64, error) {
	response, err := http.Get("http://" + address + "/metrics")
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	lines := bufio.NewScanner(response.Body)
	for lines.Scan() {
		if value, ok := strings.CutPrefix(lines.Text(), series+" "); ok {
			return strconv.ParseFloat(value, 64)
		}
	}
	return 0, fmt.Errorf("no series %s: %w", series, lines.Err())
}

// commandTo starts a worker whose standard error is w.
func (r *rig) commandTo(w *os.File, env []string) *child {
	r.t.Helper()
	c := &child{rig: r, cmd: exec.Command(os.Args[0]), done: make(chan struct{})}
	for _, e := range env {
		if address, ok := strings.CutPrefix(e, "ADMIN_ADDR="); ok {
			c.address = address
		}
	}
	c.cmd.Env, c.cmd.Stdout, c.cmd.Stderr = prompt(env), &c.out, w
	if err := c.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	if err := w.Close(); err != nil { // the child has its own
		r.t.Fatal(err)
	}
	go func() { c.err = c.cmd.Wait(); close(c.done) }()
	r.t.Cleanup(func() { _ = c.cmd.Process.Kill(); <-c.done })
	return c
}

// pipe gives a new pipe; the test's end closes its reader.
func pipe(t *testing.T) (reader, writer *os.File) {
	t.Helper()
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = reader.Close() }) // it may be closed already
	return reader, writer
}

// goesOn sends 1,500 requests, wants each created, lines counted as dropped, and an end in order.
func goesOn(t *testing.T, r *rig, c *child) {
	t.Helper()
	const requests = 1500
	r.says(c.address, "ok", 200)
	r.send("heard", 0, requests)
	expect.Eventually(t, func() error { return expect.Is("created", r.flex.Calls().Created, requests) })
	expect.Eventually(t, func() error {
		return expect.Is("published", r.count(`SELECT count(*) FROM outbox WHERE state = 'created' AND published_at IS NOT NULL`), requests)
	})
	expect.Eventually(t, func() error {
		if n, err := metric(c.address, "flexworker_log_lines_dropped_total"); err != nil || n == 0 {
			return fmt.Errorf("%v lines dropped, %w", n, err)
		}
		return nil
	})
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if status := c.exit(); status != 0 {
		t.Errorf("SIGTERM: status %d, %v", status, c.err)
	}
}

// TestNobodyReadsTheLog: a full pipe stops no request, and no end of the process.
func TestNobodyReadsTheLog(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	_, w := pipe(t)
	goesOn(t, r, r.commandTo(w, r.environment()))
}

// TestReaderOfTheLogEnds: a log pipe whose reader has gone stops no request, and does not end the worker.
func TestReaderOfTheLogEnds(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	read, w := pipe(t)
	c := r.commandTo(w, r.environment())
	if _, err := io.ReadFull(read, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	if err := read.Close(); err != nil {
		t.Fatal(err)
	}
	goesOn(t, r, c)
}

// TestFaultWithoutAReader: a worker that cannot start ends as soon with a pipe that nobody reads.
func TestFaultWithoutAReader(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	_, w := pipe(t)
	fd := int(w.Fd()) // asking for it makes it blocking
	if err := syscall.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	for full := false; !full; { // with single bytes, so that nothing more fits
		_, err := syscall.Write(fd, []byte("x"))
		full = errors.Is(err, syscall.EAGAIN)
	}
	if err := syscall.SetNonblock(fd, false); err != nil {
		t.Fatal(err)
	}
	c := r.commandTo(w, r.environment("FLEX_TIMEOUT=soon"))
	if status := c.exit(); status != 2 { // as for every fault of the settings
		t.Errorf("status %d, %v", status, c.err)
	}
}

// TestListIntoHead: a verb whose reader has read enough ends by SIGPIPE, as every filter does, without a word.
func TestListIntoHead(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	read, w := pipe(t)
	if err := read.Close(); err != nil {
		t.Fatal(err)
	}
	var errs bytes.Buffer
	cmd := exec.Command(os.Args[0], "config")
	cmd.Env, cmd.Stdout, cmd.Stderr = prompt(r.environment()), w, &errs
	err := cmd.Run()
	if cerr := w.Close(); cerr != nil {
		t.Fatal(cerr)
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGPIPE || errs.Len() > 0 {
		t.Errorf("it ended with %v and wrote %q", err, errs.String())
	}
}

// slowPipe is a writer that waits until it is opened, and then keeps what it is given.
type slowPipe struct {
	open    chan struct{}
	entered chan struct{} // gets one when a write waits for the first time
	once    sync.Once

	mu   sync.Mutex
	text bytes.Buffer
	fail error
}

func (g *slowPipe) Write(p []byte) (int, error) {
	g.once.Do(func() { close(g.entered) })
	<-g.open
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.fail != nil {
		return 0, g.fail
	}
	return g.text.Write(p)
}

var tellsDropped = regexp.MustCompile(`msg="log lines were dropped: standard error did not take them" lines=(\d+)`)

// TestLogBufferCounts: each line is written whole or counted, in order, and the log says how many are missing.
func TestLogBufferCounts(t *testing.T) {
	t.Parallel()
	for name, length := range map[string]int{"many lines": 10, "long lines": 2000} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out := &slowPipe{open: make(chan struct{}), entered: make(chan struct{})}
			b := newLogBuffer(out, "info", "text")
			const lines = 5000
			for i := range lines {
				if _, err := fmt.Fprintf(b, "%d %s\n", i, strings.Repeat("x", length)); err != nil {
					t.Fatal(err)
				}
				if i == 0 {
					<-out.entered
				}
			}
			dropped := b.Dropped()
			if dropped == 0 || dropped == lines {
				t.Errorf("%d of %d dropped", dropped, lines)
			}
			if kept := (lines - dropped) * int64(length); kept > logBytes+int64(length) {
				t.Errorf("%d bytes are kept", kept)
			}
			close(out.open)
			b.Close()
			written, last, told := int64(0), -1, int64(0)
			for line := range strings.Lines(out.text.String()) {
				if m := tellsDropped.FindStringSubmatch(line); m != nil {
					n, err := strconv.ParseInt(m[1], 10, 64)
					if err != nil {
						t.Fatal(err)
					}
					told += n
					continue
				}
				number, rest, _ := strings.Cut(line, " ")
				i, err := strconv.Atoi(number)
				if err != nil || i <= last || len(rest) != length+1 {
					t.Fatalf("after line %d: %q", last, line)
				}
				last = i
				written++
			}
			if written+dropped != lines || told != dropped || b.Dropped() != dropped {
				t.Errorf("%d written, %d dropped, %d told of, of %d", written, dropped, told, lines)
			}
		})
	}
}

// TestLogBufferRefused: what standard error refuses is counted, and nothing else happens.
func TestLogBufferRefused(t *testing.T) {
	t.Parallel()
	out := &slowPipe{open: make(chan struct{}), entered: make(chan struct{}), fail: syscall.EBADF}
	close(out.open)
	b := newLogBuffer(out, "info", "json")
	log := newLog(b, "info", "json")
	for range 10 {
		log.Info("x")
	}
	b.Close()
	if n := b.Dropped(); n != 10 {
		t.Errorf("%d dropped, want 10", n)
	}
	log.Info("after the end")
	if n := b.Dropped(); n != 11 {
		t.Errorf("%d dropped, want 11", n)
	}
}
