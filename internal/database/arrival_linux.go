package database

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// limitArrival sets ArriveLimit on a socket. A Unix socket needs none: what is written to it has arrived.
func limitArrival(network, _ string, raw syscall.RawConn) error {
	if network == "unix" {
		return nil
	}
	var set error
	err := raw.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(ArriveLimit.Milliseconds()))
	})
	if err == nil {
		err = set
	}
	return err
}
