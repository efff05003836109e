package flextest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
)

// sid is a well-formed sid.
func sid(prefix string) string { return prefix + strings.Repeat("0f", 16) }

// TestStrictContent: each fault of the form is refused, with Twilio's body, and
// nothing is created; each good form is taken.
func TestStrictContent(t *testing.T) {
	t.Parallel()
	const (
		good    = `{"properties":{"workspace_sid":"` + WorkspaceSID + `"}}`
		present = "\x00" // an empty parameter that is there
	)
	properties := func(members string) string {
		return `{"properties":{"workspace_sid":"` + WorkspaceSID + `",` + members + `}}`
	}
	customer := `{"type":"web","initiated_by":"customer","properties":{"media_channel_sid":"` + sid("CH") + `"}}`
	participants := func(kind, list string) string {
		return `{"type":"` + kind + `","initiated_by":"api","participants":` + list + `}`
	}
	agent := `{"type":"sms","initiated_by":"agent","participants":[{"address":"+1","proxy_address":"+2"}]}`
	email := `{"type":"email","initiated_by":"api","properties":{"from":"a@example.test","from_name":"A"},"participants":[{"address":"c@example.test","level":"to"}]}`
	for _, tt := range []struct {
		name             string
		channel, routing string
		more             url.Values
		message          string // "": taken
	}{
		{"api", smsChannel, good, nil, ""},
		{"no channel", "", good, nil, "Missing required parameter Channel in the post body"},
		{"channel not JSON", "notjson{", good, nil, "Channel is not a JSON object"},
		{"channel a list", "[]", good, nil, "Channel is not a JSON object"},
		{"channel not UTF-8", "{\"type\":\"\xff\"}", good, nil, "Parameter Channel is not valid UTF-8"},
		{"no type", `{"initiated_by":"api"}`, good, nil, `Invalid Channel.type: ""`},
		{"voice", `{"type":"voice","initiated_by":"api"}`, good, nil, `Invalid Channel.type: "voice"`},
		{"type a number", `{"type":1,"initiated_by":"api"}`, good, nil, `Invalid Channel.type: ""`},
		{"no initiated_by", `{"type":"sms"}`, good, nil, `Invalid Channel.initiated_by: ""`},
		{"upper case", `{"type":"sms","initiated_by":"Customer"}`, good, nil, `Invalid Channel.initiated_by: "Customer"`},
		{"type given twice, last counts", `{"type":"voice","initiated_by":"api","type":"sms"}`, good, nil, ""},

		{"customer", customer, good, nil, ""},
		{"customer without conversation", `{"type":"web","initiated_by":"customer"}`, good, nil, "Channel.properties.media_channel_sid is required when initiated_by is customer"},
		{"bad conversation", `{"type":"web","initiated_by":"api","properties":{"media_channel_sid":"CH1"}}`, good, nil, `Invalid Channel.properties.media_channel_sid: "CH1"`},
		{"properties no object", `{"type":"web","initiated_by":"api","properties":[]}`, good, nil, "Channel.properties is not an object"},
		{"agent", agent, properties(`"queue_sid":"` + sid("WQ") + `","worker_sid":"` + sid("WK") + `"`), nil, ""},
		{"agent without participants", `{"type":"sms","initiated_by":"agent"}`, good, nil, "Channel.participants is required when initiated_by is agent"},
		{"agent without queue", agent, properties(`"worker_sid":"` + sid("WK") + `"`), nil, "Missing required Routing.properties.queue_sid"},
		{"agent without worker", agent, properties(`"queue_sid":"` + sid("WQ") + `"`), nil, "Missing required Routing.properties.worker_sid"},
		{"participants no list", participants("sms", `{}`), good, nil, "Channel.participants is not a list of participants"},
		{"participants empty", participants("sms", `[]`), good, nil, "Channel.participants is not a list of participants"},
		{"participant no object", participants("sms", `[1]`), good, nil, "Channel.participants[0] is not an object"},
		{"no address", participants("sms", `[{"proxy_address":"+2"}]`), good, nil, "Invalid Channel.participants[0].address"},
		{"no proxy", participants("sms", `[{"address":"+1","proxy_address":"+2"} , {"address":"+1"}]`), good, nil, "Invalid Channel.participants[1].proxy_address"},
		{"whatsapp", participants("whatsapp", `[{"address":"whatsapp:+1","proxy_address":"whatsapp:+2"}]`), good, nil, ""},
		{"whatsapp without prefix", participants("whatsapp", `[{"address":"whatsapp:+1","proxy_address":"+2"}]`), good, nil, "Invalid Channel.participants[0].proxy_address"},
		{"chat", participants("chat", `[{"identity":"cust_1"}]`), good, nil, ""},
		{"chat without identity", participants("chat", `[{"address":"+1"}]`), good, nil, "Invalid Channel.participants[0].identity"},
		{"email", email, good, nil, ""},
		{"email without level", strings.Replace(email, `,"level":"to"`, "", 1), good, nil, "Invalid Channel.participants[0].level"},
		{"email, other level", strings.Replace(email, `"to"`, `"To"`, 1), good, nil, "Invalid Channel.participants[0].level"},
		{"email without from", strings.Replace(email, `"from"`, `"form"`, 1), good, nil, "Channel.properties.from is required for email"},
		{"email without from_name", strings.Replace(email, `"from_name"`, `"name"`, 1), good, nil, "Channel.properties.from_name is required for email"},

		{"existing channel", `{"sid":"` + sid("UO") + `","type":"web","initiated_by":"customer"}`, "", nil, ""},
		{"existing channel, bad sid", `{"sid":"UO1","type":"web","initiated_by":"api"}`, "", nil, `Invalid Channel.sid: "UO1"`},
		{"no routing", smsChannel, "", nil, "Missing required parameter Routing in the post body"},
		{"routing empty", smsChannel, present, nil, "Routing is not a JSON object"},
		{"routing not JSON", smsChannel, "{", nil, "Routing is not a JSON object"},
		{"routing of the published example", smsChannel, "{}", nil, "Routing.properties is not an object"},
		{"no workspace", smsChannel, `{"properties":{}}`, nil, "Missing required Routing.properties.workspace_sid"},
		{"bad workspace", smsChannel, `{"properties":{"workspace_sid":"WSx"}}`, nil, `Invalid Routing.properties.workspace_sid: "WSx"`},
		{"bad workflow", smsChannel, properties(`"workflow_sid":"` + sid("WS") + `"`), nil, `Invalid Routing.properties.workflow_sid: "` + sid("WS") + `"`},
		{"workflow null", smsChannel, properties(`"workflow_sid":null`), nil, `Invalid Routing.properties.workflow_sid: ""`},
		{"bad queue", smsChannel, properties(`"queue_sid":"WQ"`), nil, `Invalid Routing.properties.queue_sid: "WQ"`},
		{"bad task channel sid", smsChannel, properties(`"task_channel_sid":"sms"`), nil, `Invalid Routing.properties.task_channel_sid: "sms"`},
		{"bad task channel", smsChannel, properties(`"task_channel_unique_name":7`), nil, "Invalid Routing.properties.task_channel_unique_name"},
		{"priority", smsChannel, properties(`"priority":7,"timeout":1209600`), nil, ""},
		{"bad priority", smsChannel, properties(`"priority":1.5`), nil, "Invalid Routing.properties.priority: 1.5"},
		{"bad timeout", smsChannel, properties(`"timeout":1209601`), nil, "Invalid Routing.properties.timeout: 1209601"},

		{"attributes as text", smsChannel, properties(`"attributes":"{\"a\":1}"`), nil, ""},
		{"attributes a list", smsChannel, properties(`"attributes":[]`), nil, "Routing.properties.attributes is not an object, nor a text that holds one"},
		{"attributes text, no object", smsChannel, properties(`"attributes":"[]"`), nil, "Routing.properties.attributes is not an object, nor a text that holds one"},
		{"attributes at the limit", smsChannel, properties(`"attributes":{"a":"` + strings.Repeat("é", 4088) + `"}`), nil, ""},
		{"attributes over it", smsChannel, properties(`"attributes":{"a":"` + strings.Repeat("é", 4089) + `"}`), nil, "Routing.properties.attributes has 4097 characters, more than 4096"},

		{"context", smsChannel, good, url.Values{"InteractionContextSid": {sid("HQ")}}, ""},
		{"context of the published example", smsChannel, good, url.Values{"InteractionContextSid": {"interaction_context_sid"}}, `Invalid InteractionContextSid: "interaction_context_sid"`},
		{"context empty", smsChannel, good, url.Values{"InteractionContextSid": {""}}, `Invalid InteractionContextSid: ""`},
		{"context too long", smsChannel, good, url.Values{"InteractionContextSid": {sid("HQ") + "0"}}, `Invalid InteractionContextSid: "` + sid("HQ") + `0"`},
		{"webhook", smsChannel, good, url.Values{"WebhookTtid": {"flex_interactionwebhook_01h000000000000000000000001"}}, ""},
		{"webhook empty", smsChannel, good, url.Values{"WebhookTtid": {""}}, "Invalid WebhookTtid: empty"},
		{"unknown parameter", smsChannel, good, url.Values{"IdempotencyKey": {"1"}}, "Unknown parameter IdempotencyKey"},
		{"twice", smsChannel, good, url.Values{"WebhookTtid": {"a", "b"}}, "Parameter WebhookTtid is given more than once"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, form := New(t), url.Values{}
			if tt.channel != "" {
				form.Set("Channel", tt.channel)
			}
			if tt.routing != "" {
				form.Set("Routing", strings.Trim(tt.routing, present))
			}
			for name, values := range tt.more {
				form[name] = values
			}
			a := create(t, s, form)
			if tt.message == "" {
				sidOf(t, a)
				return
			}
			checkRefused(t, s, a, 400, 20001, tt.message)
		})
	}
}

