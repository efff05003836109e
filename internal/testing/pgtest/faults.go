package pgtest

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
)

// Shutdown ends the server in order, as a restart by an operator begins: clients are cut, everything is written.
func (s *Server) Shutdown() error { return s.end(syscall.SIGINT) }

// Immediate ends the server without a checkpoint; the next start recovers from the log.
func (s *Server) Immediate() error { return s.end(syscall.SIGQUIT) }

// Kill ends every process of the server with SIGKILL. What was committed is there after Restart.
func (s *Server) Kill() error { return s.end(syscall.SIGKILL) }

func (s *Server) end(how syscall.Signal) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.runs() {
		return errors.New("postgres does not run")
	}
	return s.halt(how)
}

// Running tells whether the server runs: one that cannot write its log ends itself.
func (s *Server) Running() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.runs()
}

// runs notices a server that has ended by itself. It needs s.mu.
func (s *Server) runs() bool {
	if s.process != nil && len(s.exited) > 0 {
		s.process = nil
	}
	return s.process != nil
}

// halt ends the server if it runs and returns when all its processes are gone. It needs s.mu.
func (s *Server) halt(how syscall.Signal) error {
	if !s.runs() {
		return nil
	}
	pid := s.process.Process.Pid
	if how == syscall.SIGKILL {
		if err := freeze(pid, syscall.SIGKILL); err != nil {
			return err
		}
	} else if err := errors.Join(gone(syscall.Kill(pid, how)), thaw(pid)); err != nil {
		return err
	}
	err := <-s.exited
	s.process = nil
	var exit *exec.ExitError
	if errors.As(err, &exit) { // by our signal, or it had ended before: its log says why
		return nil
	}
	return err
}

// Pause stops every process of the server with SIGSTOP: connections stay open and nothing answers.
func (s *Server) Pause() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.runs() {
		return errors.New("postgres does not run")
	}
	return freeze(s.process.Process.Pid, syscall.SIGSTOP)
}

// Resume continues a paused server.
func (s *Server) Resume() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.runs() {
		return errors.New("postgres does not run")
	}
	return thaw(s.process.Process.Pid)
}

// freeze sends SIGSTOP or SIGKILL to the server's first process, pid, and to all its children. They are no process group:
// each child makes one of its own. The parent goes first, so that no child is born behind our back; a killed parent is
// stopped before, so that its children can still be told by their parent's number.
func freeze(pid int, how syscall.Signal) error {
	if err := gone(syscall.Kill(pid, syscall.SIGSTOP)); err != nil {
		return err
	}
	var told []int
	for {
		all, err := children(pid)
		if err != nil {
			return err
		}
		news := slices.DeleteFunc(all, func(child int) bool { return slices.Contains(told, child) })
		if len(news) == 0 {
			break
		}
		for _, child := range news {
			if err := gone(syscall.Kill(child, how)); err != nil {
				return err
			}
		}
		told = append(told, news...)
	}
	return gone(syscall.Kill(pid, how))
}

// thaw continues what freeze stopped; the parent last, so that it finds its children awake.
func thaw(pid int) error {
	all, err := children(pid)
	if err != nil {
		return err
	}
	for _, p := range append(all, pid) {
		err = errors.Join(err, gone(syscall.Kill(p, syscall.SIGCONT)))
	}
	return err
}

// gone makes the absence of a process no error.
func gone(err error) error {
	if errors.Is(err, syscall.ESRCH) {
		return nil
	}
	return err
}

// children of a process: from /proc where there is one, since small systems have no ps.
func children(pid int) ([]int, error) {
	var table []byte
	if runtime.GOOS != "linux" {
		out, err := exec.Command("ps", "-A", "-o", "pid=,ppid=").Output()
		if err != nil {
			return nil, fmt.Errorf("ps: %w", err)
		}
		table = out
	} else {
		stats, err := fs.Glob(os.DirFS("/proc"), "[0-9]*/stat")
		if err != nil {
			return nil, err
		}
		for _, name := range stats {
			line, err := os.ReadFile(filepath.Join("/proc", name))
			if err != nil {
				continue // it has ended
			}
			// "17 (its name) S 1 ...": the parent is the second word after the name, which may hold anything.
			rest := strings.Fields(string(line[bytes.LastIndexByte(line, ')')+1:]))
			table = fmt.Appendf(table, "%s %s\n", filepath.Dir(name), rest[1])
		}
	}
	var found []int
	for line := range strings.Lines(string(table)) {
		var child, parent int
		if n, _ := fmt.Sscan(line, &child, &parent); n == 2 && parent == pid {
			found = append(found, child)
		}
	}
	return found, nil
}
