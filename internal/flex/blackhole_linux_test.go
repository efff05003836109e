package flex

import (
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/wan"
)

// far is a server at the far end of a long way, and what of it was heard.
type far struct {
	*httptest.Server
	port  int
	line  *wan.Line
	mu    sync.Mutex
	heard map[string]bool // by header Name: whole requests
}

func farServer(t *testing.T, line *wan.Line, secure bool) *far {
	t.Helper()
	f := &far{line: line, heard: map[string]bool{}}
	f.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return
		}
		f.mu.Lock()
		f.heard[r.Header.Get("User-Agent")] = true
		f.mu.Unlock()
		io.WriteString(w, created)
	}))
	listener, err := net.Listen("tcp", wan.Near+":0")
	if err != nil {
		t.Fatal(err)
	}
	_ = f.Listener.Close()
	f.Listener = listener
	f.port = listener.Addr().(*net.TCPAddr).Port
	if secure {
		f.StartTLS()
	} else {
		f.Start()
	}
	t.Cleanup(f.Close)
	return f
}

func (f *far) has(name string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.heard[name]
}

// address is where the far end is called.
func (f *far) address() string {
	scheme, _, _ := strings.Cut(f.URL, ":")
	return fmt.Sprintf("%s://%s:%d", scheme, wan.Far, f.port)
}

// control is what Go does by itself: the same call, with nothing done about what the kernel
// keeps. What becomes of it shows that the hole was one.
func (f *far) control(t *testing.T, secure bool) (call func(ctx context.Context, name string) error) {
	t.Helper()
	transport := &http.Transport{}
	if secure {
		transport.TLSClientConfig = f.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
		transport.TLSClientConfig.ServerName = "example.com"
	}
	t.Cleanup(transport.CloseIdleConnections)
	return func(ctx context.Context, name string) error {
		req, err := http.NewRequestWithContext(ctx, "POST", f.address()+"/v1/Interactions", strings.NewReader("Channel=x"))
		if err != nil {
			return err
		}
		req.GetBody = nil
		req.Header.Set("User-Agent", name)
		res, err := transport.RoundTrip(req)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		_, err = io.Copy(io.Discard, res.Body)
		return err
	}
}

// sent is a context that ends when the kernel has something to get to this far end: a call is under way then, however busy the machine is.
func (f *far) sent(t *testing.T, parent context.Context) (context.Context, context.CancelFunc) {
	t.Helper()
	ctx, cancel := context.WithCancel(parent)
	var looking sync.WaitGroup
	looking.Go(func() {
		again := time.NewTicker(10 * time.Millisecond)
		defer again.Stop()
		for {
			if bytes, err := wan.Unacknowledged(f.port); bytes > 0 || err != nil {
				cancel()
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-again.C:
			}
		}
	})
	return ctx, func() {
		cancel()
		looking.Wait()
	}
}

// TestWhatWasGivenUpCannotArrive: the way is lost while a call is under way and comes back after
// the call was given up. Go alone leaves the request with the kernel, which delivers it then:
// the control shows that. Of ours the kernel keeps nothing from the moment on that Create returns.
func TestWhatWasGivenUpCannotArrive(t *testing.T) {
	t.Parallel() // it waits for a process
	if !wan.Alone(t) {
		return
	}
	line := wan.Open(t, 2*time.Millisecond)
	const limit = 1500 * time.Millisecond
	large := wish
	large.Channel = []byte(`{"type":"` + strings.Repeat("x", 256<<10) + `"}`) // more than the window takes at once
	for _, tt := range []struct {
		name      string
		secure    bool
		in        Interaction
		cancelled bool // else the call's own limit ends it
	}{
		{"timeout", false, wish, false},
		{"timeout, TLS", true, wish, false},
		{"cancelled", false, wish, true},
		{"cancelled, TLS", true, wish, true},
		{"large", false, large, false},
		{"large, TLS", true, large, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, other := farServer(t, line, tt.secure), farServer(t, line, tt.secure)
			control := other.control(t, tt.secure)
			// The first calls have all the time that a busy machine may take for them.
			change := []func(*Config){within(expect.Patience), func(c *Config) { c.InsecureHTTP = true }}
			if tt.secure {
				change = append(change, func(c *Config) {
					c.RootCAs = x509.NewCertPool()
					c.RootCAs.AddCert(f.Certificate())
				})
			}
			c := newClient(t, f.address(), append(change, func(c *Config) { c.UserAgent = "warm" })...)
			trustFar(c)
			if o := c.Create(t.Context(), wish); o.Kind != Created {
				t.Fatalf("the way is open: %+v", o)
			}
			if err := control(t.Context(), "warm"); err != nil {
				t.Fatalf("the way is open: %v", err)
			}
			c.userAgent = []string{"ours"}
			if !tt.cancelled {
				c.timeout = limit
			}
			line.Cut()
			var calls sync.WaitGroup
			calls.Go(func() {
				ctx := t.Context()
				if tt.cancelled {
					var cancel context.CancelFunc
					ctx, cancel = f.sent(t, ctx)
					defer cancel()
				}
				if o := c.Create(ctx, tt.in); o.Kind != Uncertain || o.Unreached {
					t.Errorf("in the hole: %+v", o)
				}
				if kept, err := wan.Unacknowledged(f.port); kept > 0 || err != nil {
					t.Errorf("given up, and the kernel goes on sending %d bytes, %v", kept, err)
				}
			})
			calls.Go(func() {
				ctx, cancel := other.sent(t, t.Context())
				defer cancel()
				if err := control(ctx, "control"); err == nil {
					t.Error("the control was answered in the hole")
				}
				if kept, err := wan.Unacknowledged(other.port); kept == 0 || err != nil {
					t.Errorf("of the control the kernel keeps %d bytes, %v", kept, err)
				}
			})
			calls.Wait()
			if t.Failed() {
				line.Mend()
				return
			}
			if line.Lost() == 0 {
				t.Error("nothing was lost")
			}
			line.Mend()
			expect.Eventually(t, func() error { return expect.Is("the control has arrived", other.has("control"), true) })
			if f.has("ours") {
				t.Error("what was given up has arrived")
			}
		})
	}
}

// trustFar takes the test server's certificate, which is for other names.
func trustFar(c *Client) { c.transport.TLSClientConfig.ServerName = "example.com" }
