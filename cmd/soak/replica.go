package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"flexworker/internal/testing/faultproxy"
)

// replica is one place for a worker: the proxies around it stay while the
// processes come and go.
type replica struct {
	number  int
	program string
	env     []string
	book    *book
	proxies map[string]*faultproxy.Proxy // by what is behind: postgres, nats, flex
	log     *logFile

	mu      sync.Mutex
	cmd     *exec.Cmd
	asked   bool // its end was asked for
	exited  chan struct{}
	deaths  int
	largest int64 // most memory of any of its processes that was told to end, KiB
}

// start starts the process. What it says goes to the replica's log.
func (r *replica) start() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	cmd := exec.CommandContext(context.Background(), r.program) //nolint:gosec // the worker beside this program
	cmd.Env, cmd.Stdout, cmd.Stderr = r.env, r.log, r.log
	if err := startProcess(cmd); err != nil {
		return fmt.Errorf("%w (make builds the worker beside the soak)", err)
	}
	r.cmd, r.asked, r.exited = cmd, false, make(chan struct{})
	go r.watch(cmd, r.exited)
	return nil
}

// watch notices the end of a process, and that it was not asked for.
func (r *replica) watch(cmd *exec.Cmd, exited chan struct{}) {
	err := cmd.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.deaths++
	if !r.asked {
		r.book.offend("no worker ends by itself", "", fmt.Sprintf("replica %d: %v; its last words:\n%s", r.number, cmd.ProcessState, r.log.last()))
		defer func() { go func() { r.book.offendIf(r.start(), "a worker can be started again") }() }()
	} else if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); err != nil && (!ok || !status.Signaled() || status.Signal() != syscall.SIGKILL) {
		r.book.offend("a worker that is told to stop ends with status 0", "", fmt.Sprintf("replica %d: %v; its last words:\n%s", r.number, cmd.ProcessState, r.log.last()))
	}
	close(exited)
}

// end asks for the process's end and waits for it; SIGKILL when it does not come in time.
func (r *replica) end(how syscall.Signal) error {
	r.mu.Lock()
	r.asked = true
	cmd, exited := r.cmd, r.exited
	if cmd != nil {
		r.largest = max(r.largest, peak(cmd.Process.Pid))
	}
	r.mu.Unlock()
	if cmd == nil {
		return nil
	}
	if err := cmd.Process.Signal(how); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-exited:
		return nil
	case <-time.After(20 * time.Second):
		r.book.offend("a worker that is told to stop does so within its grace", "", fmt.Sprintf("replica %d, %v; its last words:\n%s", r.number, how, r.log.last()))
		_ = cmd.Process.Kill()
		<-exited
		return nil
	}
}

// peak is the most memory that a process has had, in KiB; 0 where Linux's /proc is
// missing. The rusage of a child that ended would not do: it counts what this
// program had when it started the child.
func peak(pid int) (kib int64) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)) //nolint:gosec // a number
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(status)) {
		if n, _ := fmt.Sscanf(line, "VmHWM: %d kB", &kib); n == 1 {
			return kib
		}
	}
	return 0
}

// signal is for SIGSTOP and SIGCONT; it returns what it was sent to.
func (r *replica) signal(how syscall.Signal) (*os.Process, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.cmd.Process, r.cmd.Process.Signal(how)
}

// logFile keeps the end of what a replica says: at most two files of logMost
// bytes, and the last lines in memory.
type logFile struct {
	path string

	mu    sync.Mutex
	file  *os.File
	size  int
	tail  []byte
	ready int // how often a process said that it consumes
}

const logMost = 48 << 20

func (l *logFile) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tail = append(l.tail, p...)
	if len(l.tail) > 16<<10 {
		l.tail = append([]byte(nil), l.tail[len(l.tail)-8<<10:]...)
	}
	l.ready += strings.Count(string(p), `"msg":"consuming"`)
	if l.file == nil || l.size > logMost {
		if err := l.turn(); err != nil {
			return 0, err
		}
	}
	l.size += len(p)
	return l.file.Write(p)
}

// turn begins a new file and keeps the one before.
func (l *logFile) turn() (err error) {
	if l.file != nil {
		if err := errors.Join(l.file.Close(), os.Rename(l.path, l.path+".1")); err != nil {
			return err
		}
	}
	l.size = 0
	l.file, err = os.Create(l.path)
	return err
}

func (l *logFile) last() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	lines := strings.Split(strings.TrimRight(string(l.tail), "\n"), "\n")
	return "    " + strings.Join(lines[max(0, len(lines)-12):], "\n    ")
}

func (l *logFile) consuming() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ready
}
