// Package faultproxy stands between a client and a server on one machine and breaks the network there, for tests and the
// soak. It knows no protocol: the same proxy serves Postgres, NATS and Flex.
//
//	p := faultproxy.New(t, server.Addr())   // bytes pass
//	p.Cut()                                 // every open connection is reset; the next one passes
//	p.Blackhole()                           // nothing is closed and nothing passes, as when a cable is pulled
//	p.Refuse()                              // open connections are reset and new ones are refused
//	p.Heal()                                // bytes pass again; what the black hole held back is delivered
//
// What it cannot do: on one machine the kernel completes a TCP handshake by itself, so a new connection into the black
// hole is accepted and then silent, where a real one would hang in connect.
package faultproxy

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
)

// Proxy passes TCP connections on to one target, or does not. All methods may be called at any time and by anyone.
type Proxy struct {
	target string
	addr   string
	wait   sync.WaitGroup // the accept loop and both directions of every connection

	mu       sync.Mutex
	listener net.Listener          // nil while connections are refused, and after Close
	conns    map[net.Conn]struct{} // both ends of every open connection
	open     chan struct{}         // closed while bytes may pass
	closed   bool
}

// New is Start for a test: it fails the test instead of returning an error, and closes the proxy when the test ends.
func New(t testing.TB, target string) *Proxy {
	t.Helper()
	p, err := Start(target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// Start opens a proxy in front of target, a host and port. Whoever starts it closes it.
func Start(target string) (*Proxy, error) {
	port, err := FreePort()
	if err != nil {
		return nil, err
	}
	p := &Proxy{
		target: target,
		addr:   fmt.Sprintf("127.0.0.1:%d", port),
		conns:  make(map[net.Conn]struct{}),
		open:   make(chan struct{}),
	}
	close(p.open)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.listen(); err != nil {
		return nil, err
	}
	return p, nil
}

// FreePort finds a port that nobody listens on, below the range from which kernels take the ports of outgoing connections
// (32768 on Linux, 49152 on macOS). A server that goes away and comes back needs such a port: from that range another
// connection may take it meanwhile, and a client that keeps dialling it may even meet itself (TCP simultaneous open).
//
// No other call of it, of this process or of another, gives the same port while this process lives: whoever asked for it may not
// listen yet, or may be away for a moment.
func FreePort() (int, error) { return free.take() }

const firstPort, portsEnd, blockSize = 15000, 32768, 250

// free are the ports that this process has not given out yet. It has whole blocks to itself: it listens on the first port of
// each for as long as it lives.
var free ports

type ports struct {
	mu        sync.Mutex
	next, end int // of the block in use
	blocks    []net.Listener
}

func (p *ports) take() (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		if p.next == p.end {
			if err := p.takeBlock(); err != nil {
				return 0, err
			}
		}
		port := p.next
		p.next++
		if l, err := listenOn(port); err == nil { // nobody else's server is there
			return port, l.Close()
		}
	}
}

// takeBlock needs p.mu.
func (p *ports) takeBlock() error {
	var err error
	const blocks = (portsEnd - firstPort) / blockSize
	for _, i := range rand.Perm(blocks) {
		first := firstPort + i*blockSize
		var l net.Listener
		if l, err = listenOn(first); err == nil {
			p.blocks = append(p.blocks, l)
			p.next, p.end = first+1, first+blockSize
			return nil
		}
	}
	return fmt.Errorf("no free ports between %d and %d: %w", firstPort, portsEnd-1, err)
}

func listenOn(port int) (net.Listener, error) {
	return net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
}

// Addr is where clients connect: 127.0.0.1 and a port that stays the same through Refuse and Heal.
func (p *Proxy) Addr() string { return p.addr }

// Cut resets every open connection, in both directions. Connections made afterwards are not affected.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut()
}

// Blackhole stops every byte, of open and of new connections, and closes none. Bytes sent meanwhile wait in the proxy and
// in the kernel's buffers, as they would wait for retransmission.
func (p *Proxy) Blackhole() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.open:
		p.open = make(chan struct{})
	default: // already one
	}
}

// Refuse resets every open connection and refuses new ones until Heal.
func (p *Proxy) Refuse() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener != nil {
		_ = p.listener.Close() // the accept loop ends by it; nothing else can go wrong
		p.listener = nil
	}
	p.cut()
}

// Heal ends a black hole and a refusal. It panics when the port cannot be had back, as no test could go on from there.
func (p *Proxy) Heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.unblock()
	if p.listener == nil && !p.closed {
		if err := p.listen(); err != nil {
			panic(fmt.Sprintf("faultproxy: heal: %v", err))
		}
	}
}

// Close resets what is open and returns when nothing of the proxy runs any more.
func (p *Proxy) Close() {
	p.mu.Lock()
	p.closed = true
	if p.listener != nil {
		_ = p.listener.Close()
		p.listener = nil
	}
	p.cut()
	p.unblock()
	p.mu.Unlock()
	p.wait.Wait()
}

// listen, unblock and cut need p.mu.
func (p *Proxy) listen() error {
	l, err := net.Listen("tcp", p.addr)
	if err != nil {
		return err
	}
	p.listener = l
	p.wait.Go(func() { p.accept(l) })
	return nil
}

func (p *Proxy) unblock() {
	select {
	case <-p.open:
	default:
		close(p.open)
	}
}

func (p *Proxy) cut() {
	for c := range p.conns {
		reset(c)
		delete(p.conns, c)
	}
}

func (p *Proxy) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil && p.keep(c, l) {
			p.wait.Go(func() { p.join(c) })
		}
	}
}

// keep notes a connection that l has accepted, unless l was closed while it was being made.
func (p *Proxy) keep(c net.Conn, l net.Listener) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener != l {
		reset(c)
		return false
	}
	p.conns[c] = struct{}{}
	return true
}

// join connects client to the target and passes bytes both ways until both sides have hung up or one has failed.
func (p *Proxy) join(client net.Conn) {
	defer p.drop(client)
	<-p.passage()
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		reset(client)
		return
	}
	if !p.keepWith(client, server) {
		return
	}
	defer p.drop(server)
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.pass(server, client)
	}()
	p.pass(client, server)
	<-done
}

// keepWith notes the other half of client's connection, unless client was cut while that was being dialled.
func (p *Proxy) keepWith(client, server net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.conns[client]; !ok {
		reset(server)
		return false
	}
	p.conns[server] = struct{}{}
	return true
}

// pass copies until one side hangs up, which it passes on too, or fails, which resets both. It asks between the read and
// the write, so that once Blackhole has returned nothing passes but a write that was already under way.
func (p *Proxy) pass(to, from net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		<-p.passage()
		if n > 0 {
			if _, werr := to.Write(buf[:n]); werr != nil {
				err = werr
			}
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF):
			_ = to.(*net.TCPConn).CloseWrite() // fails only on a connection that is gone already
			return
		default:
			reset(to)
			reset(from)
			return
		}
	}
}

func (p *Proxy) passage() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.open
}

func (p *Proxy) drop(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
	_ = c.Close() // a second close of a connection that was reset says so; that is no news
}

// reset closes c so that the other end sees a reset, not a polite end.
func reset(c net.Conn) {
	_ = c.(*net.TCPConn).SetLinger(0)
	_ = c.Close()
}
