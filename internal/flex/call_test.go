package flex

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"flexworker/internal/testing/expect"
)

// TestLateCredentials: credentials that come when the call's time is over send
// nothing: its lease may be another's by then.
func TestLateCredentials(t *testing.T) {
	t.Parallel()
	reached := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("reached") })
	const limit = 100 * time.Millisecond
	c := newClient(t, reached.URL, within(limit), func(cfg *Config) {
		cfg.Credentials = func() (string, string) {
			<-time.After(2 * limit) // a file of a mount that hangs
			return testUser, testPassword
		}
	})
	if o := c.Create(t.Context(), wish); o.Kind != Refused || !o.Unreached || o.ErrorKind != "timeout" {
		t.Errorf("%+v", o)
	}
}

// TestNothingSent: whatever fails before the request is written is Refused.
func TestNothingSent(t *testing.T) {
	t.Parallel()
	plain := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("reached") })
	unknown := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("reached") }))
	unknown.Config.ErrorLog = log.New(io.Discard, "", 0)
	unknown.StartTLS()
	t.Cleanup(unknown.Close)
	release := make(chan struct{})
	mute := listen(t, func(int, net.Conn) { <-release })
	t.Cleanup(func() { close(release) })
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, tt := range []struct {
		name, address, kind string
		ctx                 context.Context
		limit               time.Duration
	}{
		{"refused", "http://127.0.0.1:1", "dial", t.Context(), 20 * time.Second},
		{"no such host", "https://flex.invalid", "dns", t.Context(), 20 * time.Second},
		{"not TLS", strings.Replace(plain.URL, "http:", "https:", 1), "tls", t.Context(), 20 * time.Second},
		{"unknown certificate", unknown.URL, "tls", t.Context(), 20 * time.Second},
		{"mute at the handshake", strings.Replace(mute, "http:", "https:", 1), "timeout", t.Context(), 100 * time.Millisecond},
		{"canceled before", plain.URL, "canceled", canceled, 20 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := newClient(t, tt.address, within(tt.limit)).Create(tt.ctx, wish)
			if o.Kind != Refused || !o.Unreached || o.Limited || o.Answered || o.ErrorKind != tt.kind || o.Message == "" {
				t.Errorf("%+v", o)
			}
		})
	}
}

// TestWaitingForAConnection: who waits for a connection has sent nothing.
func TestWaitingForAConnection(t *testing.T) {
	t.Parallel()
	var processed atomic.Int32
	arrived, release := make(chan struct{}), make(chan struct{})
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		processed.Add(1)
		close(arrived)
		<-release
		io.WriteString(w, created)
	})
	c := newClient(t, s.URL, func(c *Config) { c.Concurrency = 1 })
	first := make(chan Outcome)
	go func() { first <- c.Create(t.Context(), wish) }()
	<-arrived
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if o := c.Create(ctx, wish); o.Kind != Refused || !o.Unreached || o.ErrorKind != "timeout" {
		t.Errorf("second: %+v", o)
	}
	close(release)
	if o := <-first; o.Kind != Created {
		t.Errorf("first: %+v", o)
	}
	if processed.Load() != 1 {
		t.Errorf("%d processed", processed.Load())
	}
}

