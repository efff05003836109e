package flextest

import (
	"fmt"
	"net"
	"syscall"
	"time"
)

// serve accepts on listener until it is closed. The lock is held.
func (s *Server) serve(listener net.Listener) {
	s.listener = listener
	s.running.Add(1)
	go func() {
		defer s.running.Done()
		_ = s.http.Serve(listener) // ends by Down or Close
	}()
}

// Down refuses connections until Up: the listener is closed, idle connections
// too; calls in flight are answered and their connections then closed.
func (s *Server) Down() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down()
}

func (s *Server) down() {
	s.http.SetKeepAlivesEnabled(false)
	if s.listener != nil {
		_ = s.listener.Close()
		s.listener = nil
	}
	s.fillHole()
}

// Up ends Down and BlackHole, on the same port. It fails when that port was
// taken meanwhile.
func (s *Server) Up() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listener != nil || s.closed {
		return nil
	}
	s.fillHole()
	listener, err := s.listen()
	if err != nil {
		return err
	}
	s.http.SetKeepAlivesEnabled(true)
	s.serve(listener)
	return nil
}

// listen takes the port again. On a busy machine it may be the port of somebody's
// outgoing connection for a moment, so it is tried for a while.
func (s *Server) listen() (net.Listener, error) {
	var err error
	for range 100 {
		var listener net.Listener
		if listener, err = net.Listen("tcp", s.addr); err == nil {
			return listener, nil
		}
		<-time.After(20 * time.Millisecond) // nobody tells when a port is given back
	}
	return nil, fmt.Errorf("flextest: %w", err)
}

// hole is a listener that accepts nobody, and the connections that fill its
// queue.
type hole struct {
	listener net.Listener
	conns    []net.Conn
}

// BlackHole lets connections be dialed in vain until Up: packets to the port are
// dropped. It does so by a listener whose queue is full, which needs Linux.
func (s *Server) BlackHole() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.down()
	listener, err := s.listen()
	if err != nil {
		return err
	}
	s.hole = &hole{listener: listener}
	raw, err := listener.(*net.TCPListener).SyscallConn()
	if err != nil {
		return fmt.Errorf("flextest: %w", err)
	}
	if controlErr := raw.Control(func(fd uintptr) { err = syscall.Listen(int(fd), 0) }); controlErr != nil || err != nil {
		return fmt.Errorf("flextest: the queue of %s stays long: %w", s.addr, err)
	}
	for range 64 {
		conn, err := net.DialTimeout("tcp", s.addr, 200*time.Millisecond)
		if err != nil {
			return nil // the queue is full
		}
		s.hole.conns = append(s.hole.conns, conn)
	}
	return fmt.Errorf("flextest: %s still accepts", s.addr)
}

// fillHole ends a black hole. The lock is held.
func (s *Server) fillHole() {
	if s.hole == nil {
		return
	}
	_ = s.hole.listener.Close()
	for _, conn := range s.hole.conns {
		_ = conn.Close()
	}
	s.hole = nil
}
