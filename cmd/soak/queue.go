package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"time"

	"flexworker/internal/testing/faultproxy"
	"flexworker/internal/testing/natstest"
)

// This program starts itself as the NATS server when these are set.
const (
	queueStore = "SOAK_NATS_STORE"
	queuePort  = "SOAK_NATS_PORT"
)

// serveQueue is that process: it serves until its standard input is closed,
// which the end of the soak does, whatever that is.
func serveQueue(store string) int {
	port, err := strconv.Atoi(os.Getenv(queuePort))
	if err == nil {
		var s *natstest.Server
		if s, err = natstest.Start(natstest.Options{StoreDir: store, Port: port, MaxStore: 16 << 30}); err == nil {
			fmt.Println("ready")
			_, _ = io.Copy(io.Discard, os.Stdin) // its end is all that is to be known
			err = s.Stop()
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "soak: nats:", err)
		return 1
	}
	return 0
}

// queue is NATS as a process of its own, so that SIGKILL is real.
type queue struct {
	store string
	port  int

	mu    sync.Mutex
	cmd   *exec.Cmd
	stdin io.Closer
}

func startQueue(store string) (*queue, error) {
	port, err := faultproxy.FreePort()
	if err != nil {
		return nil, err
	}
	q := &queue{store: store, port: port}
	return q, q.start()
}

func (q *queue) addr() string { return fmt.Sprintf("127.0.0.1:%d", q.port) }

// start returns when the server has stored a message.
func (q *queue) start() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(context.Background(), self)
	cmd.Env = append(os.Environ(), queueStore+"="+q.store, fmt.Sprintf("%s=%d", queuePort, q.port))
	cmd.Stderr = os.Stderr
	if q.stdin, err = cmd.StdinPipe(); err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := startProcess(cmd); err != nil {
		return err
	}
	q.cmd = cmd
	ready := make(chan error, 1)
	go func() {
		_, err := bufio.NewReader(out).ReadString('\n')
		ready <- err
	}()
	select {
	case err = <-ready:
	case <-time.After(5 * time.Minute): // the process itself gives up before
		err = errors.New("not ready after 5 minutes")
	}
	if err != nil {
		return fmt.Errorf("nats: %w", err)
	}
	return nil
}

// end ends the process: in order when how is 0, else by that signal.
func (q *queue) end(how syscall.Signal) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.cmd == nil {
		return nil
	}
	var err error
	if how == 0 {
		err = q.stdin.Close()
	} else {
		err = q.cmd.Process.Signal(how)
	}
	_ = q.cmd.Wait() // by our signal
	q.cmd = nil
	return err
}

func (q *queue) signal(how syscall.Signal) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.cmd == nil {
		return errors.New("nats does not run")
	}
	return q.cmd.Process.Signal(how)
}
