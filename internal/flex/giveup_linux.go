package flex

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// bound has the kernel give up what is sent on conn from now on and is not acknowledged within d.
// It costs a call a twentieth of what the reading of its answer does (BenchmarkBound,
// BenchmarkOutcome). Where it fails the connection is gone, or not ours to bound.
func bound(conn net.Conn, d time.Duration) {
	tcp := tcpOf(conn)
	if tcp == nil {
		return
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d.Milliseconds()))
	})
}