// TestSentAndUnknown: the faults in pairs, before and after the work was done. They
// look the same from here, and are Uncertain both, and no call makes two requests.
func TestSentAndUnknown(t *testing.T) {
	t.Parallel()
	type server func(c net.Conn, r *bufio.Reader, done func())
	for _, tt := range []struct {
		name   string
		talk   server
		status int
		done   int32
		kinds  string // one of these
	}{
		{"reset amid the request", func(c net.Conn, r *bufio.Reader, _ func()) {
			_, _ = r.ReadByte()
			_ = c.(*net.TCPConn).SetLinger(0)
		}, 0, 0, "reset eof"},
		{"closed after the request", func(_ net.Conn, r *bufio.Reader, _ func()) { readRequest(r) }, 0, 0, "eof"},
		{"done, then closed", func(_ net.Conn, r *bufio.Reader, done func()) { readRequest(r); done() }, 0, 1, "eof"},
		{"done, then reset", func(c net.Conn, r *bufio.Reader, done func()) {
			readRequest(r)
			done()
			_ = c.(*net.TCPConn).SetLinger(0)
		}, 0, 1, "reset"},
		{"done, then nonsense", func(c net.Conn, r *bufio.Reader, done func()) {
			readRequest(r)
			done()
			io.WriteString(c, "SSH-2.0-OpenSSH\r\n\r\n")
		}, 0, 1, "protocol"},
		{"done, then half a status line", func(c net.Conn, r *bufio.Reader, done func()) {
			readRequest(r)
			done()
			io.WriteString(c, "HTTP/1.1 20")
		}, 0, 1, "protocol"},
		{"done, then endless headers", func(c net.Conn, r *bufio.Reader, done func()) {
			readRequest(r)
			done()
			io.WriteString(c, "HTTP/1.1 200 OK\r\n")
			for _, err := io.WriteString(c, "X-A: "+strings.Repeat("a", 1000)+"\r\n"); err == nil; {
				_, err = io.WriteString(c, "X-A: "+strings.Repeat("a", 1000)+"\r\n")
			}
		}, 0, 1, "protocol"},
		{"done, then endless 1xx", func(c net.Conn, r *bufio.Reader, done func()) {
			readRequest(r)
			done()
			for _, err := io.WriteString(c, "HTTP/1.1 103 Early Hints\r\n\r\n"); err == nil; {
				_, err = io.WriteString(c, "HTTP/1.1 103 Early Hints\r\n\r\n")
			}
		}, 0, 1, "protocol"},
		{"101", func(c net.Conn, r *bufio.Reader, done func()) {
			readRequest(r)
			done()
			io.WriteString(c, "HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
			_, _ = io.Copy(io.Discard, r) // open until the client leaves: its body must not be waited for
		}, 101, 1, "http_101"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var connections, processed atomic.Int32
			address := listen(t, func(_ int, c net.Conn) {
				connections.Add(1)
				tt.talk(c, bufio.NewReader(c), func() { processed.Add(1) })
			})
			o := newClient(t, address).Create(t.Context(), wish)
			if o.Kind != Uncertain || o.Unreached || o.Answered || o.HTTPStatus != tt.status || o.Message == "" ||
				!strings.Contains(" "+tt.kinds+" ", " "+o.ErrorKind+" ") {
				t.Errorf("%+v", o)
			}
			if connections.Load() != 1 || processed.Load() != tt.done {
				t.Errorf("%d connections, %d processed, want 1 and %d", connections.Load(), processed.Load(), tt.done)
			}
		})
	}
}

// TestNoAnswer: a call that hangs ends by its limit or by the caller's word, and
// is Uncertain either way; the word comes when the server has the request.
func TestNoAnswer(t *testing.T) {
	t.Parallel()
	arrived, release := make(chan struct{}, 2), make(chan struct{})
	s := serve(t, func(http.ResponseWriter, *http.Request) {
		arrived <- struct{}{}
		<-release
	})
	t.Cleanup(func() { close(release) })
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-arrived; cancel() }()
	if o := newClient(t, s.URL).Create(ctx, wish); o.Kind != Uncertain || o.Unreached || o.ErrorKind != "canceled" {
		t.Errorf("canceled: %+v", o)
	}
	o := ends(t, s.URL, time.Second, func(o Outcome) bool { return len(arrived) == 0 && o.Unreached })
	if o.Kind != Uncertain || o.Unreached || o.ErrorKind != "timeout" || o.Message == "" {
		t.Errorf("timed out: %+v", o)
	}
}

// ends makes a call that its limit ends. On a busy machine the limit may come too soon, before what the test is about: such a call has no
// answer and is made again, with more time.
func ends(t *testing.T, address string, limit time.Duration, tooSoon func(Outcome) bool) Outcome {
	t.Helper()
	for {
		o := newClient(t, address, within(limit)).Create(t.Context(), wish)
		if limit >= expect.Patience || o.Answered || !tooSoon(o) {
			return o
		}
		limit *= 2
	}
}

// TestIdleCloseRace: the server closes a kept connection under the second call.
func TestIdleCloseRace(t *testing.T) {
	t.Parallel()
	for _, done := range []bool{false, true} {
		t.Run(fmt.Sprint(done), func(t *testing.T) {
			t.Parallel()
			var connections, processed atomic.Int32
			address := listen(t, func(_ int, c net.Conn) {
				connections.Add(1)
				r := bufio.NewReader(c)
				if !readRequest(r) {
					return
				}
				processed.Add(1)
				io.WriteString(c, answerText("200 OK", created))
				if !done {
					_, _ = r.ReadByte() // the second call has begun
				} else if readRequest(r) {
					processed.Add(1)
				}
			})
			c := newClient(t, address)
			if o := c.Create(t.Context(), wish); o.Kind != Created {
				t.Fatalf("first: %+v", o)
			}
			if o := c.Create(t.Context(), wish); o.Kind != Uncertain {
				t.Errorf("second: %+v", o)
			}
			want := int32(1)
			if done {
				want = 2
			}
			if connections.Load() != 1 || processed.Load() != want {
				t.Errorf("%d connections, %d processed, want 1 and %d", connections.Load(), processed.Load(), want)
			}
		})
	}
}

