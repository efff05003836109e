package flextest

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"
)

// TestDown: nobody gets in, not even over a connection kept open; on the same
// port all is well again after.
func TestDown(t *testing.T) {
	t.Parallel()
	s, client := New(t), newClient(t)
	try := func() string {
		return look(client.Do(request(t.Context(), t, s.URL()+"/v1/Interactions", formFor(hexA))))
	}
	for range 3 {
		if got := try(); got != "200 sid" {
			t.Fatalf("up: %q", got)
		}
		s.Down()
		s.Down()
		// The client may notice the closed connection only when it uses it.
		got := try()
		if got == "EOF" || got == "reset" {
			got = try()
		}
		if got != "refused" {
			t.Errorf("down: %q", got)
		}
		if err := s.Up(); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(s.Ledger()); n != 3 {
		t.Errorf("%d created, want 3", n)
	}
}

// TestDownInFlight: a call in flight is answered, and its connection closed.
func TestDownInFlight(t *testing.T) {
	t.Parallel()
	s := New(t, CreateThenHang)
	seen := make(chan string, 1)
	req := request(t.Context(), t, s.URL()+"/v1/Interactions", formFor(hexA))
	go func() { seen <- look(newClient(t).Do(req)) }()
	until(t, s, func(c Calls) bool { return c.Hanging == 1 && c.Created == 1 })
	s.Down()
	s.Release()
	if got := <-seen; got != "200 sid" {
		t.Errorf("the client saw %q", got)
	}
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

func TestClose(t *testing.T) {
	t.Parallel()
	s := New(t)
	if err := s.BlackHole(); err != nil {
		t.Logf("no black hole: %v", err)
	}
	s.Close()
	s.Close()
	if err := s.Up(); err != nil {
		t.Error(err)
	}
	if _, err := net.Dial("tcp", s.Addr()); err == nil {
		t.Error("a closed server listens")
	}
}

func TestWait(t *testing.T) {
	t.Parallel()
	s := New(t)
	ctx, cancel := context.WithCancel(t.Context())
	never := make(chan error, 1)
	go func() { never <- s.Wait(ctx, func(c Calls) bool { return c.Created > 99 }) }()
	done := make(chan error, 1)
	go func() { done <- s.Wait(patience(t), func(c Calls) bool { return c.Created == 3 }) }()
	for range 3 {
		create(t, s, formFor(hexA))
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-never; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestAddrTaken(t *testing.T) {
	t.Parallel()
	s := New(t)
	if again, err := Start(Config{Addr: s.Addr()}); err == nil {
		again.Close()
		t.Error("two servers on one port")
	}
}

func TestLatency(t *testing.T) {
	t.Parallel()
	s := NewWith(t, Config{Settings: Settings{Latency: time.Millisecond}})
	start := time.Now()
	sidOf(t, create(t, s, formFor(hexA)))
	if took := time.Since(start); took < time.Millisecond {
		t.Errorf("answered after %v", took)
	}
	s.Set(Settings{Latency: time.Hour})
	ctx, cancel := context.WithCancel(t.Context())
	seen := make(chan string, 1)
	req := request(ctx, t, s.URL()+"/v1/Interactions", formFor(hexB))
	go func() { seen <- look(newClient(t).Do(req)) }()
	until(t, s, func(c Calls) bool { return c.InFlight == 1 })
	cancel()
	if got := <-seen; got != "gave up" {
		t.Errorf("the client saw %q", got)
	}
	until(t, s, func(c Calls) bool { return c.Answered[0] == 1 })
	if n := len(s.Ledger()); n != 1 {
		t.Errorf("%d created, want 1: nobody waited for the second", n)
	}
}
