package consumer

import (
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"flexworker/internal/outbox/request"
)

// Parts of requests that are in order.
const (
	workspace = "WS00000000000000000000000000000002"
	workflow  = "WW00000000000000000000000000000003"
	channelOK = `"channel":{"type":"sms","initiated_by":"api"}`
	routingOK = `"routing":{"properties":{"workspace_sid":"` + workspace + `","workflow_sid":"` + workflow + `"}}`
	bodyOK    = `{` + channelOK + `,` + routingOK + `}`
)

type headers = map[string][]string

// msgID is the header that NATS itself knows.
func msgID(id string) headers { return headers{"Nats-Msg-Id": {id}} }

// withID is a request in order with this JSON text as its id.
func withID(id string) string { return `{"request_id":` + id + `,` + channelOK + `,` + routingOK + `}` }

func message(h headers, body string) request.Message {
	return request.Message{Stream: "S", Subject: "r.crm", Source: "crm", Sequence: 1, Headers: h, Raw: []byte(body)}
}

// decodeCase is one message and what its sender reads about it: exactly one of
// id and malformed is set.
type decodeCase struct {
	name      string
	headers   headers
	body      string
	id        string   // the id under which it is kept
	faults    []string // rejected for these, all of them, in this order
	malformed string   // kept as malformed for this reason
}

// decoded is what decode makes of a message, held against the published schema.
func decoded(t *testing.T, m request.Message, attribute string) (request.Event, string) {
	t.Helper()
	agree(t, m, attribute)
	return decode(m, attribute)
}

func runDecode(t *testing.T, cases []decodeCase) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			e, bad := decoded(t, message(c.headers, c.body), "interaction_request")
			if bad != c.malformed {
				t.Fatalf("malformed:\n got %q\nwant %q", bad, c.malformed)
			}
			if bad != "" {
				return
			}
			if e.RequestID != c.id {
				t.Errorf("request id %q, want %q", e.RequestID, c.id)
			}
			var got []string
			for _, f := range e.Faults {
				got = append(got, f.String())
			}
			if g, w := strings.Join(got, "\n"), strings.Join(c.faults, "\n"); g != w {
				t.Errorf("faults:\n got %s\nwant %s", g, w)
			}
		})
	}
}

// TestDecodeUnreadable: what no JSON reader can be trusted with is malformed,
// whatever id came around it.
func TestDecodeUnreadable(t *testing.T) {
	t.Parallel()
	const empty = "the message is empty; a request is a JSON object"
	runDecode(t, []decodeCase{
		{name: "empty", malformed: empty},
		{name: "empty with an id", headers: msgID("a"), malformed: empty},
		{name: "white space", headers: msgID("a"), body: " \r\n\t", malformed: empty},
		{name: "not JSON", headers: msgID("a"), body: `hello`, malformed: "not JSON at byte 1: invalid character 'h' looking for beginning of value"},
		{name: "cut", headers: msgID("a"), body: `{"request_id":"a"`, malformed: "not JSON at byte 17: unexpected end of JSON input"},
		{name: "two values", headers: msgID("a"), body: `{} {}`, malformed: "not JSON at byte 4: invalid character '{' after top-level value"},
		{name: "trailing comma", headers: msgID("a"), body: `{"request_id":"a",}`, malformed: "not JSON at byte 19: invalid character '}' looking for beginning of object key string"},
		{name: "byte order mark", headers: msgID("a"), body: "\ufeff" + bodyOK, malformed: "begins with a byte order mark (U+FEFF), which JSON must not have: send it as UTF-8 without one"},
		{name: "NaN", headers: msgID("a"), body: `{"priority":NaN}`, malformed: "not JSON at byte 13: invalid character 'N' looking for beginning of value"},
		{name: "raw line end in a string", headers: msgID("a"), body: "{\"metadata\":\"a\r\nb\"}", malformed: `not JSON at byte 15: invalid character '\r' in string literal`},
		{name: "Latin-1", headers: msgID("a"), body: "{\"metadata\":\"\xe9\"}", malformed: "not UTF-8 at byte 13"},
		{name: "UTF-16", headers: msgID("a"), body: "\xff\xfe{\x00}\x00", malformed: "is UTF-16: send it as UTF-8"},
		{name: "100 levels and one", headers: msgID("a"), body: `{"metadata":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`, malformed: "metadata" + strings.Repeat("[0]", 64) + "...: nested deeper than 100 levels"},
		{name: "100,000 levels", headers: msgID("a"), body: strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000), malformed: strings.Repeat("[0]", 66) + "[0...: nested deeper than 100 levels"},
		{name: "100,000 levels never closed", headers: msgID("a"), body: strings.Repeat("[", 100_000), malformed: "not JSON at byte 10001: invalid character '[' exceeded max depth"},
	})
}

