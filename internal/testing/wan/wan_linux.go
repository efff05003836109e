// Package wan is a long way within one machine, for tests: an address behind a round trip, to
// which the way can be cut, with packets lost in silence, as a network does it. A proxy between
// two sockets cannot show what a kernel does with bytes that nobody acknowledges.
//
// It is a TUN device that sends every packet back with its two addresses exchanged: a call to
// Far arrives at Near, from Far. The sums of IP and TCP stay right, as they do not depend on the
// order. It needs root, a network namespace of its own (see Alone) and /dev/net/tun; neither
// netem, a packet filter nor any program.
package wan

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"flexworker/internal/testing/alone"
)

// The two ends: who listens on Near is called at Far.
const (
	Near = "198.18.0.1" // RFC 2544: for tests of networks
	Far  = "198.18.0.2"
)

// Alone runs the test that calls it in a network namespace of its own in which only the loopback device is up: alone.In.
func Alone(t *testing.T) bool {
	t.Helper()
	if driver, err := openDriver(); err != nil && os.Geteuid() == 0 {
		alone.Cannot(t, "a long way needs a TUN device: "+err.Error())
	} else if err == nil {
		_ = unix.Close(driver)
	}
	if !alone.In(t, unix.CLONE_NEWNET) {
		return false
	}
	if err := loopbackUp(); err != nil {
		t.Fatal(err)
	}
	return true
}

// Line is a way that is open. Its methods may be called from several goroutines.
type Line struct {
	device *os.File
	delay  time.Duration
	cut    atomic.Int32 // open, whole, or the port whose answers are lost
	lost   atomic.Int64
	marks  atomic.Uint32 // the last number that Mend has given to a packet
	marked atomic.Uint32 // the last such number that read has seen
	late   chan packet
	done   chan struct{}
}

// markPort is where Mend's packets go: to discard (RFC 863).
const markPort = 9

// markOf is the number of a packet that Mend has sent, and 0 for any other. It gets IPv4, of at least 20 bytes.
func markOf(data []byte) uint32 {
	const udp, header = 17, 8
	if ip := int(data[0]&0x0f) * 4; data[9] == udp && len(data) == ip+header+4 {
		return binary.BigEndian.Uint32(data[ip+header:])
	}
	return 0
}

// What is lost, where it is not the number of a port.
const (
	open  = 0
	whole = -1
)

type packet struct {
	due  time.Time
	data []byte
}

// Open opens the way for a test, with half of roundTrip in each direction.
func Open(t *testing.T, roundTrip time.Duration) *Line {
	t.Helper()
	device, err := openTUN("wan0")
	if err != nil {
		t.Fatalf("a long way: %v", err)
	}
	l := &Line{device: device, delay: roundTrip / 2, late: make(chan packet, 4096), done: make(chan struct{}, 2)}
	go l.read()
	go l.write()
	t.Cleanup(func() {
		_ = device.Close() // ends read, and that ends write
		<-l.done
		<-l.done
	})
	return l
}

// Cut makes a black hole of the way: packets in both directions are lost, nobody is told.
func (l *Line) Cut() { l.cut.Store(whole) }

// CutAnswers loses what a server on this port of Near sends, and nobody is told. What is sent to the server arrives.
func (l *Line) CutAnswers(port int) { l.cut.Store(int32(port)) }

// Mend ends Cut and CutAnswers. First the hole has to take all packets that were sent until now: on a busy machine the kernel still
// holds some of them. Mend sends a packet of its own behind them. When read gets it, read has had all others.
func (l *Line) Mend() {
	conn, err := net.DialUDP("udp4", nil, &net.UDPAddr{IP: net.ParseIP(Far), Port: markPort})
	if err != nil {
		panic("wan: no packet can be sent to Far: " + err.Error()) // it has an address and a route since Open
	}
	defer func() { _ = conn.Close() }() // nothing is kept in it
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for n := l.marks.Add(1); l.marked.Load() < n; <-again.C {
		_, _ = conn.Write(binary.BigEndian.AppendUint32(nil, n)) // a packet may be lost, and the next tick sends another
	}
	l.cut.Store(open)
}

// loses tells whether the hole takes a packet of IPv4, of at least 20 bytes.
func (l *Line) loses(data []byte) bool {
	switch cut := l.cut.Load(); cut {
	case open:
		return false
	case whole:
		return true
	default:
		header := int(data[0]&0x0f) * 4 // of IP; the ports follow
		return len(data) >= header+4 && int32(binary.BigEndian.Uint16(data[header:])) == cut
	}
}

// Lost is how many packets the hole has taken.
func (l *Line) Lost() int64 { return l.lost.Load() }

