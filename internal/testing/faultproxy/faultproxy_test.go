package faultproxy_test

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/faultproxy"
)

// echo starts a server that sends each line back, and returns its address.
func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
				for in := bufio.NewReader(c); ; {
					line, err := in.ReadString('\n')
					if err != nil {
						return
					}
					if _, err := c.Write([]byte(line)); err != nil {
						return
					}
				}
			}()
		}
	}()
	return l.Addr().String()
}

type client struct {
	net.Conn
	in *bufio.Reader
}

func dial(t *testing.T, addr string) client {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return client{c, bufio.NewReader(c)}
}

// ask sends a line and returns the error of sending it or of reading it back within limit.
func (c client) ask(limit time.Duration) error {
	if _, err := c.Write([]byte("hello\n")); err != nil {
		return err
	}
	return c.hear(limit)
}

func (c client) hear(limit time.Duration) error {
	if err := c.SetReadDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	_, err := c.in.ReadString('\n')
	return err
}

const (
	soon = expect.Patience        // for what must come: never waited out when all is well
	long = 100 * time.Millisecond // for what must not come: always waited out
)

func TestCutResetsOpenConnectionsOnly(t *testing.T) {
	t.Parallel()
	p := faultproxy.New(t, echo(t))
	c := dial(t, p.Addr())
	if err := c.ask(soon); err != nil {
		t.Fatal(err)
	}
	p.Cut()
	if err := c.hear(soon); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("after Cut: got %v, want a reset", err)
	}
	if err := dial(t, p.Addr()).ask(soon); err != nil {
		t.Errorf("a new connection: %v", err)
	}
}

func TestBlackholeHoldsBackAndHealDelivers(t *testing.T) {
	t.Parallel()
	p := faultproxy.New(t, echo(t))
	before := dial(t, p.Addr())
	if err := before.ask(soon); err != nil {
		t.Fatal(err)
	}
	p.Blackhole()
	p.Blackhole() // twice is once
	during := dial(t, p.Addr())
	for name, c := range map[string]client{"open": before, "new": during} {
		if err := c.ask(long); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s connection: got %v, want silence", name, err)
		}
	}
	p.Heal()
	for name, c := range map[string]client{"open": before, "new": during} {
		if err := c.hear(soon); err != nil {
			t.Errorf("%s connection after Heal: %v", name, err)
		}
	}
}

func TestRefuseAndHeal(t *testing.T) {
	t.Parallel()
	p := faultproxy.New(t, echo(t))
	c := dial(t, p.Addr())
	if err := c.ask(soon); err != nil {
		t.Fatal(err)
	}
	p.Refuse()
	if err := c.hear(soon); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("open connection: got %v, want a reset", err)
	}
	if _, err := net.Dial("tcp", p.Addr()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("new connection: got %v, want refused", err)
	}
	p.Heal()
	if err := dial(t, p.Addr()).ask(soon); err != nil {
		t.Errorf("after Heal: %v", err)
	}
}

// TestCloseReturns holds connections in every condition; Close has to end them all, or the test runs into its limit.
func TestCloseReturns(t *testing.T) {
	t.Parallel()
	p := faultproxy.New(t, echo(t))
	c := dial(t, p.Addr())
	if err := c.ask(soon); err != nil {
		t.Fatal(err)
	}
	p.Blackhole()
	dial(t, p.Addr())
	p.Close()
	if err := c.hear(soon); err == nil {
		t.Error("the connection survived Close")
	}
	if _, err := net.Dial("tcp", p.Addr()); err == nil {
		t.Error("the port survived Close")
	}
}

// TestTargetAway: the proxy of a target that is not there resets every connection, at once or at the first read.
func TestTargetAway(t *testing.T) {
	t.Parallel()
	port, err := faultproxy.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	p := faultproxy.New(t, fmt.Sprintf("127.0.0.1:%d", port))
	c, err := net.Dial("tcp", p.Addr())
	if err == nil {
		t.Cleanup(func() { _ = c.Close() })
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v, want a reset", err)
	}
}