// TestDecodeUnfit: JSON that Postgres or its readers cannot keep has an id and
// is rejected under it; without one it is malformed.
func TestDecodeUnfit(t *testing.T) {
	t.Parallel()
	runDecode(t, []decodeCase{
		{name: "NUL", body: `{"request_id":"a","metadata":"x\u0000y"}`, id: "a", faults: []string{`metadata: holds \u0000, which Postgres cannot keep`}},
		{name: "NUL without id", body: `{"metadata":"x\u0000y"}`, malformed: "request_id: missing, and there is no Nats-Msg-Id header either"},
		{name: "lone surrogate", body: `{"request_id":"a","metadata":{"k":["\ud83d"]}}`, id: "a", faults: []string{`metadata.k[0]: holds half of a surrogate pair (\ud83d)`}},
		{name: "1e400", body: `{"request_id":"a","priority":1e400}`, id: "a", faults: []string{"priority: number out of range: 1e400"}},
		{name: "double key", headers: msgID("a"), body: `{"channel":1,"channel":2}`, id: "a", faults: []string{"channel: this key stands twice"}},
		{name: "all at once", headers: msgID("a"), body: `{"a":"\u0000","b":{"c":1,"c":2},"d":["\udc00"]}`, id: "a", faults: []string{
			`a: holds \u0000, which Postgres cannot keep`, "b.c: this key stands twice", `d[0]: holds half of a surrogate pair (\udc00)`}},
		{name: "100 levels", body: `{"request_id":"a",` + channelOK + `,` + routingOK + `,"metadata":` + strings.Repeat("[", 99) + strings.Repeat("]", 99) + `}`, id: "a"},
		{name: "1 MiB", body: `{"request_id":"a",` + channelOK + `,` + routingOK + `,"metadata":"` + strings.Repeat("x", 1<<20) + `"}`, id: "a"},
		{name: "text over 1,600 characters", body: `{"request_id":"a","channel":{"type":"sms","initiated_by":"agent","properties":{"body":"` + strings.Repeat("ü", 1601) + `"}},` + routingOK + `}`, id: "a"},
	})
}

// TestDecodeRequestID: who gives the id, and which ids are none.
func TestDecodeRequestID(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 256)
	runDecode(t, []decodeCase{
		{name: "body", body: withID(`"crm-42"`), id: "crm-42"},
		{name: "header", headers: msgID("crm-42"), body: bodyOK, id: "crm-42"},
		{name: "header in any case", headers: headers{"nats-msg-id": {"crm-42"}}, body: bodyOK, id: "crm-42"},
		{name: "header twice in two cases", headers: headers{"nats-msg-id": {"b"}, "Nats-Msg-Id": {"a"}, "NATS-msg-ID": nil}, body: bodyOK, id: "a"},
		{name: "body before header", headers: msgID("b"), body: withID(`"a"`), id: "a"},
		{name: "null is left out", headers: msgID("b"), body: withID(`null`), id: "b"},
		{name: "nobody", body: bodyOK, malformed: "request_id: missing, and there is no Nats-Msg-Id header either"},
		{name: "header without a value", headers: headers{"Nats-Msg-Id": {}}, body: bodyOK, malformed: "request_id: missing, and there is no Nats-Msg-Id header either"},
		{name: "empty header", headers: msgID(""), body: bodyOK, malformed: "request_id: missing, and there is no Nats-Msg-Id header either"},
		{name: "empty in the body", headers: msgID("b"), body: withID(`""`), malformed: "request_id: must not be empty"},
		{name: "a number", headers: msgID("b"), body: withID(`42`), malformed: "request_id: must be a string"},
		{name: "an object", headers: msgID("b"), body: withID(`{}`), malformed: "request_id: must be a string"},
		{name: "twice", headers: msgID("b"), body: `{"request_id":"a","request_id":"a"}`, malformed: "request_id: this key stands twice"},
		{name: "in another case", headers: msgID("b"), body: `{"Request_ID":"a",` + channelOK + `,` + routingOK + `}`, id: "b", faults: []string{
			"Request_ID: is not a field of a request; the fields are request_id, channel, routing, interaction_context_sid, webhook_ttid, priority, not_before, expires_at, metadata"}},
		{name: "256 bytes", body: withID(`"` + long + `"`), id: long},
		{name: "257 bytes", body: withID(`"` + long + `x"`), malformed: "request_id: has 257 bytes, at most 256 are allowed"},
		{name: "256 bytes are not characters", body: withID(`"` + strings.Repeat("ü", 129) + `"`), malformed: "request_id: has 258 bytes, at most 256 are allowed"},
		{name: "257 bytes in the header", headers: msgID(long + "x"), body: bodyOK, malformed: "the Nats-Msg-Id header: has 257 bytes, at most 256 are allowed"},
		{name: "huge", body: withID(`"` + strings.Repeat("x", 1<<20) + `"`), malformed: "request_id: has 1048576 bytes, at most 256 are allowed"},
		{name: "CR LF", body: withID(`"a\r\nNats-Msg-Id: b"`), malformed: "request_id: has the unprintable character U+000D"},
		{name: "tab", body: withID(`"a\tb"`), malformed: "request_id: has the unprintable character U+0009"},
		{name: "NUL", body: withID(`"a\u0000b"`), malformed: `request_id: holds \u0000, which Postgres cannot keep`},
		{name: "DEL", body: withID(`"a` + "\x7f" + `"`), malformed: "request_id: has the unprintable character U+007F"},
		{name: "line separator", body: withID(`"a\u2028b"`), malformed: "request_id: has the unprintable character U+2028"},
		{name: "lone surrogate", body: withID(`"\ud800"`), malformed: `request_id: holds half of a surrogate pair (\ud800)`},
		{name: "lone surrogate behind many faults", body: `{"a":[` + strings.Repeat(`"\u0000",`, 30) + `1],"request_id":"\ud800"}`, malformed: `request_id: holds half of a surrogate pair (\ud800)`},
		{name: "not UTF-8 in the header", headers: msgID("\xff"), body: bodyOK, malformed: "the Nats-Msg-Id header: is not UTF-8"},
		{name: "emoji", body: withID(`"👩👧 42"`), id: "👩👧 42"},
		{name: "emoji as escapes", body: withID(`"\ud83d\udc69"`), id: "👩"},
		{name: "right to left", body: withID(`"שלום-مرحبا"`), id: "שלום-مرحبا"},
		{name: "a path", body: withID(`"../../etc/passwd"`), id: "../../etc/passwd"},
		{name: "a subject", body: withID(`"a.*.>"`), id: "a.*.>"},
	})
}