// read takes what the kernel sends.
func (l *Line) read() {
	defer func() { close(l.late); l.done <- struct{}{} }()
	for {
		data := make([]byte, 1<<16)
		n, err := l.device.Read(data)
		if err != nil {
			return
		}
		if n < 20 || data[0]>>4 != 4 {
			continue // IPv6 looks for neighbours
		}
		if number := markOf(data[:n]); number > 0 {
			l.marked.Store(number)
			continue
		}
		if l.loses(data[:n]) {
			l.lost.Add(1)
			continue
		}
		var from [4]byte
		copy(from[:], data[12:16])
		copy(data[12:16], data[16:20])
		copy(data[16:20], from[:])
		l.late <- packet{time.Now().Add(l.delay), data[:n]}
	}
}

// write gives it back when its time has come: all take equally long, so in their order.
func (l *Line) write() {
	defer func() { l.done <- struct{}{} }()
	for p := range l.late {
		if wait := time.Until(p.due); wait > 0 {
			<-time.After(wait)
		}
		if l.loses(p.data) { // it was on the way when the hole came
			l.lost.Add(1)
			continue
		}
		_, _ = l.device.Write(p.data) // a packet may be lost
	}
}

// Unacknowledged are the bytes that this namespace's kernel still wants to get to a port of Far,
// by sockets in use and by those that a program has closed: what it sends again and again.
func Unacknowledged(port int) (bytes int, err error) {
	table, err := os.ReadFile("/proc/self/net/tcp")
	if err != nil {
		return 0, fmt.Errorf("wan: %w", err)
	}
	far := netip.MustParseAddr(Far).As4()
	remote := fmt.Sprintf("%02X%02X%02X%02X:%04X", far[3], far[2], far[1], far[0], port) // little-endian, as the kernel prints it
	for line := range strings.Lines(string(table)) {
		fields := strings.Fields(line)
		if len(fields) < 5 || fields[2] != remote {
			continue
		}
		queue, _, _ := strings.Cut(fields[4], ":")
		n, err := strconv.ParseUint(queue, 16, 32)
		if err != nil {
			return 0, fmt.Errorf("wan: /proc/self/net/tcp: %w", err)
		}
		bytes += int(n)
	}
	return bytes, nil
}

// openTUN makes a TUN device with Near's address, from which Far's can be reached.
func openTUN(name string) (*os.File, error) {
	fd, err := openDriver()
	if err != nil {
		return nil, err
	}
	made, err := unix.NewIfreq(name)
	if err == nil {
		made.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, made)
	}
	if err == nil {
		err = configure(name, func(socket int, r *unix.Ifreq) error {
			near, mask := netip.MustParseAddr(Near).As4(), [4]byte{255, 255, 255, 252}
			if err := errors.Join(r.SetInet4Addr(near[:]), unix.IoctlIfreq(socket, unix.SIOCSIFADDR, r)); err != nil {
				return err
			}
			return errors.Join(r.SetInet4Addr(mask[:]), unix.IoctlIfreq(socket, unix.SIOCSIFNETMASK, r))
		})
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// openDriver opens /dev/net/tun. Containers often lack it: then a node of the same numbers is
// made for a moment.
func openDriver() (int, error) {
	const flags = unix.O_RDWR | unix.O_CLOEXEC | unix.O_NONBLOCK
	fd, err := unix.Open("/dev/net/tun", flags, 0)
	if !errors.Is(err, unix.ENOENT) {
		if err != nil {
			err = fmt.Errorf("/dev/net/tun: %w", err)
		}
		return fd, err
	}
	dir, err := os.MkdirTemp("", "wan")
	if err != nil {
		return -1, err
	}
	defer func() { _ = os.RemoveAll(dir) }() // it is empty, or as good as empty
	node := filepath.Join(dir, "tun")
	if err := unix.Mknod(node, unix.S_IFCHR|0o600, int(unix.Mkdev(10, 200))); err != nil {
		return -1, fmt.Errorf("there is no /dev/net/tun, and none can be made: %w", err)
	}
	if fd, err = unix.Open(node, flags, 0); err != nil {
		return -1, fmt.Errorf("there is no /dev/net/tun, and one that was made cannot be opened: %w", err)
	}
	return fd, nil
}

func loopbackUp() error {
	return configure("lo", func(int, *unix.Ifreq) error { return nil })
}

// configure does something to a device and takes it up.
func configure(name string, do func(socket int, r *unix.Ifreq) error) error {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(socket) }() // nothing was written
	r, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	if err := do(socket, r); err != nil {
		return fmt.Errorf("the device %s: %w", name, err)
	}
	if err := unix.IoctlIfreq(socket, unix.SIOCGIFFLAGS, r); err != nil {
		return fmt.Errorf("the device %s: %w", name, err)
	}
	r.SetUint16(r.Uint16() | unix.IFF_UP)
	if err := unix.IoctlIfreq(socket, unix.SIOCSIFFLAGS, r); err != nil {
		return fmt.Errorf("the device %s does not come up: %w", name, err)
	}
	return nil
}
