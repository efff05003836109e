package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"flexworker/internal/testing/flextest"
	"flexworker/internal/testing/natstest"
)

// NATS and the endpoint are processes of their own, as they are elsewhere: in the
// harness they would share its scheduler and its garbage collector, which makes
// them cheaper than they are.
const (
	role         = "BENCH_ROLE" // set when this program is to be something else
	roleLoop     = "loop"
	roleWrites   = "writes"
	roleNATS     = "nats"
	roleEndpoint = "endpoint"
	natsFolder   = "BENCH_NATS_FOLDER"
)

// play is what this program does in a role.
func play(ctx context.Context, as string) error {
	switch as {
	case roleLoop:
		return loop(ctx)
	case roleWrites:
		return writes(ctx)
	case roleNATS:
		s, err := natstest.Start(natstest.Options{StoreDir: os.Getenv(natsFolder)})
		if err != nil {
			return err
		}
		return serve(s.Addr(), s.Stop)
	case roleEndpoint:
		// The strict imitation, which answers at once: loop and worker are held to
		// the same, and both pay for the checking.
		s, err := flextest.Start(flextest.Config{Keep: 2000})
		if err != nil {
			return err
		}
		return serve(s.Addr(), func() error { s.Close(); return nil })
	default:
		return fmt.Errorf("%s: there is no role %q", role, as)
	}
}

// serve says where the server is and stops it when standard input ends, as it
// also does when the harness dies.
func serve(address string, stop func() error) error {
	fmt.Println(address)
	_, _ = io.Copy(io.Discard, os.Stdin) // an error ends it as well
	return stop()
}

// server is one that runs.
type server struct {
	cmd     *exec.Cmd
	stdin   io.Closer
	address string
}

// startServer starts this program in a role and waits for its address. It lives
// until it is stopped, which an interrupt leads to.
func startServer(ctx context.Context, as string, env ...string) (*server, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	s := &server{cmd: exec.CommandContext(context.WithoutCancel(ctx), self)}
	s.cmd.Env, s.cmd.Stderr = append(os.Environ(), append(env, role+"="+as)...), os.Stderr
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // of an interrupt typed at a terminal it hears from us
	if s.stdin, err = s.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		s.stop()
		return nil, fmt.Errorf("the %s server does not start: %w", as, err)
	}
	s.address = strings.TrimSpace(line)
	return s, nil
}

// stop ends it; nil: there is none. Its exit status tells nothing that matters now.
func (s *server) stop() {
	if s == nil {
		return
	}
	_ = s.stdin.Close()
	_ = s.cmd.Wait()
}
