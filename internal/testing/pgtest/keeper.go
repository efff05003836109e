package pgtest

import (
	"io"
	"os/exec"
	"strings"
	"sync"
	"syscall"
)

const folder = "flexworker-postgres-" // how the names of temporary folders begin

// keeper outlives this process by a moment to stop the server and remove its folder.
type keeper struct {
	shell *exec.Cmd
	pipe  io.Closer // this process holds the only copy
}

// The keeper's part: wait for the pipe to close, find the server by its pid file, stop it without a checkpoint, continue it
// in case it was paused, give it ten seconds, remove the folder.
const keep = `read -r _
if pid=$(head -n 1 "$1/postmaster.pid" 2>/dev/null) && [ -n "$pid" ]; then
	kill -QUIT "$pid" && kill -CONT "$pid"
	n=0
	while [ -e "$1/postmaster.pid" ] && [ $n -lt 100 ]; do n=$((n + 1)); sleep 0.1; done
fi
[ -z "$2" ] || { cd / && rm -rf "$2"; }`

// startKeeper starts it for a data folder; remove is the folder to remove in the end, or empty.
func startKeeper(data, remove string, as *syscall.SysProcAttr) (*keeper, error) {
	c := exec.Command("/bin/sh", "-c", keep, "keeper", data, remove)
	c.Dir, c.SysProcAttr = data, as
	pipe, err := c.StdinPipe()
	if err != nil {
		return nil, err
	}
	return &keeper{c, pipe}, c.Start()
}

// dismiss lets the keeper do its part now and waits for it. It may have nothing to do; its exit status says nothing.
func (k *keeper) dismiss() error {
	err := k.pipe.Close()
	_ = k.shell.Wait()
	return err
}

// tail keeps the end of what the server writes, for error messages, and passes all of it on.
type tail struct {
	to io.Writer

	mu   sync.Mutex
	kept []byte
}

func (l *tail) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.kept = append(l.kept, p...)
	l.kept = l.kept[max(0, len(l.kept)-4096):]
	if l.to != nil {
		return l.to.Write(p)
	}
	return len(p), nil
}

func (l *tail) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.kept)
}

func (l *tail) contains(text string) bool { return strings.Contains(l.String(), text) }

func (l *tail) clear() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.kept = nil
}