// TestRedirectsAreNotFollowed: a redirect is not followed, and does not prove that nothing was created: who answers so
// may have passed the request on before.
func TestRedirectsAreNotFollowed(t *testing.T) {
	t.Parallel()
	for _, status := range []int{300, 301, 302, 303, 304, 307, 308} {
		for _, location := range []string{"/v1/elsewhere", "https://user:b-secret@other.test/x?y", "::%zz", ""} {
			t.Run(fmt.Sprint(status, location), func(t *testing.T) {
				t.Parallel()
				var calls atomic.Int32
				s := serve(t, func(w http.ResponseWriter, r *http.Request) {
					calls.Add(1)
					if location != "" {
						w.Header().Set("Location", location)
					}
					w.WriteHeader(status)
				})
				o := newClient(t, s.URL).Create(t.Context(), wish)
				if o.Kind != Uncertain || o.HTTPStatus != status || o.ErrorKind != fmt.Sprintf("http_%d", status) || strings.Contains(o.Message, "b-secret") {
					t.Errorf("%+v", o)
				}
				if calls.Load() != 1 {
					t.Errorf("%d calls", calls.Load())
				}
			})
		}
	}
}

// TestBodies: what a 2xx with this and that body is.
func TestBodies(t *testing.T) {
	t.Parallel()
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	_, _ = z.Write(make([]byte, 20<<20)) // into memory
	_ = z.Close()
	pad := strings.Repeat(" ", 2<<20)
	for _, tt := range []struct {
		name, answer string // the whole answer, as bytes
		kind         Kind
		word         string
		stored       bool
	}{
		{"200", answerText("200 OK", created), Created, "", true},
		{"201", answerText("201 Created", created), Created, "", true},
		{"some 1xx before", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 X\r\n\r\n" + answerText("200 OK", created), Created, "", true},
		{"until it closes", "HTTP/1.1 200 OK\r\n\r\n" + created, Created, "", true},
		{"only a sid", answerText("200 OK", `{"sid":"`+kd+`","channel":null,"routing":7}`), Created, "", true},
		{"sid and NUL", answerText("200 OK", `{"sid":"`+kd+`","x":"\u0000"}`), Created, "", false},
		{"sid and 1e400", answerText("200 OK", `{"sid":"`+kd+`","x":1e400}`), Created, "", false},
		{"sid and bad UTF-8", answerText("200 OK", `{"sid":"`+kd+`","x":"`+"\xff"+`"}`), Created, "", false},
		{"sid, too long after it", answerText("200 OK", `{"sid":"`+kd+`",`+pad+`"x":1}`), Created, "", false},
		{"sid, cut after it", "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + `{"sid":"` + kd + `","chan`, Created, "", false},
		{"cut in the sid", "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + `{"sid":"` + kd, Uncertain, "body_eof", false},
		{"cut before the sid", "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + `{"channel":{"sid":"` + kd + `"`, Uncertain, "body_eof", false},
		{"cut at once", "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", Uncertain, "body_eof", false},
		{"cut chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"a\"", Uncertain, "body_eof", false},
		{"too long before the sid", answerText("200 OK", `{`+pad+`"sid":"`+kd+`"}`), Uncertain, "body_too_long", false},
		{"no sid", answerText("200 OK", `{"status":"ok"}`), Uncertain, "no_sid", true},
		{"null", answerText("200 OK", `null`), Uncertain, "no_sid", true},
		{"sid null", answerText("200 OK", `{"sid":null}`), Uncertain, "no_sid", true},
		{"sid further in", answerText("200 OK", `{"data":{"sid":"`+kd+`"}}`), Uncertain, "no_sid", true},
		{"sid of something else", answerText("200 OK", `{"sid":"`+wt+`"}`), Uncertain, "no_sid", true},
		{"sid and a line feed", answerText("200 OK", `{"sid":"`+kd+`\n"}`), Uncertain, "no_sid", true},
		{"broken JSON", answerText("200 OK", `{"sid":"`+kd+`"`), Uncertain, "body_not_json", false},
		{"HTML", answerText("200 OK", `<html>KD</html>`), Uncertain, "body_not_json", false},
		{"empty", answerText("200 OK", ``), Uncertain, "no_sid", false},
		{"204", "HTTP/1.1 204 No Content\r\n\r\n", Uncertain, "no_sid", false},
		{"gzip bomb", "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: " + fmt.Sprint(bomb.Len()) + "\r\n\r\n" + bomb.String(),
			Uncertain, "body_not_json", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			address := listen(t, func(_ int, c net.Conn) {
				if readRequest(bufio.NewReader(c)) {
					io.WriteString(c, tt.answer)
				}
			})
			o := newClient(t, address).Create(t.Context(), wish)
			if o.Kind != tt.kind || o.ErrorKind != tt.word || !o.Answered || o.Unreached || (o.InteractionSID == kd) != (tt.kind == Created) {
				t.Errorf("%+v", o)
			}
			if (o.Response != nil) != tt.stored {
				t.Errorf("stored %q", o.Response)
			}
			if (o.Message == "") != (tt.kind == Created) || len(o.Message) > maxMessage {
				t.Errorf("message %q", o.Message)
			}
		})
	}
}

// TestSlowBody: the status stands whatever becomes of the body. An endless body
// ends at the limit of its size, a body that stops by the limit of the call.
func TestSlowBody(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, body, word string
		endless          bool
		kind             Kind
	}{
		{"stops after the sid", `{"sid":"` + kd + `","routing":{"properties":{"sid":"` + wt + `",`, "", false, Created},
		{"stops before the sid", `{"routing":`, "body_timeout", false, Uncertain},
		{"endless after the sid", `{"sid":"` + kd + `",`, "", true, Created},
		{"endless before the sid", `{`, "body_too_long", true, Uncertain},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			release := make(chan struct{})
			s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				io.WriteString(w, tt.body)
				w.(http.Flusher).Flush()
				for tt.endless {
					if _, err := io.WriteString(w, strings.Repeat(" ", 1<<16)); err != nil {
						return
					}
				}
				<-release
			})
			t.Cleanup(func() { close(release) })
			limit := 2 * time.Second
			if tt.endless {
				limit = expect.Patience
			}
			o := ends(t, s.URL, limit, func(o Outcome) bool { return o.HTTPStatus == 0 && o.ErrorKind == "timeout" })
			if o.Kind != tt.kind || o.ErrorKind != tt.word || !o.Answered || o.HTTPStatus != 200 || o.Response != nil {
				t.Errorf("%+v", o)
			}
		})
	}
}

