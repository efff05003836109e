package outbox

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"flexworker/internal/flex"
	"flexworker/internal/outbox/operator"
	"flexworker/internal/outbox/request"
	"flexworker/internal/outbox/results"
	"flexworker/internal/rawjson"
	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/natstest"
	"flexworker/internal/testing/pgtest"
)

// A resultStream is a NATS server and the stream that results go to.
type resultStream struct {
	jetstream.JetStream
	server *natstest.Server
}

func newResults(t *testing.T, o natstest.Options) *resultStream {
	t.Helper()
	server := natstest.New(t, o)
	js, err := jetstream.New(server.Connect(t), jetstream.WithPublishAsyncTimeout(5*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	return &resultStream{js, server}
}

func (r *resultStream) create(t *testing.T, change ...func(*jetstream.StreamConfig)) {
	t.Helper()
	cfg := jetstream.StreamConfig{Name: "RESULTS", Subjects: []string{"interactions.results.>"}, Duplicates: time.Minute}
	for _, f := range change {
		f(&cfg)
	}
	if _, err := r.CreateOrUpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
}

// all are the messages of the stream in order.
func (r *resultStream) all(t *testing.T) []*jetstream.RawStreamMsg {
	t.Helper()
	stream, err := r.Stream(t.Context(), "RESULTS")
	if err != nil {
		t.Fatal(err)
	}
	state := stream.CachedInfo().State
	var list []*jetstream.RawStreamMsg
	for n := state.FirstSeq; n <= state.LastSeq && state.Msgs > 0; n++ {
		m, err := stream.GetMsg(t.Context(), n)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, m)
	}
	return list
}

func (r *resultStream) publisher(t *testing.T, s *Store) *results.Publisher {
	return &results.Publisher{Outgoing: s.Results, Stream: r, Subject: "interactions.results", Largest: func() int64 { return 1 << 20 },
		Log: logger(t), Counters: &results.Counters{}}
}

// age makes everything that is settled old enough for any replica to publish it.
func age(t *testing.T, s *Store) {
	t.Helper()
	pgtest.Exec(t, s.pool, `UPDATE outbox SET settled_at = settled_at - interval '1 minute' WHERE settled_at IS NOT NULL`)
}

// publishStrays is one turn of a Publisher for what others left.
func publishStrays(t *testing.T, p *results.Publisher) bool {
	t.Helper()
	answers, err := p.Outgoing.Unpublished(t.Context(), &p.From)
	if err != nil {
		t.Fatal(err)
	}
	return p.Publish(t.Context(), answers)
}

// settle adds one request and records this outcome of its first attempt.
func settle(t *testing.T, s *Store, e request.Event, o flex.Outcome) {
	t.Helper()
	if _, err := s.Add(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	if _, err := s.record(t.Context(), told(mustClaim(t, s, 1)[0], o)); err != nil {
		t.Fatal(err)
	}
}

// TestResultGolden: the bytes of the contract's section 4, one shape for every answer.
func TestResultGolden(t *testing.T) {
	t.Parallel()
	s, r := newStore(t), newResults(t, natstest.Options{})
	r.create(t)
	full := good
	full.AssignmentStatus = "pending"
	full.Response = json.RawMessage(`{"sid":"` + sidA + `","channel":{"sid":"UO1","type":"sms","links":{}},"routing":{"reservation":null,` +
		`"properties":{"sid":"WT1","workspace_sid":"WS2","workflow_sid":"WW3","workflow_name":"Inbound \u00e9","queue_sid":"WQ4","queue_name":"Q",` +
		`"task_channel_unique_name":"sms","assignment_status":"pending","priority":10,"date_created":1795305600,` +
		`"attributes":"{\"conversationSid\":\"CH5\"}"}}}`)
	settle(t, s, event("crm-42-callback", 1, func(e *request.Event) {
		e.Traceparent, e.Tracestate = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "vendor=1,other=2"
		e.Warnings = []rawjson.Fault{{Path: "channel.particpants", Problem: "is no name that Flex documents"}}
		e.Request = []byte(`{"channel":{},"metadata": {"b": 12345678901234567890, "a":"<&>"}}`)
	}), full)
	settle(t, s, event("crm-43", 2), flex.Outcome{Kind: flex.Rejected, HTTPStatus: 400, TwilioCode: 20001, ErrorKind: "http_400", Message: "Invalid <Channel>",
		RequestID: "RQ7", Response: json.RawMessage(`{"code":20001,"more_info":"https://example.test/20001"}`)})
	if _, err := s.Add(t.Context(), event("crm-44", 3, faulty("no type", "too \"odd\""), func(e *request.Event) { e.Request, e.Raw = nil, []byte("{") })); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Add(t.Context(), event("crm-42-callback", 4, from("web"), func(e *request.Event) { e.Request = []byte(`{"channel":{}}`); e.Traceparent = "00-w" })); err != nil || got != Repeated {
		t.Fatal(got, err)
	}
	if got, err := s.Add(t.Context(), event("crm-42-callback", 5, func(e *request.Event) {
		e.Request = []byte(`{"channel":1}`)
		e.Traceparent, e.Tracestate = "00-c", "c=1"
	})); err != nil || got != Conflicting {
		t.Fatal(got, err)
	}
	if err := s.AddMalformed(t.Context(), request.Malformed{Message: event("", 6).Message, Err: "not JSON"}); err != nil {
		t.Fatal(err)
	}
	settle(t, s, event("crm-45", 7), flex.Outcome{HTTPStatus: 503, ErrorKind: "http_503", Message: "m"})
	pgtest.Exec(t, s.pool, `UPDATE outbox SET due_at = NULL, for_person_since = now() WHERE request_id = 'crm-45'`)
	pgtest.Exec(t, s.pool, `UPDATE outbox SET received_at = '2026-11-22 09:00:00.1+00', settled_at = CASE WHEN settled_at IS NOT NULL THEN timestamptz '2026-11-22 10:00:01.25+01' END`)
	pgtest.Exec(t, s.pool, `UPDATE outbox_malformed SET received_at = '2026-11-22 09:00:00.1+00', error = CASE WHEN kind = 'conflict' THEN 'taken' ELSE error END`)
	if !publishStrays(t, r.publisher(t, s)) {
		t.Fatal("not published")
	}
	const none = `"interaction_sid":null,"task_sid":null,"channel":null,"routing":null,`
	want := []struct{ subject, body string }{
		{"interactions.results.created.web", `{"request_id":"crm-42-callback","outcome":"created","interaction_sid":"` + sidA + `","task_sid":"WT1",` +
			`"channel":{"sid":"UO1","type":"sms"},"routing":{"assignment_status":"pending","workspace_sid":"WS2","workflow_sid":"WW3","workflow_name":"Inbound é",` +
			`"queue_sid":"WQ4","queue_name":"Q","task_channel_sid":null,"task_channel_unique_name":"sms","priority":10,"date_created":"2026-11-22T00:00:00Z","date_updated":null,"reservation":null,"conversation_sid":"CH5"},` +
			`"attempts":1,"resolved_by":"response","error":null,"warnings":[{"path":"channel.particpants","problem":"is no name that Flex documents"}],` +
			`"metadata":{"b":12345678901234567890,"a":"<&>"},"metadata_left_out":false,"revision":1,"stream":"REQUESTS","sequence":4,` +
			`"received_at":"2026-11-22T09:00:00.1Z","settled_at":"2026-11-22T09:00:01.25Z"}`},
		{"interactions.results.conflict.crm", `{"request_id":"crm-42-callback","outcome":"conflict",` + none + `"attempts":0,"resolved_by":null,` +
			`"error":{"kind":"conflict","http_status":null,"twilio_code":null,"message":"taken","more_info":null,"twilio_request_id":null,"faults":null},` +
			`"warnings":[],"metadata":null,"metadata_left_out":false,"revision":null,"stream":"REQUESTS","sequence":5,"received_at":"2026-11-22T09:00:00.1Z","settled_at":null}`},
		{"interactions.results.malformed.crm", `{"request_id":null,"outcome":"malformed",` + none + `"attempts":0,"resolved_by":null,` +
			`"error":{"kind":"malformed","http_status":null,"twilio_code":null,"message":"not JSON","more_info":null,"twilio_request_id":null,"faults":null},` +
			`"warnings":[],"metadata":null,"metadata_left_out":false,"revision":null,"stream":"REQUESTS","sequence":6,"received_at":"2026-11-22T09:00:00.1Z","settled_at":null}`},
		{"interactions.results.created.crm", `{"request_id":"crm-42-callback","outcome":"created","interaction_sid":"` + sidA + `","task_sid":"WT1",` +
			`"channel":{"sid":"UO1","type":"sms"},"routing":{"assignment_status":"pending","workspace_sid":"WS2","workflow_sid":"WW3","workflow_name":"Inbound é",` +
			`"queue_sid":"WQ4","queue_name":"Q","task_channel_sid":null,"task_channel_unique_name":"sms","priority":10,"date_created":"2026-11-22T00:00:00Z","date_updated":null,"reservation":null,"conversation_sid":"CH5"},` +
			`"attempts":1,"resolved_by":"response","error":null,"warnings":[{"path":"channel.particpants","problem":"is no name that Flex documents"}],` +
			`"metadata":{"b":12345678901234567890,"a":"<&>"},"metadata_left_out":false,"revision":1,"stream":"REQUESTS","sequence":1,` +
			`"received_at":"2026-11-22T09:00:00.1Z","settled_at":"2026-11-22T09:00:01.25Z"}`},
		{"interactions.results.rejected.crm", `{"request_id":"crm-43","outcome":"rejected","interaction_sid":null,"task_sid":null,"channel":null,"routing":null,` +
			`"attempts":1,"resolved_by":"response","error":{"kind":"http_400","http_status":400,"twilio_code":20001,"message":"Invalid <Channel>",` +
			`"more_info":"https://example.test/20001","twilio_request_id":"RQ7","faults":null},"warnings":[],"metadata":{"n":1.0},"metadata_left_out":false,"revision":1,"stream":"REQUESTS","sequence":2,` +
			`"received_at":"2026-11-22T09:00:00.1Z","settled_at":"2026-11-22T09:00:01.25Z"}`},
		{"interactions.results.rejected.crm", `{"request_id":"crm-44","outcome":"rejected","interaction_sid":null,"task_sid":null,"channel":null,"routing":null,` +
			`"attempts":0,"resolved_by":null,"error":{"kind":"invalid","http_status":null,"twilio_code":null,"message":"channel: no type; channel: too \"odd\"; its request_id is used up: send the corrected request under a new one",` +
			`"more_info":null,"twilio_request_id":null,"faults":[{"path":"channel","problem":"no type"},{"path":"channel","problem":"too \"odd\""}]},"warnings":[],"metadata":null,"metadata_left_out":false,"revision":1,"stream":"REQUESTS","sequence":3,` +
			`"received_at":"2026-11-22T09:00:00.1Z","settled_at":"2026-11-22T09:00:01.25Z"}`},
		{"interactions.results.uncertain.crm", `{"request_id":"crm-45","outcome":"uncertain",` + none + `"attempts":1,"resolved_by":null,` +
			`"error":{"kind":"http_503","http_status":503,"twilio_code":null,"message":"m; wait for the final result, and do not send the same under another request_id","more_info":null,"twilio_request_id":null,"faults":null},` +
			`"warnings":[],"metadata":{"n":1.0},"metadata_left_out":false,"revision":1,"stream":"REQUESTS","sequence":7,"received_at":"2026-11-22T09:00:00.1Z","settled_at":null}`},
	}
	got := r.all(t)
	if len(got) != len(want) {
		t.Fatalf("%d messages, want %d", len(got), len(want))
	}
	for i, w := range want {
		if m := got[i]; m.Subject != w.subject || string(m.Data) != w.body {
			t.Errorf("%s\n%s\nwant %s\n%s", m.Subject, m.Data, w.subject, w.body)
		}
	}
	for i, w := range [][2]string{{"00-w", ""}, {"00-c", "c=1"}, {}, {"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "vendor=1,other=2"}, {}, {}, {}} {
		h := got[i].Header
		if h.Get("traceparent") != w[0] || h.Get("tracestate") != w[1] || h.Get("Content-Type") != "application/json" {
			t.Errorf("%s: headers %v, want traceparent and tracestate %q", got[i].Subject, h, w)
		}
		if _, there := h["traceparent"]; there != (w[0] != "") {
			t.Error("a traceparent that nobody sent")
		}
	}
	if id := got[3].Header.Get("Nats-Msg-Id"); id != flex.LookupKey("crm-42-callback")+"-1" {
		t.Errorf("message id %s", id)
	}
}

// TestPublishedOnAckOnly: no stream, no mark; afterwards it is published once,
// whoever does it how often.
func TestPublishedOnAckOnly(t *testing.T) {
	t.Parallel()
	s, r := newStore(t), newResults(t, natstest.Options{})
	settle(t, s, event("a", 1), good)
	dead, other := s, s.another("w2") // w1 died after the record, a moment ago: however long the test takes until another looks
	pgtest.Exec(t, s.pool, `UPDATE outbox SET settled_at = settled_at + interval '30 seconds'`)
	if answers, err := other.Results.Unpublished(t.Context(), &results.Cursor{}); len(answers) != 0 || err != nil {
		t.Fatalf("taken from its owner: %v, %v", answers, err)
	}
	age(t, s)
	p := r.publisher(t, other)
	if publishStrays(t, p) || s.row(t, "a").PublishedAt != nil || p.Counters.Failed.Load() != 1 {
		t.Fatal("published without a stream")
	}
	r.create(t)
	answers, err := dead.Results.Unpublished(t.Context(), &results.Cursor{})
	if err != nil || len(answers) != 1 {
		t.Fatal(answers, err)
	}
	if _, err := p.Send(answers[0]); err != nil { // published, and died before the mark
		t.Fatal(err)
	}
	<-r.PublishAsyncComplete()
	if !publishStrays(t, p) || !r.publisher(t, dead).Publish(t.Context(), answers) {
		t.Fatal("not published")
	}
	if s.row(t, "a").PublishedAt == nil {
		t.Error("not marked")
	}
	if n := len(r.all(t)); n != 1 {
		t.Errorf("%d messages, want 1", n)
	}
	if answers, err := s.Results.Unpublished(t.Context(), &results.Cursor{}); len(answers) != 0 || err != nil {
		t.Errorf("still to do: %v, %v", answers, err)
	}
	pgtest.CheckOutbox(t, s.pool)
}

// TestPublishFullStream: a stream that takes no more leaves the rest to be
// published once there is room.
func TestPublishFullStream(t *testing.T) {
	t.Parallel()
	s, r := newStore(t), newResults(t, natstest.Options{})
	full := func(most int64) func(*jetstream.StreamConfig) {
		return func(c *jetstream.StreamConfig) { c.MaxMsgs, c.Discard = most, jetstream.DiscardNew }
	}
	r.create(t, full(2))
	mustAdd(t, s, "f", 5, faulty("x"))
	age(t, s)
	p := r.publisher(t, s)
	if publishStrays(t, p) {
		t.Error("a full stream took all")
	}
	if n := pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox WHERE published_at IS NOT NULL`); n != 2 {
		t.Errorf("%d are marked, want 2", n)
	}
	r.create(t, full(100))
	if !publishStrays(t, p) || len(r.all(t)) != 5 {
		t.Errorf("%d messages, want 5", len(r.all(t)))
	}
}

// TestPublishTooLarge: what the server or the stream would not take is reduced,
// and does not hold up its companions.
func TestPublishTooLarge(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		payload int32 // the server's limit
		stream  int32 // the stream's; 0: none
		known   int64 // what the Publisher knows
	}{
		{"known", 16 << 10, 0, 16 << 10},
		{"not known", 16 << 10, 0, 0},
		{"the stream's", 1 << 20, 8 << 10, 1 << 20},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, r := newStore(t), newResults(t, natstest.Options{MaxPayload: tt.payload})
			r.create(t, func(c *jetstream.StreamConfig) { c.MaxMsgSize = tt.stream })
			huge := func(e *request.Event) {
				e.Request = fmt.Appendf(nil, `{"channel":{},"metadata":%q}`, strings.Repeat("x", 64<<10))
			}
			reserved := good
			reserved.Response = fmt.Appendf(nil, `{"routing":{"reservation":{"x":%q},"properties":{"workflow_name":"W"}}}`, strings.Repeat("x", 64<<10))
			settle(t, s, event("huge", 1, huge), reserved)
			settle(t, s, event("small", 2), good)
			long := strings.Repeat("<", 64<<10)
			named := good
			named.InteractionSID = sidB
			named.Response = fmt.Appendf(nil, `{"channel":{"type":%q},"routing":{"properties":{"queue_name":%q,"workflow_name":%q,"task_channel_unique_name":%q}}}`,
				long, long, long, long)
			settle(t, s, event("names", 4), named)
			settle(t, s, event("info", 5), flex.Outcome{Kind: flex.Rejected, ErrorKind: "http_400", HTTPStatus: 400, Message: "no",
				Response: fmt.Appendf(nil, `{"more_info":%q}`, long)})
			angled := func(e *request.Event) {
				e.Request = fmt.Appendf(nil, `{"channel":{},"metadata":%q}`, strings.Repeat("<&>", 1<<10)) // six bytes each, escaped
			}
			third := good
			third.InteractionSID = "KD0000000000000000000000000000000c"
			settle(t, s, event("angled", 6, angled), third)
			var odd []string
			for range 2000 {
				odd = append(odd, "a problem of its own")
			}
			if _, err := s.Add(t.Context(), event("faults", 3, faulty(odd...))); err != nil {
				t.Fatal(err)
			}
			age(t, s)
			p := r.publisher(t, s)
			p.Largest = func() int64 { return tt.known }
			if !publishStrays(t, p) {
				if again := publishStrays(t, p); !again { // the second time it knows
					t.Error("not all is published")
				}
			}
			got := map[string]results.Result{}
			for _, m := range r.all(t) {
				var one results.Result
				if err := json.Unmarshal(m.Data, &one); err != nil {
					t.Fatal(err)
				}
				got[pgtest.Deref(one.RequestID)] = one
			}
			if len(got) != 6 || pgtest.Deref(got["huge"].InteractionSID) != sidA || string(got["huge"].Metadata) != "null" || !got["huge"].MetadataLeftOut {
				t.Errorf("published %d, huge: %.300v", len(got), got["huge"])
			}
			var some []request.ShownFault
			if e := got["faults"].Error; e == nil || e.Kind != "invalid" || !strings.HasPrefix(e.Message, "channel: a problem") || !strings.HasSuffix(e.Message, "…") ||
				json.Unmarshal(e.Faults, &some) != nil || len(some) < 10 || some[len(some)-1].Problem != fmt.Sprintf("and %d more, left out: the result would be larger than the stream takes", 2000-len(some)+1) {
				t.Errorf("faults: %.2000v", e)
			}
			if got["faults"].MetadataLeftOut || string(got["faults"].Metadata) != `{"n":1.0}` {
				t.Errorf("metadata that had room: %s", got["faults"].Metadata)
			}
			if pgtest.Deref(got["names"].InteractionSID) != sidB || got["info"].Error == nil || got["info"].Error.Message != "no" {
				t.Errorf("names: %.300v, info: %.300v", got["names"], got["info"])
			}
			if n := len(got["angled"].Metadata); n != 3<<10+2 {
				t.Errorf("metadata of %d bytes, want them as they came", n)
			}
			if string(got["small"].Metadata) != `{"n":1.0}` || got["small"].MetadataLeftOut {
				t.Errorf("small: %s", got["small"].Metadata)
			}
		})
	}
}

// TestAnswers: each asker is answered on his own subject, once, when there is an
// answer: repeats, conflicts and malformed messages.
func TestAnswers(t *testing.T) {
	t.Parallel()
	s, r := newStore(t), newResults(t, natstest.Options{})
	r.create(t)
	p := r.publisher(t, s)
	add := func(e request.Event) {
		t.Helper()
		if _, err := s.Add(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	publish := func(want ...string) {
		t.Helper()
		before := len(r.all(t))
		for range 2 { // the second turn finds nothing left
			if !publishStrays(t, p) {
				t.Fatal("not published")
			}
		}
		var got []string
		for _, m := range r.all(t)[before:] {
			got = append(got, m.Subject+" "+m.Header.Get("Nats-Msg-Id")+" "+m.Header.Get("traceparent"))
		}
		for i, w := range want {
			if i >= len(got) || strings.TrimSpace(got[i]) != w {
				t.Errorf("published %q, want %q", got, want)
				return
			}
		}
		if len(got) != len(want) {
			t.Errorf("published %q, want %q", got, want)
		}
	}
	micros := func(sequence uint64) string { return strconv.FormatInt(event("a", sequence).Time.UnixMicro(), 10) }
	key := flex.LookupKey("a")
	add(event("a", 1))
	add(event("a", 2, from("web.eu"), func(e *request.Event) { e.Traceparent = "00-w" }))
	publish() // no answer yet
	if _, err := s.record(t.Context(), told(mustClaim(t, s, 1)[0], good)); err != nil {
		t.Fatal(err)
	}
	age(t, s)
	publish("interactions.results.created.web.eu "+key+"-1-again-2-"+micros(2)+" 00-w", "interactions.results.created.crm "+key+"-1")
	add(event("a", 3, from("web")))
	add(event("a", 3, from("web"))) // redelivered
	publish("interactions.results.created.web " + key + "-1-again-3-" + micros(3))
	add(event("a", 4, from("web"), func(e *request.Event) { e.Request = []byte(`{"other":1}`) }))
	for range 2 {
		m := request.Malformed{Message: event("", 5, from("old")).Message, Err: "not JSON"}
		if err := s.AddMalformed(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	pgtest.Exec(t, s.pool, `UPDATE outbox_malformed SET received_at = '2026-11-22 09:00:00+00'`)
	publish("interactions.results.conflict.web conflict-REQUESTS-4-1795338000000000", "interactions.results.malformed.old malformed-REQUESTS-5-1795338000000000")
}

// TestAnnouncement: who waits for a person hears so, once, and then the end.
func TestAnnouncement(t *testing.T) {
	t.Parallel()
	s, r := newStore(t), newResults(t, natstest.Options{})
	r.create(t)
	p := r.publisher(t, s)
	settle(t, s, event("u", 1), flex.Outcome{HTTPStatus: 503, ErrorKind: "http_503", Message: "m"})
	pgtest.Exec(t, s.pool, `UPDATE outbox SET due_at = NULL, for_person_since = now()`) // no lookup will tell
	answers, err := s.Results.Unpublished(t.Context(), &results.Cursor{})
	if err != nil || len(answers) != 1 {
		t.Fatal(answers, err)
	}
	for range 2 {
		if !p.Publish(t.Context(), answers) {
			t.Fatal("not published")
		}
	}
	if row := s.row(t, "u"); row.AnnouncedAt == nil || row.PublishedAt != nil {
		t.Errorf("%+v", row)
	}
	if again, err := s.Results.Unpublished(t.Context(), &results.Cursor{}); len(again) != 0 || err != nil {
		t.Errorf("announced again: %v, %v", again, err)
	}
	pgtest.Exec(t, s.pool, `UPDATE outbox SET state = 'created', interaction_sid = $1, resolved_by = 'operator', settled_at = clock_timestamp() - interval '1 minute', due_at = NULL, for_person_since = NULL`, sidA)
	before := s.row(t, "u").AnnouncedAt
	if now := s.row(t, "u"); !p.Publish(t.Context(), answers) || now.PublishedAt != nil || !pgtest.Deref(s.row(t, "u").AnnouncedAt).Equal(*before) {
		t.Error("a late announcement was marked")
	}
	if !publishStrays(t, p) || s.row(t, "u").PublishedAt == nil {
		t.Error("the final result is not published")
	}
	got := r.all(t)
	key := flex.LookupKey("u")
	if len(got) != 2 || got[0].Subject != "interactions.results.uncertain.crm" || got[1].Subject != "interactions.results.created.crm" ||
		got[0].Header.Get("Nats-Msg-Id") != key+"-1-uncertain-1" || got[1].Header.Get("Nats-Msg-Id") != key+"-1" {
		t.Errorf("%d messages: %+v", len(got), got)
	}
	if !bytes.Contains(got[0].Data, []byte(`"outcome":"uncertain"`)) || !bytes.Contains(got[0].Data, []byte(`"settled_at":null`)) {
		t.Errorf("%s", got[0].Data)
	}
}

// TestPublisherBehind: what is settled faster than it is published goes out without
// anybody looking for unpublished results.
func TestPublisherBehind(t *testing.T) {
	t.Parallel()
	s, r := newStore(t), newResults(t, natstest.Options{})
	r.create(t)
	p := r.publisher(t, s)
	n := cap(s.Results.Queue.Queue) + batchSize + 10
	mustAdd(t, s, "much", n, faulty("x"))
	if left := len(s.Results.Queue.IDs); left != batchSize+10 {
		t.Fatalf("%d are known by number", left)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); p.Run(ctx) }()
	expect.Eventually(t, func() error {
		var left int
		if err := s.pool.QueryRow(t.Context(), `SELECT count(*) FROM outbox WHERE published_at IS NULL`).Scan(&left); err != nil {
			return err
		}
		if left > 0 {
			return fmt.Errorf("%d are not published", left)
		}
		return nil
	})
	stop()
	<-ended
	if got := len(r.all(t)); got != n {
		t.Errorf("%d messages, want %d", got, n)
	}
}

// TestPublisherRuns: hints, questions and unpublished results all come out by themselves; NATS
// may go away meanwhile.
func TestPublisherRuns(t *testing.T) {
	t.Parallel()
	s, r := newStore(t), newResults(t, natstest.Options{})
	r.create(t)
	p := r.publisher(t, s)
	mustAdd(t, s, "left", batchSize+10, faulty("x"))
	for len(s.Results.Queue.Queue) > 0 {
		<-s.Results.Queue.Queue // dropped hints
	}
	age(t, s)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	running(t, s.upkeep().Poll)
	go func() { defer close(ended); p.Run(ctx) }()
	unpublished := func() error {
		var n int
		if err := s.pool.QueryRow(t.Context(), `
			SELECT (SELECT count(*) FROM outbox WHERE published_at IS NULL) + (SELECT count(*) FROM outbox_repeats WHERE published_at IS NULL)
			     + (SELECT count(*) FROM outbox_malformed WHERE published_at IS NULL)`).Scan(&n); err != nil {
			return err
		}
		if n > 0 {
			return fmt.Errorf("%d are not published", n)
		}
		return nil
	}
	expect.Eventually(t, unpublished)
	r.server.Shutdown()
	mustAdd(t, s, "later", 20, faulty("x"))
	if _, err := s.Add(t.Context(), event("later-1", 99, faulty("x"))); err != nil {
		t.Fatal(err)
	}
	if err := s.AddMalformed(t.Context(), request.Malformed{Message: event("", 100).Message, Err: "x"}); err != nil {
		t.Fatal(err)
	}
	expect.Eventually(t, func() error {
		if p.Counters.Failed.Load() == 0 {
			return errors.New("nothing failed")
		}
		return nil
	})
	if err := r.server.Restart(); err != nil {
		t.Fatal(err)
	}
	expect.Eventually(t, unpublished)
	stop()
	<-ended
}

// TestPublisherStops: what this process has settled goes out before Run returns.
func TestPublisherStops(t *testing.T) {
	t.Parallel()
	s, r := newStore(t), newResults(t, natstest.Options{})
	r.create(t)
	mustAdd(t, s, "s", cap(s.Results.Queue.Queue)+batchSize+50, faulty("x")) // the last are known by number
	ctx, stop := context.WithCancel(t.Context())
	stop()
	r.publisher(t, s).Run(ctx)
	if n := pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox WHERE published_at IS NULL`); n != 0 {
		t.Errorf("%d were left to others", n)
	}
}

// TestMarkFenced: the acknowledgement of an earlier answer does not mark a later
// one: settled anew after an operator's retry, it is published under its own id.
func TestMarkFenced(t *testing.T) {
	t.Parallel()
	s, r := newStore(t), newResults(t, natstest.Options{})
	r.create(t)
	p := r.publisher(t, s)
	settle(t, s, event("m", 1), flex.Outcome{Kind: flex.Rejected, ErrorKind: "http_400"})
	age(t, s)
	earlier, err := s.Results.Unpublished(t.Context(), &results.Cursor{})
	if err != nil || len(earlier) != 1 {
		t.Fatal(earlier, err)
	}
	pgtest.Exec(t, s.pool, `UPDATE outbox SET revision = 2`)
	if !p.Publish(t.Context(), earlier) || s.row(t, "m").PublishedAt != nil {
		t.Error("marked by the answer before")
	}
	if !publishStrays(t, p) || s.row(t, "m").PublishedAt == nil || len(r.all(t)) != 2 {
		t.Errorf("%d messages, want 2", len(r.all(t)))
	}
}

// TestConflictSaysWhereTheFirstStands: state, source and time of the request that has the
// id, what differs, and that it goes on only where it does.
func TestConflictSaysWhereTheFirstStands(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	add := func(id string, sequence uint64, change func(*request.Event)) {
		t.Helper()
		if _, err := s.Add(t.Context(), event(id, sequence, change)); err != nil {
			t.Fatal(err)
		}
	}
	other := func(e *request.Event) { e.Request = []byte(`{"channel":{"type":"web"},"webhook_ttid":"t"}`) }
	const differs = "channel, routing, webhook_ttid: message 1, received from crm at 2026-11-22T09:00:00Z; it "
	const settled = " at 2026-11-22T10:00:00Z. "
	for n, tt := range []struct{ id, set, stands string }{
		{"pending", ``, "waits to be sent, and goes on untouched. "},
		{"sending", `state = 'sending', due_at = NULL, attempt = 1, leased_by = 'w', leased_until = now() + interval '1 hour'`, "is being sent, and goes on untouched. "},
		{"looked-up", `state = 'uncertain', attempt = 1, attempt_began_at = now(), uncertain_since = now(), error_kind = 'lapsed'`, "may exist already, which is being looked up, and goes on untouched. "},
		{"waits", `state = 'uncertain', due_at = NULL, for_person_since = now(), attempt = 1, attempt_began_at = now(), uncertain_since = now(), error_kind = 'lapsed'`, "may exist already, and waits for a person to decide. "},
		{"created", `state = 'created', due_at = NULL, interaction_sid = '` + sidA + `', resolved_by = 'response', settled_at = $1`, "was created" + settled},
		{"rejected", `state = 'rejected', due_at = NULL, error_kind = 'http_400', settled_at = $1`, "was rejected" + settled},
		{"abandoned", `state = 'abandoned', due_at = NULL, attempt = 1, error_kind = 'http_500', settled_at = $1`, "was abandoned" + settled},
		{"expired", `state = 'expired', due_at = NULL, error_kind = 'expired', settled_at = $1`, "expired" + settled},
		{"cancelled", `state = 'cancelled', due_at = NULL, error_kind = 'cancelled', settled_at = $1`, "was cancelled" + settled},
	} {
		add(tt.id, 1, func(e *request.Event) { e.Time = e.Time.Add(time.Duration(n) * time.Second) })
		pgtest.Exec(t, s.pool, `UPDATE outbox SET received_at = '2026-11-22 09:00:00+00' WHERE request_id = $1`, tt.id)
		if strings.Contains(tt.set, "$1") {
			pgtest.Exec(t, s.pool, `UPDATE outbox SET `+tt.set+` WHERE request_id = '`+tt.id+`'`, time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC))
		} else if tt.set != "" {
			pgtest.Exec(t, s.pool, `UPDATE outbox SET `+tt.set+` WHERE request_id = '`+tt.id+`'`)
		}
		add(tt.id, uint64(100+n), other)
		got := pgtest.One[string](t, s.pool, `SELECT error FROM outbox_malformed WHERE request_id = $1`, tt.id)
		want := "request_id " + tt.id + " is taken by another request, which differs in " + differs + tt.stands + "This message was not carried out: ask again under a new request_id"
		if got != want {
			t.Errorf("%s:\n got %s\nwant %s", tt.id, got, want)
		}
	}
}

// TestUncertainAfterCreated: that a request waits for a person is kept while NATS is away
// for this replica. Another finds it meanwhile, and its result is on the stream: nothing
// is announced after it.
func TestUncertainAfterCreated(t *testing.T) {
	t.Parallel()
	s, r := newStore(t), newResults(t, natstest.Options{})
	r.create(t)
	for i, id := range []string{"found", "waits"} {
		if _, err := s.Add(t.Context(), event(id, uint64(i+1))); err != nil {
			t.Fatal(err)
		}
		done, err := s.record(t.Context(), told(mustClaim(t, s, 1)[0], flex.Outcome{HTTPStatus: 503, ErrorKind: "http_503", Message: "m"}))
		if err != nil || done != nil {
			t.Fatal(done, err)
		}
		pgtest.Exec(t, s.pool, `UPDATE outbox SET due_at = NULL, for_person_since = now() WHERE state = 'uncertain'`)
		waiting, err := s.Results.ReadSettled(t.Context(), results.WaitingSQL, 0, batchSize)
		if err != nil {
			t.Fatal(err)
		}
		s.Results.Offer(&waiting[len(waiting)-1])
	}
	pgtest.Exec(t, s.pool, `UPDATE outbox SET state = 'created', interaction_sid = $1, resolved_by = 'lookup', error_kind = NULL, for_person_since = NULL, settled_at = now() - interval '1 minute' WHERE request_id = 'found'`, sidA)
	other := s.another("w2")
	answers, err := other.Results.Unpublished(t.Context(), &results.Cursor{})
	if err != nil || len(answers) != 2 {
		t.Fatal(answers, err)
	}
	if !r.publisher(t, other).Publish(t.Context(), slices.DeleteFunc(answers, func(a results.Answer) bool { return a.Kind != results.Final })) {
		t.Fatal("not published")
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	r.publisher(t, s).Run(ctx) // publishes what it was told of
	var got []string
	for _, m := range r.all(t) {
		got = append(got, m.Subject)
	}
	if want := []string{"interactions.results.created.crm", "interactions.results.uncertain.crm"}; !slices.Equal(got, want) {
		t.Errorf("published %q, want %q", got, want)
	}
	if all := r.all(t); !bytes.Contains(all[len(all)-1].Data, []byte(`"request_id":"waits"`)) {
		t.Errorf("announced %s", all[len(all)-1].Data)
	}
}

// TestRevisionOfARetry: rejected, then created after an operator's retry: the results say
// which of the two is newer, and both which message they answer.
func TestRevisionOfARetry(t *testing.T) {
	t.Parallel()
	s, r := newStore(t), newResults(t, natstest.Options{})
	r.create(t)
	p := r.publisher(t, s)
	settle(t, s, event("a", 7), flex.Outcome{Kind: flex.Rejected, ErrorKind: "http_400", HTTPStatus: 400})
	age(t, s)
	if !publishStrays(t, p) {
		t.Fatal("not published")
	}
	if ids, err := s.retry(t.Context(), operator.Act{Why: "put right"}, operator.Filter{RequestIDs: []string{"a"}}); err != nil || len(ids) != 1 {
		t.Fatal(ids, err)
	}
	c, err := s.claim(t.Context(), 2)
	if err != nil || len(c.leases) != 1 {
		t.Fatal(c, err)
	}
	if _, err := s.record(t.Context(), told(c.leases[0], good)); err != nil {
		t.Fatal(err)
	}
	age(t, s)
	if !publishStrays(t, p) {
		t.Fatal("not published")
	}
	var got []string
	for _, m := range r.all(t) {
		var one results.Result
		if err := json.Unmarshal(m.Data, &one); err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%s %d %s %d", one.Outcome, pgtest.Deref(one.Revision), one.Stream, one.Sequence))
	}
	if want := []string{"rejected 1 REQUESTS 7", "created 2 REQUESTS 7"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestNothingMarkedIsNoEnd: marks that fail are a trouble until one succeeds. That nothing was there to be marked in
// between says nothing of it.
func TestNothingMarkedIsNoEnd(t *testing.T) {
	t.Parallel()
	s, r := newStore(t), newResults(t, natstest.Options{})
	r.create(t)
	settle(t, s, event("a", 1), good)
	age(t, s)
	hasty := s.with(t, "lock_timeout", "50ms")
	var said strings.Builder
	p := r.publisher(t, hasty)
	p.Log = textLog(&said)
	_, release := holding(t, s, `LOCK TABLE outbox IN SHARE MODE`)
	for range 2 {
		if publishStrays(t, p) {
			t.Error("it was marked")
		}
		if !p.Publish(t.Context(), nil) {
			t.Error("nothing to publish is a failure")
		}
	}
	if got := said.String(); strings.Count(got, "cannot be marked") != 1 || strings.Contains(got, "works again") {
		t.Errorf("the log is\n%s", got)
	}
	release()
	if !publishStrays(t, p) {
		t.Error("it was not marked")
	}
	if got := said.String(); strings.Count(got, "works again") != 1 || !strings.Contains(got, "failures=2") {
		t.Errorf("the log is\n%s", got)
	}
}
