package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"flexworker/internal/testing/expect"
)

// said are the lines of a JSON log with this message.
func (c *child) said(message string) []map[string]any {
	var lines []map[string]any
	for line := range strings.Lines(c.log.String()) {
		var one map[string]any
		if json.Unmarshal([]byte(line), &one) == nil && one["msg"] == message {
			lines = append(lines, one)
		}
	}
	return lines
}

// TestFollowARequest: with LOG_LEVEL=debug a request is followed from receive to publish by its id, with the message's
// place in the stream and the trace that it came with; what does not apply is left out.
func TestFollowARequest(t *testing.T) {
	t.Parallel()
	const trace = "4bf92f3577b34da6a3ce929d0e0e4736"
	r := newRig(t)
	w := r.command(r.environment("LOG_LEVEL=debug", unhurriedCalls))
	r.says(w.address, "ok", 200)
	m := nats.NewMsg("interactions.requests.crm")
	m.Data = requestOf("followed")
	m.Header.Set("traceparent", "00-"+trace+"-00f067aa0ba902b7-01")
	ack, err := r.js.PublishMsg(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	expect.Eventually(t, func() error { return expect.Is("published", len(w.said("published")), 1) })
	for _, step := range []struct{ message, more, is string }{{"received", "became", "accepted"}, {"attempt", "outcome", "created"}, {"published", "outcome", "created"}} {
		lines := w.said(step.message)
		if len(lines) != 1 {
			t.Errorf("%d lines %s", len(lines), step.message)
			continue
		}
		for name, want := range map[string]any{"request_id": "followed", "source": "crm", "stream": "INTERACTION_REQUESTS", "sequence": float64(ack.Sequence), "trace_id": trace, step.more: step.is} {
			if got := lines[0][name]; got != want {
				t.Errorf("%s: %s is %v, want %v", step.message, name, got, want)
			}
		}
		for name, value := range lines[0] {
			if value == "" || value == nil || value == float64(0) && name != "took_ms" {
				t.Errorf("%s: %s is there and empty", step.message, name)
			}
		}
	}
}

// TestRejectedInTheLog: what is rejected is said at info with its source and its first fault, but not thousands of times.
func TestRejectedInTheLog(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	w := r.command(r.environment())
	r.says(w.address, "ok", 200)
	const rejected = 300
	for i := range rejected {
		if _, err := r.js.PublishAsync("interactions.requests.wrong", fmt.Appendf(nil, `{"request_id":"bad-%d","chanel":{}}`, i)); err != nil {
			t.Fatal(err)
		}
	}
	expect.Eventually(t, func() error {
		return expect.Is("rejected", r.count(`SELECT count(*) FROM outbox WHERE state = 'rejected'`), rejected)
	})
	expect.Eventually(t, func() error {
		if n := len(w.said("received")); n < 1 || n > 20 { // ten a minute, and the minute may turn
			return fmt.Errorf("%d lines", n)
		}
		return nil
	})
	one := w.said("received")[0]
	fault, _ := one["fault"].(string)
	if one["level"] != "INFO" || one["source"] != "wrong" || one["became"] != "rejected" || !strings.Contains(fault, "chan") {
		t.Errorf("it says %v", one)
	}
}
