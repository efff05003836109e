package flex

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"syscall"
)

// maxAnswer is the limit of a body that is kept, in bytes.
const maxAnswer = 1 << 20

// answer is what one exchange showed, before anybody judges it.
type answer struct {
	unreached bool // not one byte of the request left
	locked    bool // there were no credentials to send
	status    int  // 0: no status line was read
	header    http.Header
	body      []byte // as much as came, up to maxAnswer; nil when take had it
	whole     bool   // it came to its end within the limit, and take was content
	broken    string // one word why there is no status, or no whole body
	err       error  // the same in prose; may hold secrets: show it through hide
	secrets   [][]byte
	paths     []string // of our addresses, which are not shown either
}

// exchange sends one request and reads its answer. An empty form makes it a
// request without a body. The body of a 200 goes to take as it comes, unless that
// is nil; every other is kept in the answer.
//
// It uses the transport and no http.Client: that would follow redirects, and
// trip over a malformed Location before it shows the status.
func (c *Client) exchange(ctx context.Context, method, address, form string, take func(body io.Reader) error) (a answer) {
	// The limit covers the credentials too: they may be in a file of a mount that hangs,
	// and what is sent after the lease is over may be sent twice.
	ctx, cancel := context.WithTimeoutCause(ctx, c.timeout, c.late)
	defer cancel()
	l := c.login()
	if l.user == "" || l.password == "" {
		return answer{unreached: true, locked: true, broken: "credentials", err: errors.New("there are no credentials")}
	}
	a.secrets, a.paths = l.secrets, c.paths
	w := new(wire)
	req, err := c.request(w.watch(ctx), method, address, form)
	if err != nil {
		a.unreached, a.broken, a.err = true, "request", err
		return a
	}
	req.Header["Authorization"] = l.header
	res, err := c.transport.RoundTrip(req)
	if err != nil {
		a.unreached, a.broken, a.err = w.seal(), word(ctx, err), err
		w.cut()
		return a
	}
	defer res.Body.Close()
	a.status, a.header = res.StatusCode, res.Header
	if a.status < 200 {
		return a // 101: what follows is no body, and its reading knows no limit
	}
	if take == nil || a.status != http.StatusOK {
		if !a.read(ctx, res) {
			w.cut() // of a request that was answered early the rest may be on its way
		}
	} else if err := take(res.Body); err != nil {
		a.broken, a.err = "body_"+word(ctx, err), err
	} else {
		a.whole = true
	}
	return a
}

// request builds a request that the transport cannot repeat: without GetBody a
// body goes out once, and no header here makes a POST count as idempotent.
func (c *Client) request(ctx context.Context, method, address, form string) (*http.Request, error) {
	var body io.Reader
	if form != "" {
		body = strings.NewReader(form)
	}
	req, err := http.NewRequestWithContext(ctx, method, address, body)
	if err != nil {
		return nil, err
	}
	req.GetBody = nil
	if form != "" {
		req.Header["Content-Type"] = formType
	}
	req.Header["Accept"] = jsonType
	req.Header["Cache-Control"] = noCache
	req.Header["User-Agent"] = c.userAgent
	return req, nil
}

// The values of headers that every call has: the transport only reads them.
var (
	formType = []string{"application/x-www-form-urlencoded"}
	jsonType = []string{"application/json"}
	noCache  = []string{"no-cache"} // what a cache knows of before is no answer to this call
)

// read takes the body in. Whatever goes wrong here, the status stands. It is false when
// the connection broke.
func (a *answer) read(ctx context.Context, res *http.Response) bool {
	var body bytes.Buffer
	if n := res.ContentLength; 0 < n && n <= maxAnswer {
		body.Grow(int(n) + bytes.MinRead)
	}
	_, err := body.ReadFrom(io.LimitReader(res.Body, maxAnswer+1))
	a.body = body.Bytes()
	switch {
	case err != nil:
		a.broken, a.err = "body_"+word(ctx, err), err
	case len(a.body) > maxAnswer:
		a.body = a.body[:maxAnswer]
		a.broken, a.err = "body_too_long", fmt.Errorf("the answer has more than %d bytes", maxAnswer)
	default:
		a.whole = true
	}
	return err == nil
}

// wire sees whether a request's headers were written on any connection. They
// stay in the connection's buffer until WroteHeaders has returned, as they are
// shorter than it; of longer ones a part may have left, which no server can act on.
type wire struct {
	trace  httptrace.ClientTrace
	ctx    context.Context // of the call, for its limit
	mu     sync.Mutex
	conn   net.Conn
	wrote  bool
	sealed bool
}

func (w *wire) watch(ctx context.Context) context.Context {
	w.ctx, w.trace.GotConn, w.trace.WroteHeaders = ctx, w.gotConn, w.wroteHeaders
	return httptrace.WithClientTrace(ctx, &w.trace)
}

func (w *wire) gotConn(info httptrace.GotConnInfo) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.conn = info.Conn
	bound(w.conn, left(w.ctx))
}

// wroteHeaders keeps what seal said true: when it comes later than that, which
// the trace allows, the connection is closed before the buffer is flushed.
func (w *wire) wroteHeaders() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.sealed {
		w.wrote = true
	} else if w.conn != nil {
		reset(w.conn)
	}
}

// seal ends the watch and tells whether nothing was written.
func (w *wire) seal() (unreached bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sealed = true
	return !w.wrote
}

// cut ends the connection of a call that is given up, with all that the kernel holds of it.
// Nobody else can have it: the transport keeps none on which a call went wrong.
func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.conn != nil {
		reset(w.conn)
	}
}

// word is one word for what went wrong on the way.
func word(ctx context.Context, err error) string {
	var dns *net.DNSError
	var op *net.OpError
	var timeout net.Error
	switch {
	case errors.As(err, &dns):
		return "dns"
	case isTLS(err):
		return "tls"
	case errors.As(err, &op) && op.Op == "dial" && ctx.Err() == nil:
		return "dial"
	case errors.Is(ctx.Err(), context.Canceled):
		return "canceled"
	case ctx.Err() != nil, errors.As(err, &timeout) && timeout.Timeout():
		return "timeout"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "reset"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), strings.Contains(err.Error(), "server closed idle"):
		return "eof"
	default:
		return "protocol"
	}
}

func isTLS(err error) bool {
	var certificate *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var alert tls.AlertError
	var host x509.HostnameError
	var authority x509.UnknownAuthorityError
	return errors.As(err, &certificate) || errors.As(err, &record) || errors.As(err, &alert) ||
		errors.As(err, &host) || errors.As(err, &authority) || strings.Contains(err.Error(), "TLS handshake") ||
		strings.Contains(err.Error(), "tls: ")
}
