package main

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// TestSendMalformed: who sent what could not become a request is told so, and waits
// no longer.
func TestSendMalformed(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	env := r.environment()
	w := r.command(env, "run")
	r.says(w.address, "ok", 200)
	file := t.TempDir() + "/events"
	twice := strings.Replace(string(request("b-1")), "{", `{"request_id":"b-1",`, 1)
	if err := os.WriteFile(file, []byte(twice+"\n"+string(request("b-2"))), 0o600); err != nil {
		t.Fatal(err)
	}
	r.types(env, typed{[]string{"send", "--wait", "1m", file}, 0, []string{`"outcome":"malformed"`, "this key stands twice", `"request_id":"b-2"`}})
}

// TestSend: what a sender is told when no answer comes, and when there is no
// stream to send to or to read from.
func TestSend(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	env := r.environment()
	file := t.TempDir() + "/events"
	if err := os.WriteFile(file, append(append(request("b-2"), '\n'), request("b-1")...), 0o600); err != nil {
		t.Fatal(err)
	}
	// No worker runs, so nothing answers.
	c := r.command(env, "send", "--wait", "3s", file)
	results, err := r.js.Stream(t.Context(), "INTERACTION_RESULTS")
	if err != nil {
		t.Fatal(err)
	}
	var threshold time.Duration
	eventually(t, func() error {
		consumers := results.ListConsumers(t.Context())
		n := 0
		for info := range consumers.Info() {
			n, threshold = n+1, info.Config.InactiveThreshold
		}
		return is("consumers", n, 1)
	})
	if threshold != 30*time.Second { // or many sends leave many consumers on the stream
		t.Errorf("its consumer is kept for %v", threshold)
	}
	const late = "no final result within 3s for 2 requests: b-1 b-2 (`worker explain ID` tells where each stands)"
	if status := c.exit(); status != 1 || !strings.Contains(c.log.String(), late) {
		t.Errorf("status %d, %s, want 1 and %q", status, c.log.String(), late)
	}
	for _, name := range []string{"INTERACTION_REQUESTS", "INTERACTION_RESULTS"} {
		if err := r.js.DeleteStream(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	r.types(env,
		typed{[]string{"send", "--help"}, 0, []string{"whatever their outcomes are"}},
		typed{[]string{"send", "--wait", "5s", file}, 1, []string{"nothing was sent: stream INTERACTION_RESULTS (RESULTS_STREAM) does not exist: create it with subjects interactions.results.>, or run a worker with CREATE_STREAMS=true"}},
		typed{[]string{"send", file}, 1, []string{"b-2 was not sent, nor what stands behind it: no stream takes interactions.requests.cli: create INTERACTION_REQUESTS (REQUESTS_STREAM) with subjects interactions.requests.>, or run a worker with CREATE_STREAMS=true"}},
	)
	if _, err := r.js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "INTERACTION_REQUESTS", Subjects: []string{"interactions.requests.>"}}); err != nil {
		t.Fatal(err)
	}
	r.types(env, typed{[]string{"send", file}, 0, []string{"sent: 2\n"}})
}
