// Package alone runs a test once more, as a process with namespaces of its own: a network or a table of mounts that the
// test may spoil. The kernel clears them away with the process, however that ends. It needs Linux and root.
package alone

import (
	"flag"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// inside is set, to the name of the test, in the process that In has started.
const inside = "ALONE_IN_NAMESPACES"

// In runs the test that calls it once more, as a process with namespaces of its own (unix.CLONE_NEWNET, unix.CLONE_NEWNS),
// and tells whether this is that process. In the other one the test has passed or failed with it when In returns: there is
// nothing left to do. What is mounted there stays there.
//
//	if !alone.In(t, unix.CLONE_NEWNS) {
//		return
//	}
func In(t *testing.T, namespaces uintptr) bool {
	t.Helper()
	if os.Getenv(inside) == t.Name() {
		if namespaces&unix.CLONE_NEWNS != 0 {
			if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
				t.Fatalf("mounts of its own: %v", err)
			}
		}
		return true
	}
	if os.Geteuid() != 0 {
		Cannot(t, "a namespace needs root: run the test as root")
	}
	args := []string{"-test.run=^" + regexp.QuoteMeta(t.Name()) + "$", "-test.v", "-test.count=1"}
	flag.Visit(func(f *flag.Flag) { // flags of the package's own, and the time limit
		if !strings.HasPrefix(f.Name, "test.") || f.Name == "test.timeout" {
			args = append(args, "-"+f.Name+"="+f.Value.String())
		}
	})
	child := exec.CommandContext(t.Context(), os.Args[0], args...) //nolint:gosec // this very program
	child.Env = append(os.Environ(), inside+"="+t.Name())
	child.SysProcAttr = &syscall.SysProcAttr{Cloneflags: namespaces, Pdeathsig: syscall.SIGKILL}
	child.Cancel = func() error { return child.Process.Signal(os.Interrupt) }
	child.WaitDelay = 10 * time.Second
	out, err := child.CombinedOutput()
	t.Logf("in namespaces of its own:\n%s", out)
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("the test failed there: %v", err)
	}
	return false
}

// Cannot ends a test that this machine cannot run: it fails where CI is set, and is skipped elsewhere, with the reason.
func Cannot(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatal(why)
	}
	t.Skip(why)
}
