package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"flexworker/internal/testing/faultproxy"
)

// replica is one place for a worker, and for the plain consumer beside it: the
// proxies around it stay while the processes come and go.
type replica struct {
	number  int
	program string
	env     []string
	book    *book
	proxies map[string]*faultproxy.Proxy // by what is behind: postgres, nats, flex
	log     *logFile
	admin   string   // where a worker shows its metrics
	beside  *replica // the plain consumer, which is struck alike; nil: this is one

	serving atomic.Bool // the place belongs to the fleet

	mu      sync.Mutex
	cmd     *exec.Cmd
	asked   bool // its end was asked for
	said    int  // by the processes before
	exited  chan struct{}
	deaths  int
	largest int64 // most memory of any of its processes that was told to end, KiB
}

// start starts the worker, and what is beside it.
func (r *replica) start() error {
	r.serving.Store(true)
	return r.both((*replica).startOne)
}

// end asks for the ends of both processes, and waits for them.
func (r *replica) end(how syscall.Signal) error {
	return r.both(func(r *replica) error { return r.endOne(how) })
}

// signal is for SIGSTOP and SIGCONT; resume continues what was stopped.
func (r *replica) signal(how syscall.Signal) (resume func() error, err error) {
	var stopped []*os.Process
	err = r.both(func(r *replica) error {
		r.mu.Lock()
		defer r.mu.Unlock()
		stopped = append(stopped, r.cmd.Process)
		return r.cmd.Process.Signal(how)
	})
	return func() (err error) {
		for _, p := range stopped {
			err = errors.Join(err, p.Signal(syscall.SIGCONT))
		}
		return err
	}, err
}

// ways does to the way to a server what is to be done, and to the one of the plain consumer.
func (r *replica) ways(to string, do func(*faultproxy.Proxy)) {
	_ = r.both(func(r *replica) error {
		if p := r.proxies[to]; p != nil { // the plain consumer has no way to Postgres
			do(p)
		}
		return nil
	})
}

// both does it to the plain consumer, then to the worker.
func (r *replica) both(do func(*replica) error) error {
	var err error
	if r.beside != nil {
		err = do(r.beside)
	}
	return errors.Join(err, do(r))
}

// startOne starts one process. What it says goes to the replica's log.
func (r *replica) startOne() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	cmd := exec.CommandContext(context.Background(), r.program)
	cmd.Env, cmd.Stdout, cmd.Stderr = r.env, r.log, r.log
	r.said = r.log.said()
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
		defer func() { go func() { r.book.offendIf(r.startOne(), "a worker can be started again") }() }()
	} else if err != nil && !r.byOurSignal(cmd) {
		r.book.offend("a worker that is told to stop ends with status 0", "", fmt.Sprintf("replica %d: %v; its last words:\n%s", r.number, cmd.ProcessState, r.log.last()))
	}
	close(exited)
}

// byOurSignal says whether a process ended as it must by what was sent to it: by SIGKILL at once, and by SIGTERM where it
// had said nothing yet, as it did not listen to signals yet. It needs r.mu.
func (r *replica) byOurSignal(cmd *exec.Cmd) bool {
	status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && (status.Signal() == syscall.SIGKILL || status.Signal() == syscall.SIGTERM && r.log.said() == r.said)
}

// endOne asks for the process's end and waits for it; SIGKILL when it does not come in time.
func (r *replica) endOne(how syscall.Signal) error {
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
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
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
