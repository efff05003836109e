//go:build !linux

package flex

import (
	"net"
	"time"
)

// bound needs Linux. Elsewhere the reset of a connection that is closed is all there is.
func bound(net.Conn, time.Duration) {}
