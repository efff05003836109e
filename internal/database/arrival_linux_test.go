package database_test

import (
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"flexworker/internal/database"
	"flexworker/internal/testing/pgtest"
)

// TestArriveLimit: the kernel does not go on sending what was given up for longer than that.
func TestArriveLimit(t *testing.T) {
	t.Parallel()
	conn := connect(t, parse(t, pgtest.NewDSN(t)))
	tcp, ok := conn.PgConn().Conn().(*net.TCPConn)
	if !ok {
		t.Fatalf("the connection is a %T", conn.PgConn().Conn())
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var limit int
	if err := raw.Control(func(fd uintptr) {
		limit, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT)
	}); err != nil {
		t.Fatal(err)
	}
	if err != nil || int64(limit) != database.ArriveLimit.Milliseconds() {
		t.Errorf("TCP_USER_TIMEOUT is %d ms (%v), want %v", limit, err, database.ArriveLimit)
	}
}
