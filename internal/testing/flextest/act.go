package flextest

import (
	"bytes"
	"compress/gzip"
	"net/http"
	"slices"
	"strings"
	"time"
)

// The sizes of what is too large, in bytes, and the length of a flood.
const (
	hugeBody    = 16 << 20
	hugeHeaders = 1 << 20
	flood       = 20000
)

const page = "<!DOCTYPE html><html><head><title>Bad gateway</title></head><body><h1>Not what you came for</h1></body></html>"

// call is one call that is being answered.
type call struct {
	*Server
	w      http.ResponseWriter
	r      *http.Request
	status int              // of a good answer
	id     string           // Twilio-Request-Id
	leave  func(status int) // tells the ledger, just before a status line or an end without one
}

// carry answers with body, or does to the connection and to body what plan says.
func (c *call) carry(p plan, body []byte) {
	switch p.what {
	case "", "hang":
		if p.what == "hang" {
			c.hang()
		}
		c.answer(c.status, jsonType, body)
	case "status":
		c.answerStatus(p)
	case "empty":
		c.leave(http.StatusNoContent)
		c.w.WriteHeader(http.StatusNoContent)
	case "not-json":
		c.answer(c.status, jsonType, []byte("sid=KD, but this is not JSON"))
	case "html":
		c.hideTwilio()
		c.answer(c.status, htmlType, []byte(page))
	case "no-sid":
		c.answer(c.status, jsonType, []byte(nothing))
	case "bad-sid":
		c.answer(c.status, jsonType, []byte(`{"sid":"KD-not-32-hex-digits","routing":null}`))
	case "huge":
		c.answer(c.status, jsonType, pad(body))
	case "gzip":
		c.answerGzip(body)
	case "gzip-bomb":
		c.answerGzip(pad(body))
	default:
		c.carryRaw(p.what, body)
	}
}

// answerStatus answers a status that is no success.
func (c *call) answerStatus(p plan) {
	if p.retryAfter != "" {
		c.w.Header().Set("Retry-After", p.retryAfter)
	}
	if p.status < 400 {
		c.w.Header().Set("Location", elsewhere)
	}
	switch {
	case p.html:
		c.hideTwilio()
		c.answer(p.status, htmlType, []byte(page))
	case p.foreign:
		c.hideTwilio()
		body := appendQuoted([]byte(`{"message":`), []byte(http.StatusText(p.status)))
		c.answer(p.status, jsonType, append(body, '}'))
	default:
		c.answer(p.status, jsonType, appendError(nil, p.status, p.code, http.StatusText(p.status)))
	}
}

// hideTwilio takes away the headers by which an answer shows that it is Twilio's.
func (c *call) hideTwilio() {
	for name := range c.w.Header() {
		if strings.HasPrefix(name, "Twilio-") {
			c.w.Header().Del(name)
		}
	}
}

// answerGzip answers with body compressed, whether the client asked or not.
func (c *call) answerGzip(body []byte) {
	var buf bytes.Buffer
	zip := gzip.NewWriter(&buf)
	_, _ = zip.Write(body) // a bytes.Buffer takes everything
	_ = zip.Close()
	c.w.Header().Set("Content-Encoding", "gzip")
	c.answer(c.status, jsonType, buf.Bytes())
}

func (c *call) answer(status int, kind []string, body []byte) {
	c.leave(status)
	write(c.w, status, kind, body)
}

// pad is the JSON object body with a member behind it that makes it huge.
func pad(body []byte) []byte {
	head := append(slices.Clone(body[:len(body)-1]), `,"padding":"`...)
	return append(append(head, bytes.Repeat([]byte{'x'}, hugeBody)...), `"}`...)
}

// rest waits; false when there is nobody left to answer.
func (c *call) rest(d time.Duration) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-c.r.Context().Done():
	case <-c.closing:
	}
	return false
}

// hang returns when Release was called and does not return when the client or
// the server has gone.
func (c *call) hang() {
	c.mu.Lock()
	release := c.release
	c.mu.Unlock()
	hanging := &c.ledger.calls.Hanging
	c.ledger.shift(hanging, 1) // from here on Release finds it
	defer c.ledger.shift(hanging, -1)
	select {
	case <-release:
	case <-c.r.Context().Done():
		c.abort()
	case <-c.closing:
		c.abort()
	}
}

// abort ends the call without an answer.
func (c *call) abort() {
	c.leave(0)
	panic(http.ErrAbortHandler)
}

// Release lets every call that hangs go on as if nothing had been.
func (s *Server) Release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.release)
	s.release = make(chan struct{})
}
