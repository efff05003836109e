package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"flexworker/internal/testing/pgtest"
)

// A worker in a process of its own asks the name server of a test, where the test has named one.
func init() {
	server := os.Getenv("FLEXWORKER_TEST_DNS")
	if server == "" {
		return
	}
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", server)
	}}
}

// names is a name server that knows one address, whatever it is asked for.
type names struct {
	conn net.PacketConn
	is   atomic.Pointer[[4]byte]
}

func newNames(t *testing.T, address [4]byte) *names {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &names{conn: conn}
	n.is.Store(&address)
	var serving sync.WaitGroup
	serving.Go(func() {
		asked := make([]byte, 512)
		for {
			size, from, err := conn.ReadFrom(asked)
			if err != nil {
				return // it is closed
			}
			if answer, err := n.answer(asked[:size]); err != nil {
				t.Error(err)
			} else if _, err := conn.WriteTo(answer, from); err != nil && !errors.Is(err, net.ErrClosed) {
				t.Error(err)
			}
		}
	})
	t.Cleanup(func() { _ = conn.Close(); serving.Wait() })
	return n
}

func (n *names) answer(asked []byte) ([]byte, error) {
	var m dnsmessage.Message
	if err := m.Unpack(asked); err != nil {
		return nil, err
	}
	m.Response, m.Authoritative, m.Additionals = true, true, nil
	for _, q := range m.Questions {
		if q.Type == dnsmessage.TypeA {
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class},
				Body: &dnsmessage.AResource{A: *n.is.Load()}})
		}
	}
	return m.Pack()
}

// relay takes connections at an address and passes them on; the returned function closes it with all of them.
func relay(t *testing.T, at, to string) (closes func()) {
	t.Helper()
	listener, err := net.Listen("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var open []net.Conn
	closed := false
	var passing sync.WaitGroup
	passing.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return // it is closed
			}
			server, err := net.Dial("tcp", to)
			if err != nil {
				_ = client.Close()
				continue
			}
			mu.Lock()
			open = append(open, client, server)
			late := closed
			mu.Unlock()
			if late {
				_, _ = client.Close(), server.Close()
				return
			}
			for _, way := range [][2]net.Conn{{client, server}, {server, client}} {
				passing.Go(func() {
					_, _ = io.Copy(way[0], way[1]) // until one of them hangs up
					_ = way[0].Close()
				})
			}
		}
	})
	closes = func() {
		_ = listener.Close()
		mu.Lock()
		closed = true
		for _, c := range open {
			_ = c.Close()
		}
		mu.Unlock()
		passing.Wait()
	}
	t.Cleanup(closes)
	return closes
}

// TestDatabaseMoves: under load the name in DATABASE_URL comes to mean another address, where the database is from then
// on. The worker asks for the address with each connection, and goes on there by itself.
func TestDatabaseMoves(t *testing.T) {
	t.Parallel()
	server := pgtest.NewServer(t)
	_, port, _ := strings.Cut(server.Addr(), ":")
	r := rigOn(t, server.DSN("postgres"))
	in := r.read()
	leave := relay(t, "127.0.0.2:"+port, server.Addr())
	dns := newNames(t, [4]byte{127, 0, 0, 2})
	way, err := url.Parse(r.dsn)
	if err != nil {
		t.Fatal(err)
	}
	way.Host = "database.example.:" + port
	w := r.command(append(r.environment(unhurriedCalls, "FLEXWORKER_TEST_DNS="+dns.conn.LocalAddr().String()), "DATABASE_URL="+way.String()), "run")
	r.says(w.address, "ok", 200)
	sending := r.load()
	in.goesOn()
	leave()
	r.says(w.address, "database", 503)
	relay(t, "127.0.0.3:"+port, server.Addr())
	dns.is.Store(&[4]byte{127, 0, 0, 3})
	r.says(w.address, "ok", 200)
	in.goesOn()
	in.balanced(sending.stop())
	r.uncounted()
	stopped(t, w)
}