// checkRefused wants exactly this error body and an empty ledger.
func checkRefused(t *testing.T, s *Server, a answer, status, code int, message string) {
	t.Helper()
	want, _ := json.Marshal(message)
	body := fmt.Sprintf(`{"code":%d,"message":%s,"more_info":"https://www.twilio.com/docs/errors/%d","status":%d}`, code, want, code, status)
	if code == 0 {
		body = fmt.Sprintf(`{"message":%s,"status":%d}`, want, status)
	}
	if a.status != status || a.body != body || a.header.Get("Content-Type") != "application/json" {
		t.Errorf("got %d %s\nwant %d %s", a.status, a.body, status, body)
	}
	if calls := s.Calls(); calls.Created != 0 || calls.InFlight != 0 {
		t.Errorf("calls: %+v", calls)
	}
}

// TestStrictCall: what is refused whatever the form says.
func TestStrictCall(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name         string
		change       func(*http.Request)
		status, code int
		message      string
		violation    string
	}{
		{"no credentials", func(r *http.Request) { r.Header.Del("Authorization") }, 401, 20003, "Authenticate", ""},
		{"wrong secret", func(r *http.Request) { r.SetBasicAuth(AccountSID, "guess") }, 401, 20003, "Authenticate", ""},
		{"wrong pair", func(r *http.Request) { r.SetBasicAuth(AccountSID, APISecret) }, 401, 20003, "Authenticate", ""},
		{"JSON", func(r *http.Request) { r.Header.Set("Content-Type", "application/json") }, 415, 0, "Unsupported Media Type", ""},
		{"no type", func(r *http.Request) { r.Header.Del("Content-Type") }, 415, 0, "Unsupported Media Type", ""},
		{"query", func(r *http.Request) { r.URL.RawQuery = "a=b" }, 400, 20001, "Parameters belong into the body", ""},
		{"idempotency", func(r *http.Request) { r.Header.Set("Idempotency-Key", "1") }, 400, 20001, "The header Idempotency-Key is not supported", "create: the header Idempotency-Key was sent"},
		{"x-idempotency", func(r *http.Request) { r.Header.Set("X-Idempotency-Key", "1") }, 400, 20001, "The header X-Idempotency-Key is not supported", "create: the header X-Idempotency-Key was sent"},
		{"webhook token", func(r *http.Request) { r.Header.Set("I-Twilio-Idempotency-Token", "1") }, 400, 20001, "The header I-Twilio-Idempotency-Token is not supported", "create: the header I-Twilio-Idempotency-Token was sent"},
		{"expect", func(r *http.Request) { r.Header.Set("Expect", "100-continue") }, 400, 20001, "The header Expect is not supported", "create: the header Expect was sent"},
		{"chunked", func(r *http.Request) { r.ContentLength = -1 }, 411, 0, "Length Required", "create: no Content-Length was sent"},
		{"no form", func(r *http.Request) { setBody(r, "Channel=%zz") }, 400, 20001, `The body is no form: invalid URL escape "%zz"`, ""},
		{"too long", func(r *http.Request) { setBody(r, "Channel="+strings.Repeat("x", maxBody)) }, 413, 20413, "Request entity too large", ""},
		{"list", func(r *http.Request) { r.Method = "GET"; setBody(r, "") }, 405, 20004, "Method not allowed", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := New(t)
			req := request(t.Context(), t, s.URL()+"/v1/Interactions", formFor(hexA))
			tt.change(req)
			checkRefused(t, s, do(t, req), tt.status, tt.code, tt.message)
			if got := strings.Join(s.Violations(), "; "); got != tt.violation {
				t.Errorf("violations %q, want %q", got, tt.violation)
			}
			s.ForgetViolations()
		})
	}
}

