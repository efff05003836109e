package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"flexworker/internal/testing/faultproxy"
	"flexworker/internal/testing/flextest"
)

// process is a worker or a loop that runs.
type process struct {
	cmd   *exec.Cmd
	log   *os.File
	admin string // address of its health page; "": none
	began time.Time
}

// worker starts one replica against dsn. Its log goes to a file: a line an
// attempt, as in production.
func (w *world) worker(ctx context.Context, dsn string, settings ...string) (*process, error) {
	port, err := faultproxy.FreePort()
	if err != nil {
		return nil, err
	}
	admin := fmt.Sprintf("127.0.0.1:%d", port)
	env := append([]string{
		"DATABASE_URL=" + dsn, "NATS_URL=" + w.natsURL(), "FLEX_URL=" + w.flex.URL, "TASKROUTER_URL=" + w.flex.URL,
		"TWILIO_ACCOUNT_SID=" + flextest.AccountSID, "TWILIO_AUTH_TOKEN=" + flextest.AuthToken,
		"FLEX_RATE=0", fmt.Sprintf("FLEX_CONCURRENCY=%d", w.concurrency), "ADMIN_ADDR=" + admin,
	}, settings...)
	p, err := w.process(ctx, w.program, env)
	if err == nil {
		p.admin = admin
	}
	return p, err
}

// loop starts the loop that keeps nothing, or the one that writes.
func (w *world) loop(ctx context.Context, as string, env ...string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return w.process(ctx, self, append(env, role+"="+as, loopURL+"="+w.flex.URL, "NATS_URL="+w.natsURL(), fmt.Sprintf("FLEX_CONCURRENCY=%d", w.concurrency)))
}

func (w *world) process(ctx context.Context, program string, env []string) (*process, error) {
	w.runs++
	log, err := os.Create(filepath.Join(w.folder, fmt.Sprintf("process-%d.log", w.runs)))
	if err != nil {
		return nil, err
	}
	p := &process{cmd: exec.CommandContext(ctx, program), log: log, began: time.Now()}
	p.cmd.Env, p.cmd.Stderr = append([]string{"PATH=" + os.Getenv("PATH")}, env...), log
	// Of an interrupt typed at a terminal it hears from us.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return p, p.cmd.Start()
}

// ready returns when the worker says so of itself.
func (p *process) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 30*time.Second, errors.New("not ready after 30 s"))
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.admin+"/readyz", nil)
		if err != nil {
			return err
		}
		if res, err := http.DefaultClient.Do(req); err == nil {
			_ = res.Body.Close() // nothing more is wanted of it
			if res.StatusCode == http.StatusOK {
				return nil
			}
		}
		if !pause(ctx, time.Millisecond) {
			return fmt.Errorf("%w\n%s", context.Cause(ctx), p.last())
		}
	}
}

// waits returns when the process has asked the paused consumer for messages.
func (w *world) waits(ctx context.Context, pulls int) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 30*time.Second, errors.New("nobody asks for messages after 30 s"))
	defer cancel()
	for {
		c, err := w.js.Consumer(ctx, requestsStream, consumerName)
		if err != nil {
			return err
		}
		if c.CachedInfo().NumWaiting >= pulls {
			return nil
		}
		if !pause(ctx, 20*time.Millisecond) {
			return context.Cause(ctx)
		}
	}
}

// end stops the process in order and waits for it.
func (p *process) end() error {
	defer p.log.Close() //nolint:errcheck // written by another process
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	err := p.cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return fmt.Errorf("%w\n%s", err, p.last())
	}
	return err
}

// last are the last words of the process.
func (p *process) last() string {
	text, err := os.ReadFile(p.log.Name())
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-10):], "\n")
}

// cpu is the time the process has had of all processors.
func (p *process) cpu() (time.Duration, error) {
	s, err := readStat(p.cmd.Process.Pid)
	return s.used, err
}

// peak is the most memory the process has had, in bytes.
func (p *process) peak() (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), "VmHWM:")
	line, _, _ := strings.Cut(rest, "kB")
	kib, err := strconv.ParseFloat(strings.TrimSpace(line), 64)
	return kib * 1024, err
}

// statements counts what the workers ask of Postgres, by its log.
type statements struct {
	mu     sync.Mutex
	rest   []byte
	count  int
	claims bool            // their times are kept
	took   []time.Duration // of claims, where the log says it
}

// Write takes what Postgres logs, in pieces of any size.
func (s *statements) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rest = append(s.rest, p...)
	for {
		line, rest, whole := bytes.Cut(s.rest, []byte("\n"))
		if !whole {
			return len(p), nil
		}
		s.rest = rest
		s.line(string(line))
	}
}

// line looks at one line; a statement of several lines begins with one that
// names the application.
func (s *statements) line(line string) {
	said, ours := strings.CutPrefix(line, "flexworker|LOG:  ")
	if !ours {
		return
	}
	if took, text, ok := strings.Cut(strings.TrimPrefix(said, "duration: "), " ms"); ok && s.claims && strings.Contains(text, "execute") && strings.Contains(text, "/* claim */") {
		if ms, err := strconv.ParseFloat(took, 64); err == nil {
			s.took = append(s.took, time.Duration(ms*float64(time.Millisecond)))
		}
	}
	if strings.HasPrefix(said, "execute ") || strings.HasPrefix(said, "statement: ") {
		s.count++
	}
}

// counted is how many there were since the last time it was asked.
func (s *statements) counted() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.count
	s.count = 0
	return n
}

// times begins, or ends, to keep the times of claims, and returns those kept.
func (s *statements) times(keep bool) []time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	took := s.took
	s.took, s.claims = nil, keep
	return took
}