// TestDecodeCloudEvents: both forms, and what they may get wrong.
func TestDecodeCloudEvents(t *testing.T) {
	t.Parallel()
	structured := headers{"content-type": {"application/cloudevents+json; charset=utf-8"}}
	const ce = `{"specversion":"1.0","type":"t","source":"/s","id":"ce-1",`
	encoded := base64.StdEncoding.EncodeToString([]byte(bodyOK))
	const unknown = "; the fields are request_id, channel, routing, interaction_context_sid, webhook_ttid, priority, not_before, expires_at, metadata"
	runDecode(t, []decodeCase{
		{name: "structured", headers: structured, body: ce + `"data":` + bodyOK + `}`, id: "ce-1"},
		{name: "structured by itself", body: ce + `"data":` + bodyOK + `}`, id: "ce-1"},
		{name: "structured in base64", headers: structured, body: ce + `"data_base64":"` + encoded + `"}`, id: "ce-1"},
		{name: "the request's own id goes first", headers: structured, body: ce + `"data":` + withID(`"a"`) + `}`, id: "a"},
		{name: "the envelope's before the header's", headers: headers{"Content-Type": structured["content-type"], "Nats-Msg-Id": {"n"}}, body: ce + `"data":` + bodyOK + `}`, id: "ce-1"},
		{name: "the header's when the envelope has none", headers: msgID("n"), body: `{"specversion":"1.0","data":` + bodyOK + `}`, id: "n"},
		{name: "structured wins over a stray ce-id", headers: headers{"Content-Type": structured["content-type"], "ce-id": {"x"}}, body: ce + `"data":` + bodyOK + `}`, id: "ce-1"},
		{name: "unknown version", headers: structured, body: `{"specversion":"9.9","id":"ce-1","data":` + bodyOK + `}`, id: "ce-1"},
		{name: "extension attributes", headers: structured, body: ce + `"traceparent":"x","data":` + bodyOK + `}`, id: "ce-1"},
		{name: "id not a string", headers: structured, body: `{"specversion":"1.0","id":7,"data":` + bodyOK + `}`, malformed: "CloudEvent: id: must be a string"},
		{name: "id twice", headers: structured, body: ce + `"id":"ce-2","data":` + bodyOK + `}`, malformed: "CloudEvent: id: this key stands twice"},
		{name: "data twice", headers: structured, body: ce + `"data":{},"data":` + bodyOK + `}`, malformed: "CloudEvent: data: this key stands twice"},
		{name: "no data", headers: structured, body: ce + `"x":1}`, malformed: "CloudEvent: data: missing; the request has to stand in it"},
		{name: "data null", headers: structured, body: ce + `"data":null}`, id: "ce-1", faults: []string{"a request must be a JSON object, and this is null"}},
		{name: "data as text", headers: structured, body: ce + `"data":"{}"}`, id: "ce-1", faults: []string{"a request must be a JSON object, and this is a string that holds one: it was encoded twice; send the object itself"}},
		{name: "data unfit", headers: structured, body: ce + `"data":{"metadata":"\u0000"}}`, id: "ce-1", faults: []string{`metadata: holds \u0000, which Postgres cannot keep`}},
		{name: "envelope unfit, data in order", headers: structured, body: ce + `"ext":"\u0000","data":` + bodyOK + `}`, id: "ce-1"},
		{name: "data not base64", headers: structured, body: ce + `"data_base64":"!"}`, malformed: "CloudEvent: data_base64: illegal base64 data at input byte 0"},
		{name: "data_base64 not a string", headers: structured, body: ce + `"data_base64":1}`, malformed: "CloudEvent: data_base64: must be a string"},
		{name: "base64 of nonsense", headers: structured, body: ce + `"data_base64":"aGVsbG8="}`, malformed: "not JSON at byte 1: invalid character 'h' looking for beginning of value"},
		{name: "envelope not JSON", headers: structured, body: `hello`, malformed: "CloudEvent: not JSON at byte 1: invalid character 'h' looking for beginning of value"},
		{name: "a batch", headers: headers{"Content-Type": {"application/cloudevents-batch+json"}}, body: `[` + ce + `"data":` + bodyOK + `}]`, malformed: "CloudEvent: a batch; send one event in a message"},
		{name: "binary", headers: headers{"ce-id": {"ce-1"}, "ce-type": {"t"}}, body: bodyOK, id: "ce-1"},
		{name: "binary in any case", headers: headers{"Ce-Id": {"ce-1"}}, body: bodyOK, id: "ce-1"},
		{name: "binary before the header", headers: headers{"CE-ID": {"ce-1"}, "Nats-Msg-Id": {"n"}}, body: bodyOK, id: "ce-1"},
		{name: "binary, body first", headers: headers{"ce-id": {"ce-1"}}, body: withID(`"a"`), id: "a"},
		{name: "binary, unprintable", headers: headers{"ce-id": {"a\x01"}}, body: bodyOK, malformed: "the header ce-id: has the unprintable character U+0001"},
		{name: "binary, a wrong field", headers: headers{"ce-id": {"ce-1"}}, body: `{` + channelOK + `,` + routingOK + `,"data":{}}`, id: "ce-1", faults: []string{"data: is not a field of a request" + unknown}},
	})
}