// TestLateHeaders: headers that come to be written after the outcome was told close the
// connection, so that the outcome stays true.
func TestLateHeaders(t *testing.T) {
	t.Parallel()
	ours, theirs := net.Pipe()
	defer theirs.Close()
	w := &wire{conn: ours}
	if !w.seal() {
		t.Error("something was written")
	}
	w.wroteHeaders()
	if _, err := theirs.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the connection is open: %v", err)
	}
	w = &wire{conn: ours}
	w.wroteHeaders()
	if w.seal() {
		t.Error("nothing was written")
	}
}

// TestConnectionsAreKept: calls one after the other share a connection.
func TestConnectionsAreKept(t *testing.T) {
	t.Parallel()
	var status atomic.Int32
	var mu sync.Mutex
	from := make(map[string]bool)
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		from[r.RemoteAddr] = true
		mu.Unlock()
		w.WriteHeader(int(status.Load()))
		io.WriteString(w, created)
	})
	c := newClient(t, s.URL)
	for _, code := range []int32{200, 400, 429, 500, 200} {
		status.Store(code)
		c.Create(t.Context(), wish)
	}
	if len(from) != 1 {
		t.Errorf("%d connections", len(from))
	}
}

// TestAsManyAsSlots: that many connections are opened, and all of them are kept.
func TestAsManyAsSlots(t *testing.T) {
	t.Parallel()
	const slots = 8
	var mu sync.Mutex
	from := make(map[string]bool)
	arrived, release := make(chan struct{}), make(chan struct{})
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		from[r.RemoteAddr] = true
		mu.Unlock()
		arrived <- struct{}{}
		<-release
		io.WriteString(w, created)
	})
	c := newClient(t, s.URL, func(c *Config) { c.Concurrency = slots })
	for range 3 {
		var calls sync.WaitGroup
		for range slots {
			calls.Go(func() {
				if o := c.Create(t.Context(), wish); o.Kind != Created {
					t.Errorf("%+v", o)
				}
			})
		}
		for range slots {
			<-arrived
		}
		for range slots {
			release <- struct{}{}
		}
		calls.Wait()
	}
	if len(from) != slots {
		t.Errorf("%d connections for %d slots", len(from), slots)
	}
}

// TestCannotBeRepeated: without GetBody no transport can send a body again.
func TestCannotBeRepeated(t *testing.T) {
	t.Parallel()
	req, err := newClient(t, "http://127.0.0.1:1").request(t.Context(), "POST", "http://127.0.0.1:1/", "Channel=x")
	if err != nil || req.GetBody != nil || req.ContentLength != 9 {
		t.Errorf("GetBody is set: %v, length %d, %v", req.GetBody != nil, req.ContentLength, err)
	}
}