func setBody(r *http.Request, body string) {
	req, _ := http.NewRequest(r.Method, r.URL.String(), bytes.NewReader([]byte(body)))
	r.Body, r.ContentLength = req.Body, req.ContentLength
}

func TestContentTypeWithCharset(t *testing.T) {
	t.Parallel()
	s := New(t)
	req := request(t.Context(), t, s.URL()+"/v1/Interactions", formFor(hexA))
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
	sidOf(t, do(t, req))
}

func TestCredentials(t *testing.T) {
	t.Parallel()
	s := New(t)
	try := func(user, secret string) answer {
		req := request(t.Context(), t, s.URL()+"/v1/Interactions", formFor(""))
		req.SetBasicAuth(user, secret)
		return do(t, req)
	}
	step := func(name string, account, key int) {
		t.Helper()
		if a, b := try(AccountSID, AuthToken).status, try(APIKey, APISecret).status; a != account || b != key {
			t.Errorf("%s: %d and %d, want %d and %d", name, a, b, account, key)
		}
	}
	step("both", 200, 200)
	s.SetCredentials(Credential{APIKey, APISecret})
	step("token revoked", 401, 200)
	s.Suspend()
	step("suspended", 401, 403)
	if a := try(APIKey, APISecret); !strings.Contains(a.body, `"code":20005`) {
		t.Errorf("suspended: %s", a.body)
	}
	s.SetCredentials(Credential{AccountSID, AuthToken}, Credential{APIKey, APISecret})
	step("put back", 200, 200)
}

