package flextest

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"
)

// TestBlackHole: a connection is neither made nor refused, until Up.
func TestBlackHole(t *testing.T) {
	t.Parallel()
	s := New(t)
	if err := s.BlackHole(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", s.Addr())
	if err == nil {
		conn.Close()
		t.Error("a connection was made")
	} else if !errors.Is(err, context.DeadlineExceeded) && !isTimeout(err) {
		t.Errorf("dial: %v", err)
	}
	if err := s.Up(); err != nil {
		t.Fatal(err)
	}
	sidOf(t, create(t, s, formFor(hexA)))
}

// TestRemoteBlackHole is TestRemoteOutage where nothing is refused.
func TestRemoteBlackHole(t *testing.T) {
	t.Parallel()
	remoteOutage(t, Injection{Hole: "50ms"})
}
