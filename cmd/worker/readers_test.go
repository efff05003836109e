package main

import (
	"fmt"
	"net"
	"sync"
	"testing"
)

// TestReadersThatNeverRead: connections that ask for metrics and for the page, again and again, and never read an
// answer. Requests move, probers and a scrape that reads have their answer, and such a connection is cut.
func TestReadersThatNeverRead(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	in := r.read()
	cfg := r.unhurried()
	cfg.AdminToken = secretOf("a-token-that-acts-000000")
	r.start(cfg)
	r.says(cfg.AdminAddr, "ok", 200)
	// ask asks until the worker takes no more, and then cuts the connection.
	var metrics, pages sync.WaitGroup
	var open []net.Conn
	ask := func(by *sync.WaitGroup, path string) {
		conn, err := net.Dial("tcp", cfg.AdminAddr)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, conn)
		if err := conn.(*net.TCPConn).SetReadBuffer(4 << 10); err != nil { // so that it is soon full
			t.Fatal(err)
		}
		by.Go(func() {
			line := fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer a-token-that-acts-000000\r\n\r\n", path, cfg.AdminAddr)
			for err := error(nil); err == nil; {
				_, err = conn.Write(line)
			}
		})
	}
	for range 4 {
		ask(&metrics, "/metrics")
	}
	ask(&pages, "/") // which takes longer to make, and so longer to fill what is between them
	r.send("a", 0, 300)
	in.balanced(300)
	r.says(cfg.AdminAddr, "ok", 200)
	if n, err := metric(cfg.AdminAddr, `flexworker_attempt_seconds_count{outcome="created"}`); err != nil || n == 0 {
		t.Errorf("a scrape that reads finds %v created, %v", n, err)
	}
	metrics.Wait() // all are cut
	r.says(cfg.AdminAddr, "ok", 200)
	for _, conn := range open {
		_ = conn.Close() // it may be cut already
	}
	pages.Wait()
}
