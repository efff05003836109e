//go:build crashpoints

// Package crash names the points between two durable steps, so that tests can
// kill the process there. Without the build tag crashpoints, At does nothing and
// is compiled away.
package crash

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// FLEXWORKER_CRASH_AT=NAME:N kills this process with SIGKILL when it comes to
// the point NAME for the N-th time. NAME:N:stop stops it there with SIGSTOP, and
// it goes on from there with SIGCONT.
var (
	name, nth, stops = parse(os.Getenv("FLEXWORKER_CRASH_AT"))
	passed           atomic.Int64
)

func parse(setting string) (name string, nth int64, stops bool) {
	name, n, _ := strings.Cut(setting, ":")
	n, how, _ := strings.Cut(n, ":")
	nth, err := strconv.ParseInt(n, 10, 64)
	if err != nil {
		nth = 1
	}
	return name, nth, how == "stop"
}

// At is a point at which the process may die.
func At(point string) {
	if point != name || passed.Add(1) != nth {
		return
	}
	if stops {
		_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
		time.Sleep(time.Second) // the kernel stops this thread a moment later
		return
	}
	// SIGKILL to itself cannot fail; select keeps the goroutine from going on
	// until the kernel has acted.
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}
