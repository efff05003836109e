package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"flexworker/internal/flex/flextest"
)

// running is an endpoint that serves TLS.
type running struct {
	dir, plain, tls string
	stop            func() error // idempotent
}

// start runs the endpoint as the compose file does.
func start(t *testing.T, dir string) *running {
	t.Helper()
	t.Setenv("ADDR", "127.0.0.1:0")
	t.Setenv("TLS_ADDR", "127.0.0.1:0")
	t.Setenv("TLS_DIR", dir)
	ctx, cancel := context.WithCancel(context.Background())
	lines, write := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- run(ctx, nil, slog.New(slog.NewJSONHandler(write, nil))); _ = write.Close() }()
	log := json.NewDecoder(lines)
	var started struct{ Address, TLS string }
	if err := log.Decode(&started); err != nil || started.TLS == "" {
		t.Fatalf("%+v %v %v", started, err, <-done)
	}
	go func() { _, _ = io.Copy(io.Discard, io.MultiReader(log.Buffered(), lines)) }()
	stopped := false
	r := &running{dir: dir, plain: started.Address, tls: started.TLS}
	r.stop = func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		select {
		case err := <-done:
			return err
		case <-time.After(20 * time.Second):
			return errors.New("it does not stop")
		}
	}
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Error(err)
		}
	})
	t.Setenv("ADDR", r.plain)
	t.Setenv("TLS_ADDR", r.tls)
	return r
}