func TestWorkspaces(t *testing.T) {
	t.Parallel()
	s := NewWith(t, Config{Workspaces: []string{sid("WS")}})
	checkRefused(t, s, create(t, s, formFor(hexA)), 404, 20404, "The workspace "+WorkspaceSID+" was not found")
	if a := get(t, s, "/v1/Workspaces/"+WorkspaceSID+"/Tasks"); a.status != 404 {
		t.Errorf("its tasks: %d", a.status)
	}
	form := formFor(hexA)
	form.Set("Routing", strings.Replace(form.Get("Routing"), WorkspaceSID, sid("WS"), 1))
	sidOf(t, create(t, s, form))
}

// TestConcurrency: with one call in flight the next is refused, and the one
// after that goes well.
func TestConcurrency(t *testing.T) {
	t.Parallel()
	s := NewWith(t, Config{Settings: Settings{Concurrency: 1, RetryAfter: "7"}})
	s.Next(Hang)
	first := make(chan string, 1)
	req := request(t.Context(), t, s.URL()+"/v1/Interactions", formFor(hexA))
	go func() { first <- look(newClient(t).Do(req)) }()
	until(t, s, func(c Calls) bool { return c.Hanging == 1 })
	a := create(t, s, formFor(hexB))
	checkRefusedOnly(t, a, 429, 20429)
	if a.header.Get("Retry-After") != "7" || a.header.Get("Twilio-Concurrent-Requests") != "2" {
		t.Errorf("headers: %v", a.header)
	}
	s.Release()
	if got := <-first; got != "200 sid" {
		t.Errorf("the first saw %q", got)
	}
	sidOf(t, create(t, s, formFor(hexB)))
	if calls := s.Calls(); calls.MaxInFlight != 2 || calls.Answered[429] != 1 || calls.Created != 2 {
		t.Errorf("calls: %+v", calls)
	}
}

func checkRefusedOnly(t *testing.T, a answer, status, code int) {
	t.Helper()
	if got := read[struct{ Status, Code int }](t, a.body); a.status != status || got.Status != status || got.Code != code {
		t.Errorf("got %d %s, want %d, code %d", a.status, a.body, status, code)
	}
}

