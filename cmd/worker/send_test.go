package main

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"flexworker/internal/testing/expect"
)

// TestSendMalformed: who sent what could not become a request is told so, and waits
// no longer.
func TestSendMalformed(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	env := r.environment()
	w := r.command(env, "run")
	r.says(w.address, "ok", 200)
	// What anybody can tell from its text is not sent. What the database alone refuses is.
	r.must(`ALTER TABLE outbox ADD CONSTRAINT no_b_1 CHECK (request_id <> 'b-1')`)
	file := t.TempDir() + "/events"
	if err := os.WriteFile(file, []byte(string(requestOf("b-1"))+"\n"+string(requestOf("b-2"))), 0o600); err != nil {
		t.Fatal(err)
	}
	r.types(env, typed{[]string{"send", "--wait", "1m", file}, 0, []string{`"outcome":"malformed"`, "the database does not take it", `"request_id":"b-2"`}})
}

// TestSendReads: send takes what a worker takes, and refuses in the worker's words what it
// would answer as malformed. Nothing is sent then.
func TestSendReads(t *testing.T) {
	t.Parallel()
	const ce = `{"specversion":"1.0","type":"t","source":"/s","id":"ce-1","data":{}}`
	for text, want := range map[string]string{
		`{"request_id":"a"}`: "a",
		" \r\n{\"request_id\":\"a\"}\r\n\r\n{\"request_id\":\"b\"}\n": "a b",
		"{\n  \"request_id\":\n  \"a\"\n}\n{\"request_id\":\"b\"}":    "a b", // as people write it
		ce + "\n" + `{"request_id":"b"}`:                              "ce-1 b",
		strings.ReplaceAll(ce, ",", ",\n"):                            "ce-1",
		strings.Replace(ce, "{}", `{"request_id":"a"}`, 1):            "a",
		`{"request_id":"a","Request_ID":"b"}`:                         "a", // it has an id, and is rejected under it
		"":                                                            "x has no events",
		"\n \n":                                                       "x has no events",
		`{"request_id":["a"]}`:                                        "x, line 1: request_id: must be a string",
		`{"request_id":42}`:                                           "x, line 1: request_id: must be a string",
		`{"request_id":""}`:                                           "x, line 1: request_id: must not be empty",
		`{"request_id":" a"}`:                                         "x, line 1: request_id: begins or ends with a space, which cannot be seen",
		`{"request_id":"a","request_id":"a"}`:                         "x, line 1: request_id: this key stands twice",
		`{}`:                                                          "x, line 1: request_id: missing, and there is no Nats-Msg-Id header either",
		`{"Request_ID":"a"}`:                                          "x, line 1: request_id: missing, and there is no Nats-Msg-Id header either; it is not Request_ID",
		`[{"request_id":"a"}]`:                                        "x, line 1: a request must be a JSON object, and this is an array: send one request in a message",
		"\ufeff{\"request_id\":\"a\"}":                                "x, line 1: begins with a byte order mark (U+FEFF), which JSON must not have: send it as UTF-8 without one",
		"{\"request_id\":\"a\"}\n\nhello\n{}":                         "x, line 3: not JSON at byte 1: invalid character 'h' looking for beginning of value",
		"{\n\"request_id\":\"a\"}\n{\"metadata\":\"\xe9\"}":           "x, line 3: not UTF-8 at byte 13",
		`{"request_id":"a"`:                                           "x, line 1: not JSON at byte 17: unexpected end of JSON input",
		"{}\n{\"request_id\":1}\n{\"request_id\":\"a\"}\n{": "x, line 1: request_id: missing, and there is no Nats-Msg-Id header either\n" +
			"x, line 2: request_id: must be a string\nx, line 4: not JSON at byte 1: unexpected end of JSON input",
		`{"request_id":"a","metadata":"` + strings.Repeat("x", maxEvent) + `"}`: "x, line 1: has 1048608 bytes, NATS takes at most 1048576",
	} {
		path := t.TempDir() + "/x"
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		events, err := readEvents(path, nil)
		got := make([]string, len(events))
		for i, e := range events {
			got[i] = e.id
		}
		if err != nil {
			got = []string{strings.ReplaceAll(err.Error(), path, "x")}
		}
		if got := strings.Join(got, " "); got != want {
			t.Errorf("%.200q:\n got %q\nwant %q", text, got, want)
		}
	}
	_, err := readEvents("-", strings.NewReader(strings.Repeat("{}\n", 25)))
	if err == nil || strings.Count(err.Error(), "\n") != 20 || !strings.HasSuffix(err.Error(), "standard input: and 5 more events that cannot be sent") {
		t.Errorf("25 faults: %v", err)
	}
}