// client trusts ca, a PEM; nil: whom the machine trusts.
func client(t *testing.T, ca []byte, name string) *http.Client {
	t.Helper()
	var roots *x509.CertPool
	if ca != nil {
		roots = x509.NewCertPool()
		if !roots.AppendCertsFromPEM(ca) {
			t.Fatal("no certificate")
		}
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: name}, ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func (r *running) ca(t *testing.T) []byte {
	t.Helper()
	ca, err := os.ReadFile(filepath.Join(r.dir, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// create creates an interaction and returns the status of the answer, complete.
func (r *running) create(t *testing.T, c *http.Client, key string) (int, error) {
	t.Helper()
	form := url.Values{
		"Channel": {`{"type":"sms","initiated_by":"api","participants":[{"address":"+15550100001","proxy_address":"+15550100002"}]}`},
		"Routing": {`{"properties":{"workspace_sid":"` + flextest.WorkspaceSID + `","workflow_sid":"` + flextest.WorkflowSID +
			`","attributes":{"interaction_request":"` + key + `"}}}`},
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+r.tls+"/v1/Interactions", strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth(flextest.AccountSID, flextest.AuthToken)
	req.GetBody = nil // one attempt
	res, err := c.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	_, err = io.ReadAll(res.Body)
	return res.StatusCode, err
}

func (r *running) created(t *testing.T) int {
	t.Helper()
	calls, err := flextest.Remote{URL: "http://" + r.plain}.Calls(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return calls.Created
}

// TestTLS: who trusts ca.pem creates an interaction, by every name; who does not sends nothing.
func TestTLS(t *testing.T) {
	r := start(t, t.TempDir())
	key := func(i int) string { return strings.Repeat("abcdef"[i:i+1], 32) }
	for i, name := range []string{"endpoint", "localhost", "127.0.0.1"} {
		if status, err := r.create(t, client(t, r.ca(t), name), key(i)); err != nil || status != http.StatusOK {
			t.Errorf("as %s: %d %v", name, status, err)
		}
	}
	var unknown x509.UnknownAuthorityError
	if _, err := r.create(t, client(t, nil, "endpoint"), key(3)); !errors.As(err, &unknown) {
		t.Errorf("who does not trust it: %v", err)
	}
	var other x509.HostnameError
	if _, err := r.create(t, client(t, r.ca(t), "flex-api.twilio.com"), key(4)); !errors.As(err, &other) {
		t.Errorf("as somebody else: %v", err)
	}
	if n := r.created(t); n != 3 {
		t.Errorf("%d created, want 3", n)
	}
	if err := run(t.Context(), []string{"healthcheck"}, nil); err != nil {
		t.Errorf("healthcheck: %v", err)
	}
}

// TestTLSTrustedByEnvironment: SSL_CERT_FILE alone has a process trust it, as the compose file has the worker do; empty,
// it is as if it were not set. The process is this test once more, since Go reads the variable once.
func TestTLSTrustedByEnvironment(t *testing.T) {
	if address := os.Getenv("TEST_TLS_ADDRESS"); address != "" {
		_, err := (&running{tls: address}).create(t, client(t, nil, "endpoint"), strings.Repeat("a", 32))
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	if runtime.GOOS == "darwin" {
		return // asks its own verifier; the workers are in containers
	}
	r := start(t, t.TempDir())
	for file, trusted := range map[string]bool{filepath.Join(r.dir, "ca.pem"): true, "": false} {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestTLSTrustedByEnvironment$")
		cmd.Env = append(os.Environ(), "TEST_TLS_ADDRESS="+r.tls, "SSL_CERT_FILE="+file)
		out, err := cmd.CombinedOutput()
		if (err == nil) != trusted || !trusted && !bytes.Contains(out, []byte("unknown authority")) {
			t.Errorf("SSL_CERT_FILE=%s: %v %s", file, err, out)
		}
	}
	if n := r.created(t); n != 1 {
		t.Errorf("%d created, want 1", n)
	}
}

// TestTLSFile: one file, for everybody to read, new with each start; with another one's the health check fails.
func TestTLSFile(t *testing.T) {
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	dir := t.TempDir()
	first := start(t, dir)
	before := first.ca(t)
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	r := start(t, dir)
	if string(r.ca(t)) == string(before) {
		t.Error("the authority of the start before")
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Fatalf("%v %v", entries, err)
	}
	if info, err := entries[0].Info(); err != nil || info.Mode() != 0o644 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	if err := os.WriteFile(filepath.Join(dir, "ca.pem"), before, 0o644); err != nil {
		t.Fatal(err)
	}
	var unknown x509.UnknownAuthorityError
	if err := run(t.Context(), []string{"healthcheck"}, nil); !errors.As(err, &unknown) {
		t.Errorf("healthcheck with the wrong authority: %v", err)
	}
}

// TestTLSFaults: what the plain listener does to a connection arrives.
func TestTLSFaults(t *testing.T) {
	r := start(t, t.TempDir())
	control := flextest.Remote{URL: "http://" + r.plain}
	c := client(t, r.ca(t), "endpoint")
	for i, fault := range []flextest.Fault{flextest.CreateThenReset, flextest.CreateThenEOF} {
		if err := control.Inject(t.Context(), flextest.Injection{Next: []flextest.Fault{fault}}); err != nil {
			t.Fatal(err)
		}
		_, err := r.create(t, c, strings.Repeat("abcdef"[i:i+1], 32))
		if reset := errors.Is(err, syscall.ECONNRESET); err == nil || reset != (fault == flextest.CreateThenReset) {
			t.Errorf("%s: %v", fault, err)
		}
		if n := r.created(t); n != i+1 {
			t.Errorf("%s: %d created, want %d", fault, n, i+1)
		}
	}
	c.CloseIdleConnections()
	if err := control.Inject(t.Context(), flextest.Injection{Down: "1m"}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.create(t, c, strings.Repeat("c", 32)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("down: %v", err)
	}
}

// TestTLSStop: it stops although one client is idle, one waits for an answer, one does not finish its handshake.
func TestTLSStop(t *testing.T) {
	r := start(t, t.TempDir())
	idle := client(t, r.ca(t), "endpoint")
	if _, err := r.create(t, idle, strings.Repeat("a", 32)); err != nil {
		t.Fatal(err)
	}
	silent, err := net.Dial("tcp", r.tls)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	control := flextest.Remote{URL: "http://" + r.plain}
	if err := control.Inject(t.Context(), flextest.Injection{Next: []flextest.Fault{flextest.CreateThenHang}}); err != nil {
		t.Fatal(err)
	}
	answered := make(chan error, 1)
	go func() {
		_, err := r.create(t, client(t, r.ca(t), "endpoint"), strings.Repeat("b", 32))
		answered <- err
	}()
	for r.created(t) < 2 {
		select {
		case err := <-answered:
			t.Fatalf("answered: %v", err)
		case <-time.After(10 * time.Millisecond):
		}
	}
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	if err := <-answered; err == nil {
		t.Error("the call that hung was answered")
	}
	if conn, err := net.Dial("tcp", r.tls); err == nil {
		conn.Close()
		t.Error("it still listens")
	}
}
