package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/flextest"
	"flexworker/internal/testing/wan"
)

// blackHole plays the loss of the way in earnest: `make blackhole`. Otherwise all its times are
// short, and the worker has settings that go with them.
var blackHole = flag.Bool("blackhole", false, "the way to Twilio is lost for 65 s, and the worker has its default settings: two minutes")

// control is a POST by net/http alone beside the worker's: that the kernel delivers it late shows
// that the hole was one in which a request can survive.
type control struct {
	address string
	client  *http.Transport
	heard   atomic.Int32
}

func newControl(t *testing.T) *control {
	t.Helper()
	listener, err := net.Listen("tcp", wan.Near+":0")
	if err != nil {
		t.Fatal(err)
	}
	c := &control{address: fmt.Sprintf("http://%s:%d", wan.Far, listener.Addr().(*net.TCPAddr).Port), client: &http.Transport{}}
	server := &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err == nil {
			c.heard.Add(1)
		}
	})}
	served := make(chan struct{})
	go func() { defer close(served); _ = server.Serve(listener) }() // until it is closed
	t.Cleanup(func() { c.client.CloseIdleConnections(); _ = server.Close(); <-served })
	return c
}

// post is one call that is given up after limit.
func (c *control) post(ctx context.Context, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.address, bytes.NewReader(requestOf("control")))
	if err != nil {
		return err
	}
	res, err := c.client.RoundTrip(req)
	if err != nil {
		return err
	}
	return res.Body.Close()
}

// TestBlackHole: the way to Twilio is lost while a call is under way, for longer than it takes
// to prove that the request is absent, and comes back while the kernel would still offer it. The
// request is made once, by its second attempt.
func TestBlackHole(t *testing.T) {
	t.Parallel() // it waits for a process
	if !wan.Alone(t) {
		return
	}
	roundTrip, timeout, hole, most := 120*time.Millisecond, time.Second, 2400*time.Millisecond, expect.Patience
	if *blackHole {
		// By this round trip Linux offers the call again after 45 and after 89 s. From 102 s on it
		// offers nothing more of a socket that is closed.
		roundTrip, timeout, hole, most = 150*time.Millisecond, 15*time.Second, 65*time.Second, 4*time.Minute
	}
	line := wan.Open(t, roundTrip)
	r := newRig(t)
	r.flex = flextest.NewWith(t, flextest.Config{Addr: wan.Near + ":0"})
	_, port, err := net.SplitHostPort(r.flex.Addr())
	if err != nil {
		t.Fatal(err)
	}
	far := "http://" + net.JoinHostPort(wan.Far, port)
	env := r.environment("FLEX_URL="+far, "TASKROUTER_URL="+far, "FLEX_INSECURE_HTTP=true", "FLEX_TIMEOUT=1s")
	if *blackHole {
		kept := env[:0]
		for _, setting := range env { // all others have their defaults
			name, _, _ := strings.Cut(setting, "=")
			if !slices.Contains([]string{"FLEX_TIMEOUT", "FLEX_RATE", "RETRY_MIN_DELAY", "RETRY_MAX_DELAY", "LOOKUP_SETTLE"}, name) {
				kept = append(kept, setting)
			}
		}
		env = kept
	}
	in := r.read()
	w := r.command(env, "run")
	r.says(w.address, "ok", 200)
	// One after the other: from now on there is a connection that is kept, and of which the kernel
	// has learned how long a round trip takes. Its waits follow from that.
	const warm = 10
	c := newControl(t)
	for i := range warm {
		r.send("warm", i, i+1)
		in.balanced(i + 1)
		if err := c.post(t.Context(), expect.Patience); err != nil {
			t.Fatalf("the way is open: %v", err)
		}
	}

	line.Cut()
	began := time.Now()
	r.send("lost", 0, 1)
	expect.Eventually(t, func() error {
		if line.Lost() == 0 {
			return errors.New("nothing is lost yet")
		}
		return nil
	})
	given := make(chan error, 1)
	go func() { given <- c.post(t.Context(), timeout) }()
	// Both calls are given up before the way is back, however late they began.
	if err := <-given; err == nil {
		t.Error("the control was answered in the hole")
	}
	expect.Eventually(t, func() error {
		if history := r.history("lost-0"); history != "uncertain" {
			return fmt.Errorf("attempts: %q", history)
		}
		return nil
	})
	<-time.After(hole - time.Since(began)) // as long as it lasts
	line.Mend()
	r.send("after", 0, 1)

	expect.EventuallyWithin(t, most, func() error { return expect.Is("results of lost-0", len(in.final()["lost-0"]), 1) })
	settled := time.Since(began)
	expect.EventuallyWithin(t, most, func() error { return expect.Is("arrivals of the control", c.heard.Load(), warm+1) }) // or this hole shows nothing
	arrived := time.Since(began)
	in.balanced(warm + 2)
	created := map[string]int{}
	for _, e := range r.flex.Ledger() {
		created[e.TestID]++
	}
	history := r.history("lost-0")
	// Had the first attempt arrived, it would have been found, or there would be two.
	if created["lost-0"] != 1 || !strings.HasPrefix(history, "uncertain ") {
		t.Errorf("%d interactions for one request, attempts: %s", created["lost-0"], history)
	}
	if *blackHole {
		fmt.Printf("%s: the way was lost for %v; created %d time(s) (%s), settled after %v; the control arrived after %v\n",
			t.Name(), hole, created["lost-0"], history, settled.Round(time.Second), arrived.Round(time.Second))
	}
}

// history is what became of a request's attempts, in their order.
func (r *rig) history(requestID string) string {
	var words string
	if err := r.pool.QueryRow(r.t.Context(), `SELECT coalesce(string_agg(a.outcome, ' ' ORDER BY a.number), '')
		FROM outbox_attempts a JOIN outbox o ON o.id = a.outbox_id WHERE o.request_id = $1 AND a.kind = 'attempt'`, requestID).Scan(&words); err != nil {
		return err.Error()
	}
	return words
}