// TestDecodeNoCloudEvent: what says specversion but is a request by its fields, and has no
// data, is a request. It is answered under its id.
func TestDecodeNoCloudEvent(t *testing.T) {
	t.Parallel()
	const inside = channelOK + `,` + routingOK
	const unknown = "specversion: is not a field of a request" + fieldList
	const missing = "request_id: missing, and there is no Nats-Msg-Id header either"
	ce := headers{"Content-Type": {"application/cloudevents+json"}}
	binary := headers{"Content-Type": {"application/cloudevents+json"}, "ce-id": {"ce-1"}, "ce-specversion": {"1.0"}}
	runDecode(t, []decodeCase{
		{name: "null", body: `{"request_id":"a","specversion":null,` + inside + `}`, id: "a"},
		{name: "null, another fault", body: `{"request_id":"a","specversion":null,` + inside + `,"priority":10}`, id: "a", faults: []string{"priority: must be a whole number from 0 to 9"}},
		{name: "null, id in the header", headers: msgID("n"), body: `{"specversion":null,` + inside + `}`, id: "n"},
		{name: "null and nothing else", headers: msgID("n"), body: `{"specversion":null}`, id: "n", faults: []string{"channel: missing", "routing: missing; only a request with channel.sid can do without"}},
		{name: "1.0", body: `{"request_id":"a","specversion":"1.0",` + inside + `}`, id: "a", faults: []string{unknown}},
		{name: "a number", body: `{"request_id":"a","specversion":1,` + inside + `}`, id: "a", faults: []string{unknown}},
		{name: "1.0, request_id alone", body: `{"request_id":"a","specversion":"1.0"}`, id: "a", faults: []string{
			unknown, "channel: missing", "routing: missing; only a request with channel.sid can do without"}},
		{name: "1.0, unfit", body: `{"request_id":"a","specversion":"1.0","metadata":"\u0000"}`, id: "a", faults: []string{`metadata: holds \u0000, which Postgres cannot keep`}},
		{name: "1.0, id in the header", headers: msgID("n"), body: `{"specversion":"1.0",` + inside + `}`, id: "n", faults: []string{unknown}},
		{name: "1.0, no id", body: `{"specversion":"1.0",` + inside + `}`, malformed: missing + "; the request of a CloudEvent stands in its data"},
		{name: "null does not make a request", headers: msgID("n"), body: `{"specversion":"1.0","channel":null,"request_id":null}`, malformed: "CloudEvent: data: missing; the request has to stand in it"},
		{name: "data null", body: `{"specversion":"1.0","id":"ce-1","channel":{},"data":null}`, id: "ce-1", faults: []string{
			"a request must be a JSON object, and this is null", "channel: stands beside the CloudEvent's data, where nobody obeys it: put channel into the request itself"}},
		{name: "content type alone", headers: ce, body: `{"request_id":"a",` + inside + `}`, id: "a"},
		{name: "content type, no id", headers: ce, body: bodyOK, malformed: missing + "; the request of a CloudEvent stands in its data"},
		{name: "content type and data, no id", headers: ce, body: `{"data":` + bodyOK + `}`, malformed: missing},
		{name: "binary", headers: binary, body: bodyOK, id: "ce-1"},
		{name: "binary, body first", headers: binary, body: withID(`"a"`), id: "a"},
		{name: "binary, specversion in the body", headers: binary, body: `{"specversion":"1.0",` + inside + `}`, id: "ce-1", faults: []string{unknown}},
		{name: "binary, a faulty request", headers: binary, body: `{"channel":7}`, id: "ce-1", faults: []string{
			"channel: must be an object", "routing: missing; only a request with channel.sid can do without"}},
	})
}

