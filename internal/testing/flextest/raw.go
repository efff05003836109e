package flextest

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// carryRaw does what needs the bare connection.
func (c *call) carryRaw(what string, body []byte) {
	status := c.status
	if what == "reset" || what == "eof" {
		status = 0
	}
	c.leave(status)
	conn, _, err := http.NewResponseController(c.w).Hijack()
	if err != nil || !c.track(conn) {
		panic(http.ErrAbortHandler)
	}
	defer c.untrack(conn)
	head := c.head(len(body))
	switch what {
	case "reset":
		_ = conn.(*net.TCPConn).SetLinger(0)
	case "eof":
	case "cut":
		_, _ = conn.Write(append(head, body[:len(body)/2]...))
	case "drip":
		if c.drip(conn, head) {
			_, _ = conn.Write(body)
		}
	case "slow-body":
		if _, err := conn.Write(head); err == nil {
			c.drip(conn, body)
		}
	case "huge-headers":
		padding := "X-Padding: " + string(bytes.Repeat([]byte{'x'}, 1000)) + "\r\n"
		padded := append(slices.Clone(head[:len(head)-2]), bytes.Repeat([]byte(padding), hugeHeaders/len(padding)+1)...)
		_, _ = conn.Write(append(append(padded, "\r\n"...), body...))
	case "flood":
		_, _ = conn.Write(append(append(bytes.Repeat([]byte("HTTP/1.1 103 Early Hints\r\n\r\n"), flood), head...), body...))
	case "close", "close-next":
		_, err := conn.Write(append(head, body...))
		if err == nil && what == "close-next" {
			_, _ = conn.Read(make([]byte, 1)) // the next call, or the client's own close
		}
	}
}

// head is the head of a good answer, as net/http would write it.
func (c *call) head(length int) []byte {
	head := fmt.Sprintf("HTTP/1.1 %d %s\r\nContent-Type: application/json\r\n", c.status, http.StatusText(c.status))
	if c.id != "" {
		head += "Twilio-Request-Id: " + c.id + "\r\n"
	}
	return []byte(head + "Content-Length: " + strconv.Itoa(length) + "\r\n\r\n")
}

// drip writes text byte by byte and says whether all of it went out.
func (c *call) drip(conn net.Conn, text []byte) bool {
	tick := time.NewTicker(c.settings.Load().Drip)
	defer tick.Stop()
	for i := range text {
		if _, err := conn.Write(text[i : i+1]); err != nil {
			return false
		}
		select {
		case <-tick.C:
		case <-c.closing:
			return false
		}
	}
	return true
}

// track makes Close close a connection that was taken over; false when the
// server is closed already.
func (s *Server) track(conn net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = conn.Close()
		return false
	}
	s.hijacked[conn] = struct{}{}
	return true
}

func (s *Server) untrack(conn net.Conn) {
	_ = conn.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.hijacked, conn)
}
