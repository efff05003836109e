package flex

import (
	"context"
	"net"
	"time"
)

// What was given up must not arrive. A socket that is closed leaves what it was told to send
// with the kernel, which offers it again for up to two minutes: when the way was lost for one
// minute, a POST arrived that a lookup had proved absent meanwhile and that was sent a second
// time. So nothing of a call outlives it:
//
//   - Every connection is closed with a reset (SO_LINGER 0), which throws away what was not
//     sent. That holds for whatever closes it: us, the transport, the end of this process.
//   - A call that was cut closes its connection itself, before Create returns: the transport
//     would do so a little later, and TLS waits up to five seconds for its last word.
//   - The kernel gives up by itself what nobody has acknowledged when the call's time is over
//     (TCP_USER_TIMEOUT; Linux only): also while this process stands still, as when its machine
//     is suspended, and others have looked up the request meanwhile.
//
// What was acknowledged is out of our hands. A proxy acknowledges for itself, and may hand on
// later what it holds.

// dialReset dials, and has the connection reset whenever it is closed.
func dialReset(d *net.Dialer) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := d.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		if tcp, ok := conn.(*net.TCPConn); ok {
			if err := tcp.SetLinger(0); err != nil {
				_ = tcp.Close() // nothing was sent
				return nil, err
			}
		}
		return conn, nil
	}
}

// tcpOf is the connection below TLS, also below that of a proxy; nil when there is none.
func tcpOf(conn net.Conn) *net.TCPConn {
	for {
		switch c := conn.(type) {
		case *net.TCPConn:
			return c
		case interface{ NetConn() net.Conn }:
			conn = c.NetConn()
		default:
			return nil
		}
	}
}

// reset closes a connection at once, below TLS and its farewell.
func reset(conn net.Conn) {
	if tcp := tcpOf(conn); tcp != nil {
		conn = tcp
	}
	_ = conn.Close() // it may be closed already, as it was dialed to be: with a reset
}

// left is what is left of a call, at least a millisecond: 0 would mean for ever.
func left(ctx context.Context) time.Duration {
	until, _ := ctx.Deadline()
	return max(time.Until(until), time.Millisecond)
}