// TestDecodeBesideData: a field of the request is obeyed within data alone. One that stands
// beside it, or in a header, is said: an expires_at must not be passed over in silence.
func TestDecodeBesideData(t *testing.T) {
	t.Parallel()
	const ce = `{"specversion":"1.0","type":"t","source":"/s",`
	const missing = "request_id: missing, and there is no Nats-Msg-Id header either"
	beside := func(name, field string) string {
		return name + ": stands beside the CloudEvent's data, where nobody obeys it: put " + field + " into the request itself"
	}
	header := func(name, field string) string {
		return name + ": is a header, where nobody obeys it: put " + field + " into the request itself"
	}
	cases := []decodeCase{
		{name: "request_id", body: ce + `"id":"ce-1","request_id":"a","data":` + bodyOK + `}`, id: "ce-1", faults: []string{beside("request_id", "request_id")}},
		{name: "request_id beside another", body: ce + `"id":"ce-1","request_id":"a","data":` + withID(`"b"`) + `}`, id: "b", faults: []string{beside("request_id", "request_id")}},
		{name: "request_id alone", body: ce + `"request_id":"a","data":` + bodyOK + `}`, malformed: missing + "; " + beside("request_id", "request_id")},
		{name: "a name that no extension may have", body: ce + `"id":"ce-1","Expires-At":"x","data":` + bodyOK + `}`, id: "ce-1", faults: []string{beside("Expires-At", "expires_at")}},
		{name: "with the faults of data", body: ce + `"id":"ce-1","priority":3,"channel":{},"data":{` + channelOK + `,` + routingOK + `,"priority":10}}`, id: "ce-1", faults: []string{
			"priority: must be a whole number from 0 to 9", beside("channel", "channel"), beside("priority", "priority")}},
		{name: "with data unfit", body: ce + `"id":"ce-1","priority":3,"data":{"metadata":"\u0000"}}`, id: "ce-1", faults: []string{
			`metadata: holds \u0000, which Postgres cannot keep`, beside("priority", "priority")}},
		{name: "null is left out", body: ce + `"id":"ce-1","priority":null,"data":` + bodyOK + `}`, id: "ce-1"},
		{name: "requestid alone", body: ce + `"requestid":"a","data":` + bodyOK + `}`, malformed: missing +
			"; requestid: stands beside the CloudEvent's data, and nobody obeys it; if request_id is meant, put that into the request itself"},
		{name: "headers", headers: headers{"ce-id": {"ce-1"}, "CE-Priority": {"3"}, "ce-expires_at": {"x"}, "ce-channel": {""}, "priority": {"3"}}, body: bodyOK, id: "ce-1", faults: []string{
			header("CE-Priority", "priority"), header("ce-expires_at", "expires_at")}},
		{name: "header request_id alone", headers: headers{"ce-request_id": {"a"}}, body: bodyOK, malformed: missing + "; " + header("ce-request_id", "request_id")},
	}
	for _, f := range fields {
		cases = append(cases, decodeCase{name: "field " + f, body: ce + `"id":"ce-1","` + f + `":"x","data":` + bodyOK + `}`, id: "ce-1", faults: []string{beside(f, f)}})
	}
	runDecode(t, cases)
	for _, m := range []request.Message{
		message(nil, ce+`"id":"ce-1","expiresat":"x","requestid":"a","time":"x","subject":"priority","data":`+bodyOK+`}`),
		message(headers{"ce-id": {"ce-1"}, "ce-expiresat": {"x"}, "ce-requestid": {"a"}}, bodyOK),
	} {
		e, bad := decoded(t, m, "interaction_request")
		if bad != "" || len(e.Faults) > 0 || len(e.Warnings) != 2 || !strings.HasSuffix(e.Warnings[0].Path, "expiresat") || !strings.HasSuffix(e.Warnings[1].Path, "requestid") {
			t.Errorf("%s: %q, faults %v, warnings %v: want a warning for each of two extensions", m.Raw, bad, e.Faults, e.Warnings)
		}
	}
	var many strings.Builder
	for i := range 1 << 9 {
		many.WriteString(`,"`)
		for bit, c := range "requestid" {
			if i>>bit&1 == 1 {
				c -= 'a' - 'A'
			}
			many.WriteRune(c)
		}
		many.WriteString(`":1`)
	}
	e, bad := decoded(t, message(nil, ce+`"id":"ce-1","data":`+bodyOK+many.String()+`}`), "interaction_request")
	if bad != "" || len(e.Faults) != maxWarnings || len(e.Warnings) != 1 {
		t.Errorf("%q, %d faults and %d warnings, want %d and 1", bad, len(e.Faults), len(e.Warnings), maxWarnings)
	}
}