// TestSendCloudEvent: the answer to a CloudEvent is found by its message, as that to any other.
func TestSendCloudEvent(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	env := r.environment()
	w := r.command(env, "run")
	r.says(w.address, "ok", 200)
	file := t.TempDir() + "/event.json"
	data := strings.Replace(string(requestOf("x")), `"request_id":"x",`, "", 1)
	if strings.Contains(data, "request_id") {
		t.Fatal(data)
	}
	if err := os.WriteFile(file, []byte("{\n\"specversion\":\"1.0\",\n\"id\":\"ce-1\",\n\"source\":\"/crm\",\n\"type\":\"t\",\n\"data\":"+data+"\n}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.types(env, typed{[]string{"send", "--wait", "1m", file}, 0, []string{`"request_id":"ce-1"`, `"outcome":"created"`}})
}

// TestSend: what a sender is told when no answer comes, and when there is no
// stream to send to or to read from.
func TestSend(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	env := r.environment()
	file := t.TempDir() + "/events"
	if err := os.WriteFile(file, append(append(requestOf("b-2"), '\n'), requestOf("b-1")...), 0o600); err != nil {
		t.Fatal(err)
	}
	// No worker runs, so nothing answers.
	c := r.command(env, "send", "--wait", "3s", file)
	results, err := r.js.Stream(t.Context(), "INTERACTION_RESULTS")
	if err != nil {
		t.Fatal(err)
	}
	var threshold time.Duration
	expect.Eventually(t, func() error {
		consumers := results.ListConsumers(t.Context())
		n := 0
		for info := range consumers.Info() {
			n, threshold = n+1, info.Config.InactiveThreshold
		}
		return expect.Is("consumers", n, 1)
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
		typed{[]string{"send", "--wait", "5s", file}, 2, []string{"nothing was sent: stream INTERACTION_RESULTS (RESULTS_STREAM) does not exist: create it with subjects interactions.results.>, or run a worker with CREATE_STREAMS=true"}},
		typed{[]string{"send", file}, 2, []string{"b-2 was not sent, nor what stands behind it: no stream takes interactions.requests.cli: create INTERACTION_REQUESTS (REQUESTS_STREAM) with subjects interactions.requests.>, or run a worker with CREATE_STREAMS=true"}},
	)
	if _, err := r.js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "INTERACTION_REQUESTS", Subjects: []string{"interactions.requests.>"}}); err != nil {
		t.Fatal(err)
	}
	r.types(env, typed{[]string{"send", file}, 0, []string{"sent: 2\n"}})
}

// TestSendMatchesBySequence: each line is told the answer to its own message, also where
// two have one id, where the id was answered before, and where another asks for it too.
func TestSendMatchesBySequence(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	env := r.environment()
	w := r.command(env, "run")
	r.says(w.address, "ok", 200)
	other := strings.Replace(string(requestOf("d-1")), `"sms","initiated_by"`, `"whatsapp","initiated_by"`, 1)
	file := t.TempDir() + "/events"
	// The id is the first's before anything else asks under it: of two that come at once either may be the first.
	if err := os.WriteFile(file, requestOf("d-1"), 0o600); err != nil {
		t.Fatal(err)
	}
	if status, _, errs := r.try(env, "send", "--wait", "1m", file); status != 0 {
		t.Fatalf("status %d, %s", status, errs)
	}
	for round := range 3 {
		if err := os.WriteFile(file, []byte(string(requestOf("d-1"))+"\n"+other+"\n"+string(requestOf("d-1"))+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		status, out, errs := r.try(env, "send", "--wait", "1m", file)
		if status != 0 {
			t.Fatalf("status %d, %s", status, errs)
		}
		var got []string
		for line := range strings.Lines(out) {
			var answer struct {
				Outcome  string `json:"outcome"`
				Sequence int    `json:"sequence"`
			}
			if json.Unmarshal([]byte(line), &answer) == nil && answer.Outcome != "" {
				got = append(got, fmt.Sprintf("%02d %s", answer.Sequence, answer.Outcome))
			}
		}
		slices.Sort(got)
		n := 1 + 3*round
		if want := []string{fmt.Sprintf("%02d created", n+1), fmt.Sprintf("%02d conflict", n+2), fmt.Sprintf("%02d created", n+3)}; !slices.Equal(got, want) {
			t.Errorf("round %d: %q, want %q", round, got, want)
		}
	}
}

// TestSendThroughASource: the workers may read a stream that has its messages from
// another, under other sequences: then the id says whose an answer is.
func TestSendThroughASource(t *testing.T) {
	t.Parallel()
	r := &awaited{messages: make(chan jetstream.Msg, 4)}
	answer := func(stream string, sequence int, id, outcome string) {
		r.messages <- said{data: fmt.Appendf(nil, `{"request_id":%q,"outcome":%q,"stream":%q,"sequence":%d}`, id, outcome, stream, sequence)}
	}
	answer("READ", 90, "stranger", "created")
	answer("READ", 91, "a", "created")
	answer("READ", 92, "a", "conflict")
	answer("READ", 93, "b", "created")
	var out strings.Builder
	if err := r.print(t.Context(), &out, map[place]string{{"SENT", 1}: "a", {"SENT", 2}: "a", {"SENT", 3}: "b"}, expect.Patience); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(out.String(), "\n"); n != 3 || strings.Contains(out.String(), "stranger") {
		t.Errorf("%d answers: %s", n, out.String())
	}
}

// said is a message of which only the data counts.
type said struct {
	jetstream.Msg
	data []byte
}

func (s said) Data() []byte { return s.data }
