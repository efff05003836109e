//go:build faults

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"flexworker/internal/testing/expect"
)

// TestOutOfMemory: the kernel kills one of two replicas for want of memory, in the middle of its work. The other carries on,
// and what the first was about is found out about: nothing is lost or doubled. It needs root and a control group.
func TestOutOfMemory(t *testing.T) {
	r := newRig(t)
	r.program = plainWorker(t)
	r.redeliversSoon()
	in := r.read()
	victim, other := r.command(r.environment(), "run"), r.command(r.environment(), "run")
	r.says(victim.address, "ok", 200)
	r.says(other.address, "ok", 200)
	sending := r.load()
	in.goesOn()
	group := newGroup(t)
	must(t, os.WriteFile(filepath.Join(group.dir, "cgroup.procs"), []byte(strconv.Itoa(victim.cmd.Process.Pid)), 0o600))
	must(t, os.WriteFile(filepath.Join(group.dir, group.limit), []byte("1M"), 0o600)) // of what it takes from now on
	<-victim.done
	status, ok := victim.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !ok || status.Signal() != syscall.SIGKILL {
		t.Fatalf("it ended by itself: %v", victim.err)
	}
	if n := group.kills(t); n < 1 {
		t.Errorf("the kernel says that it killed %d for want of memory", n)
	}
	in.goesOn()
	sent := sending.stop()
	in.balanced(sent)
	r.says(other.address, "ok", 200)
	fmt.Printf("%s: %d requests, %d leases lapsed, none lost or doubled\n", t.Name(), sent, r.count(`SELECT count(*) FROM outbox_attempts WHERE outcome = 'lapsed'`))
}

// group is a control group for one process.
type group struct{ dir, limit, events string }

func newGroup(t *testing.T) group {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("a control group needs root")
	}
	g := group{dir: "/sys/fs/cgroup/memory", limit: "memory.limit_in_bytes", events: "memory.oom_control"}
	if _, err := os.Stat(g.dir); errors.Is(err, os.ErrNotExist) { // the second version
		g = group{dir: "/sys/fs/cgroup", limit: "memory.max", events: "memory.events"}
	}
	g.dir = filepath.Join(g.dir, fmt.Sprint("flexworker-test-", os.Getpid()))
	must(t, os.Mkdir(g.dir, 0o755))
	t.Cleanup(func() { expect.EventuallyWithin(t, expect.Patience, func() error { return os.Remove(g.dir) }) })
	return g
}

// kills is how many processes of the group the kernel killed.
func (g group) kills(t *testing.T) (n int) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(g.dir, g.events))
	must(t, err)
	for line := range strings.Lines(string(text)) {
		if number, ok := strings.CutPrefix(line, "oom_kill "); ok {
			n, err = strconv.Atoi(strings.TrimSpace(number))
			must(t, err)
		}
	}
	return n
}