// TestRequestID: who sends learns beforehand what a worker would say, in its words.
func TestRequestID(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		withID(`"a"`): "a",
		`{"specversion":"1.0","id":"ce-1","data":` + bodyOK + `}`: "ce-1",
		`{"request_id":"a","Request_ID":"b"}`:                     "a", // rejected under it: its faults are the worker's answer
		withID(`42`):                                              "request_id: must be a string",
		withID(`["a"]`):                                           "request_id: must be a string",
		`{"Request_ID":"a"}`:                                      "request_id: missing, and there is no Nats-Msg-Id header either; it is not Request_ID",
		`[{}]`:                                                    "a request must be a JSON object, and this is an array: send one request in a message",
	} {
		got, err := RequestID([]byte(text))
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}

// TestDecodeKeepsBytes: the request goes on as it came, byte for byte.
func TestDecodeKeepsBytes(t *testing.T) {
	t.Parallel()
	body := ` { "request_id" : "a", "metadata":{"n":12345678901234567890.10,"é":"\u00e9"}, ` + routingOK + `,` + channelOK + ` } `
	for name, m := range map[string]request.Message{
		"plain":      message(nil, body),
		"structured": message(nil, `{"specversion":"1.0","id":"x","data":`+body+`}`),
		"base64":     message(nil, `{"specversion":"1.0","id":"x","data_base64":"`+base64.StdEncoding.EncodeToString([]byte(body))+`"}`),
	} {
		e, bad := decoded(t, m, "interaction_request")
		if bad != "" || len(e.Faults) > 0 {
			t.Fatalf("%s: %q %v", name, bad, e.Faults)
		}
		if strings.TrimSpace(string(e.Request)) != strings.TrimSpace(body) {
			t.Errorf("%s: request is %s", name, e.Request)
		}
	}
}