// TestAnswer: the answer has the shape of twilio.md §5, and what we sent comes
// back as we sent it.
func TestAnswer(t *testing.T) {
	t.Parallel()
	for _, status := range []int{200, 201} {
		s := NewWith(t, Config{Settings: Settings{Status: status}})
		form := formFor(hexA)
		own := `{"z":1.50,"interaction_request":"` + hexA + `","a":123456789012345678901234567890,"nested":{"x":[1, 2]},"text":"a\"b\\c\u00e9\né","direction":"ours"}`
		form.Set("Routing", routingFor(strings.ReplaceAll(own, "\n", `\n`)))
		form.Set("InteractionContextSid", sid("HQ"))
		a := create(t, s, form)
		interaction := sidOf(t, a)
		if a.status != status || !strings.HasPrefix(a.header.Get("Twilio-Request-Id"), "RQ") {
			t.Errorf("%d, headers %v", a.status, a.header)
		}
		got := read[struct {
			Channel struct{ SID, Type string }
			Routing struct{ Properties map[string]any }
			URL     string
			Context string `json:"interaction_context_sid"`
		}](t, a.body)
		attributes, _ := got.Routing.Properties["attributes"].(string)
		prefix := strings.ReplaceAll(own, "\n", `\n`)
		prefix = strings.TrimSuffix(prefix, `,"direction":"ours"}`) + `,"customers":`
		if !strings.HasPrefix(attributes, prefix) {
			t.Errorf("ours came back as\n%s\nwant\n%s", attributes, prefix)
		}
		theirs := read[map[string]any](t, attributes)
		if theirs["flexInteractionSid"] != interaction || theirs["direction"] != "inbound" || theirs["flexInteractionChannelSid"] != got.Channel.SID {
			t.Errorf("Twilio's attributes: %s", attributes)
		}
		if got.Channel.Type != "sms" || got.Context != sid("HQ") || got.Routing.Properties["assignment_status"] != "pending" {
			t.Errorf("answer: %s", a.body)
		}
		e := s.Ledger()[0]
		if e.InteractionSID != interaction || e.TaskSID != got.Routing.Properties["sid"] || e.Key != hexA || e.RequestID != a.header.Get("Twilio-Request-Id") {
			t.Errorf("entry: %+v", e)
		}
		if e.Call.Channel != smsChannel || e.Call.Routing != form.Get("Routing") || e.Call.Proto != "HTTP/1.1" || e.Call.Header.Get("Authorization") != "" {
			t.Errorf("call: %+v", e.Call)
		}
		if again := get(t, s, "/v1/Interactions/"+interaction); again.status != 200 || again.body != a.body {
			t.Errorf("fetched: %d %s", again.status, again.body)
		}
	}
}

func TestFetch(t *testing.T) {
	t.Parallel()
	s := New(t)
	channelOnly := url.Values{"Channel": {`{"sid":"` + sid("UO") + `","type":"web","initiated_by":"api"}`}}
	interaction := sidOf(t, create(t, s, channelOnly))
	a := get(t, s, "/v1/Interactions/"+interaction)
	if !strings.Contains(a.body, `"channel":{"sid":"`+sid("UO")+`","type":"web"},"routing":null`) {
		t.Errorf("no routing: %s", a.body)
	}
	for _, missing := range []string{sid("KD"), "KD1", strings.ToUpper(interaction), sid("KD") + "/Channels"} {
		a := get(t, s, "/v1/Interactions/"+missing)
		checkRefusedOnly(t, a, 404, 20404)
	}
	s.Set(Settings{FetchTrouble: Status(503)})
	if a := get(t, s, "/v1/Interactions/"+interaction); a.status != 503 {
		t.Errorf("in trouble: %d", a.status)
	}
	if calls := s.Calls(); calls.Fetched != 5 || calls.Created != 1 {
		t.Errorf("calls: %+v", calls)
	}
}

// TestKeep: what calls carried is dropped, that they were created is not.
func TestKeep(t *testing.T) {
	t.Parallel()
	s := NewWith(t, Config{Keep: 2})
	for range 7 {
		create(t, s, formFor(hexA))
	}
	var kept []bool
	for _, e := range s.Ledger() {
		kept = append(kept, e.Call != nil)
	}
	if want := []bool{false, false, false, false, false, true, true}; !slices.Equal(kept, want) {
		t.Errorf("kept %v, want %v", kept, want)
	}
	if n := len(s.Since(5, 10)); n != 2 {
		t.Errorf("%d entries after the fifth, want 2", n)
	}
	s.SetTaskRouter(TaskRouter{Life: 1, After: -1})
	create(t, s, formFor(hexB))
	if a := get(t, s, "/v1/Interactions/"+s.Ledger()[0].InteractionSID); a.status != 200 || !strings.Contains(a.body, `"assignment_status":"completed"}}`) {
		t.Errorf("long ago: %d %s", a.status, a.body)
	}
}
