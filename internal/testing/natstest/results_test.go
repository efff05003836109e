package natstest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// recorder is a test that notes what it is told.
type recorder struct {
	testing.TB
	said []string
}

func (r *recorder) Errorf(format string, args ...any) {
	r.said = append(r.said, fmt.Sprintf(format, args...))
}

func (r *recorder) Error(args ...any) { r.said = append(r.said, fmt.Sprint(args...)) }

// TestCheckResults: what is no result is found in whatever stream it stands, also when the server is down at the end. What a
// test has forged, what was deleted, and what stands on other subjects, is not looked at.
func TestCheckResults(t *testing.T) {
	t.Parallel()
	s := New(t, Options{})
	js, err := jetstream.New(s.Connect(t), Unhurried())
	if err != nil {
		t.Fatal(err)
	}
	for name, subject := range map[string]string{"A": "interactions.results.created.>", "B": "interactions.results.malformed.>", "C": "interactions.requests.>"} {
		if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: name, Subjects: []string{subject}}); err != nil {
			t.Fatal(err)
		}
	}
	publish := func(subject, body string, forged bool) uint64 {
		t.Helper()
		m := nats.NewMsg(subject)
		m.Data = []byte(body)
		if forged {
			m.Header.Set(Forged, "here")
		}
		ack, err := js.PublishMsg(t.Context(), m)
		if err != nil {
			t.Fatal(err)
		}
		return ack.Sequence
	}
	found := func() []string {
		t.Helper()
		r := &recorder{TB: t}
		s.checkResults(r)
		return r.said
	}
	const malformed = `{"request_id":null,"outcome":"malformed","interaction_sid":null,"task_sid":null,"channel":null,"routing":null,"attempts":0,"resolved_by":null,` +
		`"error":{"kind":"malformed","http_status":null,"twilio_code":null,"message":"not JSON","more_info":null,"twilio_request_id":null,"faults":null},` +
		`"warnings":[],"metadata":null,"metadata_left_out":false,"revision":null,"stream":"C","sequence":1,"received_at":"2026-11-22T09:00:00Z","settled_at":null}`
	publish("interactions.results.malformed.crm", malformed, false)
	publish("interactions.results.created.crm", `{}`, true)
	publish("interactions.requests.crm", `{}`, false)
	if said := found(); len(said) > 0 {
		t.Errorf("it finds %v", said)
	}
	bad := publish("interactions.results.created.crm", `{}`, false)
	s.Shutdown()
	if said := found(); len(said) != 1 || !strings.Contains(said[0], "interactions.results.created.crm is no result") {
		t.Errorf("it finds %v", said)
	}
	if js, err = jetstream.New(s.Connect(t), Unhurried()); err != nil { // what the first connection asks now may still go to the server that was shut down
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), "A")
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.DeleteMsg(t.Context(), bad); err != nil {
		t.Fatal(err)
	}
	if said := found(); len(said) > 0 {
		t.Errorf("it finds %v", said)
	}
}