// TestDecodeNamesWhatItIs: a message that is no request says what it seems to be, and
// what to do.
func TestDecodeNamesWhatItIs(t *testing.T) {
	t.Parallel()
	const missing = "request_id: missing, and there is no Nats-Msg-Id header either"
	const must = "a request must be a JSON object, and this is "
	utf16 := func(s string) string {
		var b strings.Builder
		for _, c := range s {
			b.WriteString(string(c) + "\x00")
		}
		return b.String()
	}
	structured := headers{"Content-Type": {"application/cloudevents+json"}}
	const ce = `{"id":"a","source":"/s","type":"t","data":` + bodyOK + `}`
	const bare = "; the request stands in data, which only a CloudEvent has: add \"specversion\":\"1.0\" and id, source and type, or send what is in data alone"
	const unversioned = `this seems to be a CloudEvent without specversion: add "specversion":"1.0", or send its data alone`
	runDecode(t, []decodeCase{
		{name: "an array", body: "[" + withID(`"a"`) + "]", malformed: must + "an array: send one request in a message"},
		{name: "encoded twice", body: strconv.Quote(withID(`"a"`)), malformed: must + "a string that holds one: it was encoded twice; send the object itself"},
		{name: "a string", body: `"hello"`, malformed: must + "a string"},
		{name: "a number", body: `42`, malformed: must + "a number"},
		{name: "true", body: `true`, malformed: must + "true"},
		{name: "null", body: `null`, malformed: must + "null"},
		{name: "data alone", body: `{"data":` + withID(`"a"`) + `}`, malformed: missing + bare},
		{name: "a CloudEvent without specversion", body: ce, malformed: missing + "; " + unversioned},
		{name: "a CloudEvent without specversion, with an id", headers: msgID("a"), body: ce, id: "a", faults: []string{unversioned,
			"data: is not a field of a request" + fieldList, "id: is not a field of a request" + fieldList, "source: is not a field of a request" + fieldList,
			"type: is not a field of a request" + fieldList, "channel: missing", "routing: missing; only a request with channel.sid can do without"}},
		{name: "an envelope of its own", body: `{"payload":` + withID(`"a"`) + `}`, malformed: missing + "; the request stands in payload: send that alone"},
		{name: "an envelope with text", body: `{"v":1,"body":` + strconv.Quote(bodyOK) + `}`, malformed: missing + "; the request stands in body: send that alone"},
		{name: "another spelling of the id", body: `{"requestId":"a",` + channelOK + `,` + routingOK + `}`, malformed: missing + "; it is not requestId"},
		{name: "Kafka's headers", headers: headers{"ce_id": {"a"}, "ce_specversion": {"1.0"}}, body: bodyOK, malformed: missing + "; ce_id and the like are the headers of CloudEvents in Kafka: in NATS they are ce-id"},
		{name: "UTF-16, little", headers: msgID("a"), body: utf16(bodyOK), malformed: "is UTF-16: send it as UTF-8"},
		{name: "UTF-16, big, with a mark", headers: msgID("a"), body: "\xfe\xff\x00" + utf16(bodyOK), malformed: "is UTF-16: send it as UTF-8"},
		{name: "UTF-32", headers: msgID("a"), body: "\xff\xfe\x00\x00{\x00\x00\x00", malformed: "is UTF-32: send it as UTF-8"},
		{name: "gzip", headers: msgID("a"), body: "\x1f\x8b\x08\x00\x00", malformed: "is compressed with gzip: send the JSON text as it is"},
		{name: "zstd", headers: msgID("a"), body: "\x28\xb5\x2f\xfd\x00", malformed: "is compressed with zstd: send the JSON text as it is"},
		{name: "zlib", headers: msgID("a"), body: "\x78\x9c\x00", malformed: "is compressed with zlib (deflate): send the JSON text as it is"},
		{name: "a mark before a CloudEvent", headers: structured, body: "\ufeff" + ce, malformed: "CloudEvent: begins with a byte order mark (U+FEFF), which JSON must not have: send it as UTF-8 without one"},
		{name: "gzip within a CloudEvent", body: `{"specversion":"1.0","id":"a","data_base64":"H4sIAAAA"}`, malformed: "is compressed with gzip: send the JSON text as it is"},
		{name: "a CloudEvent that is a string", headers: structured, body: `"x"`, malformed: "CloudEvent: " + must + "a string"},
		{name: "a CloudEvent with an empty id", headers: headers{"Nats-Msg-Id": {"n"}}, body: `{"specversion":"1.0","id":"","data":` + bodyOK + `}`, id: "n"},
		{name: "a CloudEvent with an id that is null", headers: headers{"Nats-Msg-Id": {"n"}}, body: `{"specversion":"1.0","id":null,"data":` + bodyOK + `}`, id: "n"},
	})
}

// TestDecodeUnseen: two ids that look the same are not two.
func TestDecodeUnseen(t *testing.T) {
	t.Parallel()
	for _, r := range "\u00ad\u034f\u061c\u115f\u1160\u17b4\u180b\u180e\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2061\u2062\u2063\u2064\u2066\u2067\u2068\u2069\u206a\u206f\u2800\u3164\ufe00\ufe0f\ufeff\uffa0\ufff9\ufffb\U0001d159\U0001d173\U000e0001\U000e0041\U000e007f\U000e0100" {
		for _, id := range []string{string(r), "a" + string(r) + "b", "a" + string(r)} {
			e, bad := decoded(t, message(msgID(id), bodyOK), "k")
			if want := fmt.Sprintf("the Nats-Msg-Id header: has the character %U, which cannot be seen", r); bad != want {
				t.Errorf("%q: %q, id %q, want %q", id, bad, e.RequestID, want)
			}
		}
	}
	for id, want := range map[string]string{
		"a\u00a0b": "has the character U+00A0, which cannot be told from a space", "a\u3000b": "has the character U+3000, which cannot be told from a space",
		" ": "begins or ends with a space, which cannot be seen", "a ": "begins or ends with a space, which cannot be seen", " a": "begins or ends with a space, which cannot be seen",
		"a\ue000": "has the unprintable character U+E000", "a\u0378": "has the unprintable character U+0378", "a\u2029": "has the unprintable character U+2029",
	} {
		if got := idProblem(id); got != want {
			t.Errorf("%q: %q, want %q", id, got, want)
		}
	}
	for _, id := range []string{"a b", "é", "e\u0301", "日本語", "שלום-مرحبا", "👩", "\u0600١٢", "~!@#$%^&*()", "नमस्ते"} {
		if got := idProblem(id); got != "" {
			t.Errorf("%q: %s", id, got)
		}
	}
}

