package flex

import (
	"context"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestConnectionIsBound: while a call is under way, the connection below it, below TLS too, has
// no more time than the call has left to have its bytes acknowledged, and is reset when it is
// closed. A later call on it has its own time.
func TestConnectionIsBound(t *testing.T) {
	t.Parallel()
	for _, secure := range []bool{false, true} {
		var mu sync.Mutex
		var conns []*net.TCPConn
		var seen [][2]int // user timeout, linger
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			raw, err := conns[0].SyscallConn()
			if err != nil {
				t.Error(err)
				return
			}
			if err := raw.Control(func(fd uintptr) {
				timeout, err1 := unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT)
				linger, err2 := unix.GetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER)
				if err1 != nil || err2 != nil || linger.Onoff == 0 {
					t.Error(err1, err2, linger)
					return
				}
				seen = append(seen, [2]int{timeout, int(linger.Linger)})
			}); err != nil {
				t.Error(err)
			}
			io.WriteString(w, created)
		}))
		if secure {
			s.StartTLS()
		} else {
			s.Start()
		}
		t.Cleanup(s.Close)
		c := newClient(t, s.URL, within(20*time.Second), func(c *Config) {
			if secure {
				c.RootCAs = x509.NewCertPool()
				c.RootCAs.AddCert(s.Certificate())
			}
		})
		dial := c.transport.DialContext
		c.transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dial(ctx, network, address)
			if err == nil {
				mu.Lock()
				defer mu.Unlock()
				conns = append(conns, conn.(*net.TCPConn))
			}
			return conn, err
		}
		if o := c.Create(t.Context(), wish); o.Kind != Created {
			t.Fatalf("%+v", o)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		if o := c.Create(ctx, wish); o.Kind != Created {
			t.Fatalf("%+v", o)
		}
		cancel()
		if len(conns) != 1 || len(seen) != 2 {
			t.Fatalf("%d connections, %v", len(conns), seen)
		}
		for i, most := range []int{20000, 10000} {
			if seen[i][0] <= 0 || seen[i][0] > most || seen[i][1] != 0 { // 0 is for ever
				t.Errorf("TLS %v, call %d: user timeout %d ms, linger %d s; want at most %d ms, 0 s", secure, i, seen[i][0], seen[i][1], most)
			}
		}
	}
}
