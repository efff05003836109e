package main

import (
	"bytes"
	"context"
	"encoding/gob"
	"errors"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"flexworker/internal/testing/expect"
)

// A commandLine is what a test types, and with which environment.
type commandLine struct{ Env, Args []string }

// ended is what a command that ended has left.
type ended struct {
	Status    int
	Out, Errs string
}

// A shell is a process of this test binary that runs one command after another, each with an environment of its own. A command in a
// shell costs less than half of the processor time, since most of what a process costs is its start. All tests share the shells.
type shell struct {
	process *exec.Cmd
	in, out *os.File // ours
	typing  *gob.Encoder
	read    *gob.Decoder
}

// idleShells are those in which no command runs.
var idleShells = make(chan *shell, 64)

// newShell starts a shell. It ends when in is closed, at the latest with this process.
func newShell() (*shell, error) {
	in, toShell, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	fromShell, out, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	s := &shell{process: exec.Command(os.Args[0]), in: toShell, out: fromShell, typing: gob.NewEncoder(toShell), read: gob.NewDecoder(fromShell)}
	s.process.Env = prompt([]string{"FLEXWORKER_TEST_SHELL=1"})
	s.process.Stderr = os.Stderr // a panic, and what the race detector finds
	s.process.ExtraFiles = []*os.File{in, out}
	err = s.process.Start()
	return s, errors.Join(err, in.Close(), out.Close())
}

// run types a command and waits for its end.
func (s *shell) run(c commandLine) (e ended, err error) {
	if err = s.typing.Encode(c); err == nil {
		err = s.read.Decode(&e)
	}
	return e, err
}

// kill ends the process of a shell, and so the wait of run.
func (s *shell) kill() { _ = s.process.Process.Kill() } // it may have ended

// end ends a shell whose command may still run.
func (s *shell) end() {
	s.kill()
	_ = s.process.Wait() // it was killed
	_, _ = s.in.Close(), s.out.Close()
}

// serveShell is the process of a shell.
func serveShell() error {
	read, write := gob.NewDecoder(os.NewFile(3, "commands")), gob.NewEncoder(os.NewFile(4, "answers"))
	for {
		var c commandLine
		if err := read.Decode(&c); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		os.Clearenv()
		for _, variable := range c.Env {
			if name, value, ok := strings.Cut(variable, "="); ok {
				if err := os.Setenv(name, value); err != nil {
					return err
				}
			}
		}
		var out, errs bytes.Buffer
		status := execute(context.Background(), c.Args, &out, &errs)
		if err := write.Encode(ended{status, out.String(), errs.String()}); err != nil {
			return err
		}
	}
}

// onceRead are the variables that Go reads once in a process.
var onceRead = []string{"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR", "TZ", "GODEBUG", "GOGC", "GOMEMLIMIT"}

// try runs one command to its end: in a shell, unless the rig has a program of its own, the command serves, or it has a setting that
// Go reads once.
func (r *rig) try(env []string, args ...string) (status int, out, errs string) {
	r.t.Helper()
	if r.program != "" && r.program != plainWorker(r.t) || serves(args) || slices.ContainsFunc(env, func(variable string) bool {
		name, _, _ := strings.Cut(variable, "=")
		return slices.Contains(onceRead, strings.ToUpper(name))
	}) {
		return r.process(env, args...)
	}
	var s *shell
	select {
	case s = <-idleShells:
	default:
		var err error
		if s, err = newShell(); err != nil {
			r.t.Fatal(err)
		}
	}
	late := time.AfterFunc(expect.Patience, s.kill)
	e, err := s.run(commandLine{env, args})
	if !late.Stop() || err != nil {
		s.end()
		r.t.Fatalf("worker %q does not end, or ends its process: %v", args, err)
	}
	select {
	case idleShells <- s:
	default:
		s.end()
	}
	return e.Status, e.Out, e.Errs
}

// process runs one command to its end, in a process of its own as a person does.
func (r *rig) process(env []string, args ...string) (status int, out, errs string) {
	r.t.Helper()
	c := r.command(env, args...)
	status = c.exit()
	return status, c.out.String(), c.log.String()
}

// serves says whether these words start a worker that serves, which is what it does without a command.
func serves(args []string) bool { return len(args) == 0 || args[0] == "run" }

// TestShell: a command in a shell has the environment that it is given and nothing of the one before it, and ends as it does in a
// process of its own.
func TestShell(t *testing.T) {
	t.Parallel()
	s, err := newShell()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.end)
	for _, env := range [][]string{{"DATABASE_URL=postgres://a@b/c", "LOG_LEVEL=loud"}, {"NATS_URL=nats://a:1"}, nil} {
		for _, words := range [][]string{{"config"}, {"config", "--json"}, {"version"}, {"nonsense\xff"}, {"list", "--" + unseen}} {
			c := (&rig{t: t}).command(append([]string{"FLEXWORKER_TEST_CHILD=1"}, env...), words...)
			want := ended{c.exit(), c.out.String(), c.log.String()}
			if got, err := s.run(commandLine{env, words}); err != nil || got != want {
				t.Errorf("worker %q with %q: %v %+v, want %+v", words, env, err, got, want)
			}
		}
	}
}