// TestDecodePercent: one CloudEvent in two forms is one id: the values of ce- headers are
// percent-decoded once.
func TestDecodePercent(t *testing.T) {
	t.Parallel()
	ce := func(id string) headers { return headers{"ce-id": {id}, "ce-specversion": {"1.0"}} }
	const bad = "the header ce-id: is percent-encoded, and has an invalid URL escape "
	runDecode(t, []decodeCase{
		{name: "structured", body: `{"specversion":"1.0","id":"café 1","data":` + bodyOK + `}`, id: "café 1"},
		{name: "binary", headers: ce("caf%C3%A9%201"), body: bodyOK, id: "café 1"},
		{name: "small digits", headers: ce("caf%c3%a9%201"), body: bodyOK, id: "café 1"},
		{name: "what need not be", headers: ce("%61%2Fb"), body: bodyOK, id: "a/b"},
		{name: "not encoded", headers: ce("café 1"), body: bodyOK, id: "café 1"},
		{name: "a plus is a plus", headers: ce("a+b"), body: bodyOK, id: "a+b"},
		{name: "once, not twice", headers: ce("100%2525"), body: bodyOK, id: "100%25"},
		{name: "in double quotes", headers: ce(`"a \"b\" %C3%A9"`), body: bodyOK, id: `a "b" é`},
		{name: "quotes that do not match", headers: ce(`"a`), body: bodyOK, id: `"a`},
		{name: "quotes within", headers: ce(`"a"b"`), body: bodyOK, id: `"a"b"`},
		{name: "an escaped quote at the end", headers: ce(`"a\"`), body: bodyOK, id: `"a\"`},
		{name: "only the id of the message is not", headers: msgID("50%25"), body: bodyOK, id: "50%25"},
		{name: "a percent sign", headers: ce("50%"), body: bodyOK, malformed: bad + `"%": write %25 for a percent sign`},
		{name: "no digits", headers: ce("50%-off"), body: bodyOK, malformed: bad + `"%-o": write %25 for a percent sign`},
		{name: "cut", headers: ce("a%C"), body: bodyOK, malformed: bad + `"%C": write %25 for a percent sign`},
		{name: "not UTF-8", headers: ce("%C0%A0"), body: bodyOK, malformed: "the header ce-id: is not UTF-8 when it is percent-decoded"},
		{name: "half a character", headers: ce("%C3"), body: bodyOK, malformed: "the header ce-id: is not UTF-8 when it is percent-decoded"},
		{name: "a line end", headers: ce("a%0D%0Ab"), body: bodyOK, malformed: "the header ce-id: has the unprintable character U+000D"},
		{name: "NUL", headers: ce("a%00"), body: bodyOK, malformed: "the header ce-id: has the unprintable character U+0000"},
		{name: "a bad one that is not needed", headers: ce("50%"), body: withID(`"a"`), id: "a"},
	})
}

// TestDecodeTrace: the trace context comes from the headers, else from the extension of
// the CloudEvent, in both forms; also of what is malformed.
func TestDecodeTrace(t *testing.T) {
	t.Parallel()
	const trace, other = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "00-11111111111111111111111111111111-2222222222222222-00"
	extended := `{"specversion":"1.0","id":"a","traceparent":"` + trace + `","tracestate":"v=1","data":` + bodyOK + `}`
	for name, tt := range map[string]struct {
		headers            headers
		body               string
		traceparent, state string
	}{
		"headers":               {headers{"Traceparent": {trace}, "tracestate": {"v=1"}}, withID(`"a"`), trace, "v=1"},
		"structured":            {nil, extended, trace, "v=1"},
		"the header goes first": {headers{"traceparent": {other}}, extended, other, ""},
		"binary":                {headers{"ce-id": {"a"}, "ce-traceparent": {trace}, "ce-tracestate": {"v%3D1"}}, bodyOK, trace, "v=1"},
		"malformed":             {headers{"ce-traceparent": {trace}}, `{`, trace, ""},
		"structured, no data":   {nil, `{"specversion":"1.0","id":"a","traceparent":"` + trace + `"}`, trace, ""},
		"not text":              {nil, `{"specversion":"1.0","id":"a","traceparent":7,"tracestate":[],"data":` + bodyOK + `}`, "", ""},
		"none":                  {headers{"tracestate": {"v=1"}}, withID(`"a"`), "", ""},
		"cannot be read":        {headers{"ce-id": {"a"}, "ce-traceparent": {"%"}}, bodyOK, "", ""},
	} {
		m := Names{Subject: "r"}.complete(message(tt.headers, tt.body))
		if e, _ := decoded(t, m, "k"); e.Traceparent != tt.traceparent || e.Tracestate != tt.state {
			t.Errorf("%s: %q %q, want %q %q", name, e.Traceparent, e.Tracestate, tt.traceparent, tt.state)
		}
	}
}
