package outbox

import (
	"fmt"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"flexworker/internal/outbox/request"
	"flexworker/internal/outbox/results"
	"flexworker/internal/testing/natstest"
)

// TestResultSubject: up to 1,024 bytes a source stands as it is; a longer one is cut
// to that, at the same place each time, between two characters and two tokens.
func TestResultSubject(t *testing.T) {
	t.Parallel()
	ordinary := strings.Repeat("a", 1024)
	for _, tt := range []struct{ source, want string }{
		{"crm", "crm"},
		{"shop.eu.*", "shop.eu.*"},
		{ordinary, ordinary},
		{ordinary + "a", ordinary[:991] + ".4a82297889eb505cf6b5cbdf69977afa"},
		{ordinary + "b", ordinary[:991] + ".d9a41d9b6cbf545f69f736e30061ca5c"},
		{ordinary[:990] + "." + ordinary, ordinary[:990] + ".80917cd96bd741bd24aeff998c5be29f"},
		{strings.Repeat("é", 2000), strings.Repeat("é", 495) + ".972d88afa1e48c26f6d2d60f131f9568"},
	} {
		if got := results.Subject("r", "created", tt.source); got != "r.created."+tt.want {
			t.Errorf("%.10s of %d bytes: ...%s of %d bytes", tt.source, len(tt.source), got[max(0, len(got)-40):], len(got))
		}
	}
}

// TestLongSource: the request stream takes a source of some 4,000 bytes, and the
// answers to it, of each kind, do not cost the connection.
func TestLongSource(t *testing.T) {
	t.Parallel()
	s, r := newStore(t), newResults(t, natstest.Options{})
	r.create(t)
	longest := strings.Repeat("x", 4045)
	sources := []string{longest + "x", longest + "y", strings.Repeat("ab.", 1348) + "z", strings.Repeat("é", 2023), strings.Repeat("x", 1024), "crm"}
	for i, source := range sources {
		n, id := uint64(3*i+1), fmt.Sprint("r-", i)
		for _, e := range []request.Event{event(id, n, from(source), faulty("x")), event(id, n+1, from(source), faulty("x"))} { // the second asks again
			if _, err := s.Add(t.Context(), e); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.AddMalformed(t.Context(), request.Malformed{Message: event("", n+2, from(source)).Message, Err: "not JSON"}); err != nil {
			t.Fatal(err)
		}
	}
	age(t, s)
	if !publishStrays(t, r.publisher(t, s)) {
		t.Error("not all is published")
	}
	if conn := r.Conn(); conn.Status() != nats.CONNECTED {
		t.Fatalf("the connection is %v: %v", conn.Status(), conn.LastError())
	}
	published := map[string]int{}
	for _, m := range r.all(t) {
		published[m.Subject]++
	}
	for _, source := range sources {
		for outcome, want := range map[string]int{"rejected": 2, "malformed": 1} {
			if n := published[results.Subject("interactions.results", outcome, source)]; n != want {
				t.Errorf("%d times %s for %.10s of %d bytes, want %d", n, outcome, source, len(source), want)
			}
		}
	}
}
