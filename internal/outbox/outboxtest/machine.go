package outboxtest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// binaries finds the folder that holds initdb and postgres. The order is: what the user says, what the user's shell would
// take, what packages install outside the shell's path, the newest first.
func binaries() (string, error) {
	if dir := os.Getenv("FLEXWORKER_PG_BIN"); dir != "" {
		if !complete(dir) {
			return "", fmt.Errorf("FLEXWORKER_PG_BIN=%s does not hold initdb and postgres", dir)
		}
		return dir, nil
	}
	if path, err := exec.LookPath("postgres"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil && complete(filepath.Dir(path)) {
			return filepath.Dir(path), nil
		}
	}
	for _, pattern := range []string{
		"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/local/pgsql/bin",
		"/opt/homebrew/opt/postgresql*/bin", "/usr/local/opt/postgresql*/bin",
	} {
		dirs, _ := filepath.Glob(pattern) // the patterns are right
		slices.SortFunc(dirs, func(a, b string) int { return version(b) - version(a) })
		if i := slices.IndexFunc(dirs, complete); i >= 0 {
			return dirs[i], nil
		}
	}
	return "", errors.New("no Postgres server programs (initdb, postgres) on this machine. Install them\n" +
		"  on Debian or Ubuntu:  apt-get install postgresql\n" +
		"  on macOS:             brew install postgresql@17\n" +
		"or name their folder in FLEXWORKER_PG_BIN, or, for tests, a server to use in TEST_DATABASE_URL")
}

func complete(dir string) bool {
	for _, name := range []string{"initdb", "postgres"} {
		if _, err := exec.LookPath(filepath.Join(dir, name)); err != nil {
			return false
		}
	}
	return true
}

// version is the first number in a path: 17 in /opt/homebrew/opt/postgresql@17/bin, 0 without one.
func version(dir string) int {
	n, _ := strconv.Atoi(regexp.MustCompile(`\d+`).FindString(dir))
	return n
}

// identity is whom the server's processes run as: this user, or as root postgres or nobody. They get a process group, so
// that an interrupt typed at a terminal reaches the program that started them and not them.
func identity() (*syscall.SysProcAttr, error) {
	attr := &syscall.SysProcAttr{Setpgid: true}
	if os.Geteuid() != 0 {
		return attr, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err1 == nil && err2 == nil {
			attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
			return attr, nil
		}
	}
	return nil, errors.New("postgres refuses to run as root, and there is no user postgres or nobody to run it as")
}

const folder = "flexworker-postgres-" // how the names of temporary folders begin

// lock marks the folder as in use by this process. The kernel frees the lock however the process ends.
func lock(home string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(home, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("%s is in use by another process: %w", home, err), f.Close())
	}
	return f, nil
}

// sweep removes folders whose process and keeper are both gone. It is a courtesy: what fails stays. A young folder may not
// have its lock yet and stays too. A Postgres that still runs there ends itself when it misses its pid file.
func sweep(temp string) {
	homes, _ := filepath.Glob(filepath.Join(temp, folder+"*")) // the pattern is right
	for _, home := range homes {
		if info, err := os.Stat(home); err != nil || time.Since(info.ModTime()) < time.Minute {
			continue
		}
		if f, err := lock(home); err == nil {
			_ = os.RemoveAll(home)
			_ = f.Close()
		}
	}
}

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
