package main

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/natstest"
)

// dialler reaches the server once. From then on a dial takes until the test ends, as in a black hole.
type dialler struct {
	once  sync.Once
	first net.Conn
	hangs chan struct{} // closed when a later dial has begun
	end   chan struct{}
}

func (d *dialler) Dial(network, address string) (net.Conn, error) {
	conn, err := net.Conn(nil), errors.New("the test has ended")
	reached := false
	d.once.Do(func() {
		conn, err = net.Dial(network, address)
		d.first, reached = conn, true
	})
	if !reached {
		close(d.hangs)
		<-d.end
	}
	return conn, err
}

// TestNATSIsDialled: the client library dials with its lock held, for as long as the dial takes, and answers nobody meanwhile.
// /readyz and /metrics do not wait for it.
func TestNATSIsDialled(t *testing.T) {
	t.Parallel()
	server := natstest.New(t, natstest.Options{})
	d := &dialler{hangs: make(chan struct{}), end: make(chan struct{})}
	conn, err := nats.Connect(server.URL(), nats.SetCustomDialer(d), nats.Timeout(expect.Patience), nats.MaxReconnects(1), nats.ReconnectWait(time.Millisecond), nats.ReconnectJitter(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	t.Cleanup(func() { close(d.end) }) // before Close, which wants the lock
	a := &app{nats: conn}
	patient, done := context.WithTimeout(t.Context(), expect.Patience)
	defer done()
	if !a.natsConnected(patient) || !a.natsAnswers(patient) {
		t.Fatal("it is there, and does not answer")
	}
	_ = d.first.Close()
	<-d.hangs

	over, cancel := context.WithCancel(t.Context())
	cancel()
	answers := make(chan bool, 2)
	go func() { answers <- a.natsConnected(over) }()
	go func() { answers <- a.natsAnswers(over) }()
	for range 2 {
		select {
		case yes := <-answers:
			if yes {
				t.Error("it answers while it is dialled")
			}
		case <-time.After(expect.Patience):
			t.Fatal("who asks waits for the dial")
		}
	}
}
