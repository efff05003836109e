package main

import (
	"errors"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"flexworker/internal/testing/expect"
)

// TestCrowd: however many connections are held open without a word, or in the middle of one, a probe is answered, and those that
// came first are closed.
func TestCrowd(t *testing.T) {
	t.Parallel()
	const most = 20
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{ // without the limits of time that also end such connections
		Handler:   http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, "ok") }),
		ConnState: newCrowd(most).state,
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	defer func() {
		_ = server.Close()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	}()

	var silent []net.Conn
	for i := range 3 * most {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if i%2 == 1 {
			if _, err := io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: "); err != nil {
				t.Fatal(err)
			}
		}
		silent = append(silent, conn)
		if status, body := probe(t, listener.Addr().String()); status != http.StatusOK || body != "ok\n" {
			t.Fatalf("with %d connections a probe got %d %q", i+1, status, body)
		}
	}
	if err := silent[0].SetReadDeadline(time.Now().Add(expect.Patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := silent[0].Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the first connection was not closed: %v", err)
	}
}

// probe asks on a connection of its own.
func probe(t *testing.T, address string) (status int, body string) {
	t.Helper()
	transport := &http.Transport{DisableKeepAlives: true}
	response, err := (&http.Client{Transport: transport}).Get("http://" + address + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(text)
}
