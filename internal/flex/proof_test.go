package flex

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"flexworker/internal/testing/flextest"
)

// twilioHeader is what every answer of Twilio's API carries.
var twilioHeader = http.Header{"Twilio-Request-Id": {"RQ0123456789abcdef0123456789abcdef"}}

// TestWhatShowsTwilio: what proves a refusal, and what does not, however near it comes.
func TestWhatShowsTwilio(t *testing.T) {
	t.Parallel()
	page := "https://www.twilio.com/docs/errors/"
	for _, tt := range []struct {
		name   string
		status int
		header http.Header
		body   string
		code   int
		shown  bool
	}{
		{"documented", 404, nil, `{"status":404,"message":"m","code":20404,"more_info":"` + page + `20404"}`, 20404, true},
		{"in another order", 404, nil, `{ "code":20404, "more_info":"` + page + `20404", "status":404, "message":"" }`, 20404, true},
		{"an older address", 400, nil, `{"status":400,"message":"m","code":21211,"more_info":"http://www.twilio.com/docs/api/errors/21211"}`, 21211, true},
		{"with details", 400, nil, `{"status":400,"message":"m","code":20001,"details":{"a":1},"more_info":"` + page + `20001"}`, 20001, true},
		{"a new field beside the page", 400, nil, `{"status":400,"message":"m","code":54321,"user_error":true,"more_info":"` + page + `54321"}`, 54321, true},
		{"no page, a code of Flex's", 403, nil, `{"status":403,"message":"m","code":45003}`, 45003, true},
		{"no page, a code of the API's", 429, nil, `{"status":429,"message":"m","code":20429}`, 20429, true},
		{"no page, null", 429, nil, `{"status":429,"message":"m","code":20429,"more_info":null}`, 20429, true},

		{"no page, a code that is documented nowhere", 400, nil, `{"status":400,"message":"gateway: upstream schema mismatch","code":20010}`, 0, false},
		{"no page, another code, a header", 400, twilioHeader, `{"status":400,"message":"m","code":50416}`, 0, false},
		{"no page, no code, a header", 415, twilioHeader, `{"status":415,"message":"m"}`, 0, false},
		{"no page, no code, another header", 415, http.Header{"Twilio-Concurrent-Requests": {"3"}}, `{"status":415,"message":"m","code":null}`, 0, false},
		{"a gateway's 429 that kept the header", 429, twilioHeader, `{"status":429,"message":"API rate limit exceeded"}`, 0, false},
		{"the status twice", 400, nil, `{"status":500,"status":400,"code":20001,"message":"x"}`, 0, false},

		{"a header alone", 429, twilioHeader, ``, 0, false},
		{"a header and a page in HTML", 403, twilioHeader, `<html>Forbidden</html>`, 0, false},
		{"a header and the answer to a create", 403, twilioHeader, created, 0, false},
		{"a header and a gateway's JSON", 403, twilioHeader, `{"message":"Forbidden"}`, 0, false},
		{"a header and Spring", 404, twilioHeader, `{"status":404,"message":"m","error":"Not Found","path":"/v1/Interactions"}`, 0, false},
		{"an empty header", 415, http.Header{"Twilio-Request-Id": {""}}, `{"status":415,"message":"m"}`, 0, false},
		{"no page, no code, no header", 404, nil, `{"status":404,"message":"Not Found"}`, 0, false},
		{"nothing", 404, nil, ``, 0, false},
		{"an empty object", 404, nil, `{}`, 0, false},
		{"a list", 404, nil, `[{"status":404,"message":"m","code":20404}]`, 0, false},
		{"a text", 404, nil, `"{\"status\":404,\"message\":\"m\",\"code\":20404}"`, 0, false},
		{"further in", 404, nil, `{"error":{"status":404,"message":"m","code":20404,"more_info":"` + page + `20404"}}`, 0, false},
		{"HTML", 404, nil, `<html><body>404 Not Found</body></html>`, 0, false},
		{"HTML with Twilio's error in it", 404, nil, `<pre>{"status":404,"message":"m","code":20404,"more_info":"` + page + `20404"}</pre>`, 0, false},
		{"text", 404, nil, "404 page not found\n", 0, false},
		{"AWS", 403, nil, `{"message":"Forbidden"}`, 0, false},
		{"AWS, no such route", 403, nil, `{"message":"Missing Authentication Token"}`, 0, false},
		{"Azure", 401, nil, `{"statusCode":401,"message":"Access denied due to missing subscription key."}`, 0, false},
		{"Kong", 404, nil, `{"message":"no Route matched with those values","request_id":"0"}`, 0, false},
		{"Spring", 404, nil, `{"timestamp":"2026-11-22T00:00:00Z","status":404,"error":"Not Found","path":"/v1/Interactions"}`, 0, false},
		{"Spring with a message", 404, nil, `{"timestamp":1795305600,"status":404,"error":"Not Found","message":"No message available","path":"/"}`, 0, false},
		{"Spring with a code", 404, nil, `{"status":404,"error":"Not Found","message":"m","code":20404}`, 0, false},
		{"express", 404, nil, `{"error":"not found"}`, 0, false},
		{"nest", 404, nil, `{"statusCode":404,"message":"Cannot POST /v1/Interactions","error":"Not Found"}`, 0, false},
		{"nginx", 404, nil, `{"code":404,"message":"not found"}`, 0, false},
		{"the status as a code", 404, nil, `{"status":404,"code":404,"message":"not found"}`, 0, false},
		{"the status as a code, a header", 404, twilioHeader, `{"status":404,"code":404,"message":"not found"}`, 0, false},
		{"a hundred times the status", 404, nil, `{"status":404,"code":40400,"message":"not found"}`, 0, false},
		{"problem", 404, nil, `{"type":"about:blank","title":"Not Found","status":404,"detail":"m"}`, 0, false},
		{"Google", 403, nil, `{"error":{"code":403,"message":"m","status":"PERMISSION_DENIED"}}`, 0, false},
		{"Kubernetes", 403, nil, `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"m","reason":"Forbidden","code":403}`, 0, false},
		{"Envoy", 403, nil, `RBAC: access denied`, 0, false},
		{"Cloudflare", 403, http.Header{"Cf-Ray": {"0"}, "Server": {"cloudflare"}}, `error code: 1020`, 0, false},
		{"the status of another answer", 403, nil, `{"status":404,"message":"m","code":20404,"more_info":"` + page + `20404"}`, 0, false},
		{"the status as a text", 404, nil, `{"status":"404","message":"m","code":20404,"more_info":"` + page + `20404"}`, 0, false},
		{"no status", 404, nil, `{"message":"m","code":20404,"more_info":"` + page + `20404"}`, 0, false},
		{"no message", 404, nil, `{"status":404,"code":20404,"more_info":"` + page + `20404"}`, 0, false},
		{"a message of another type", 404, nil, `{"status":404,"message":["m"],"code":20404}`, 0, false},
		{"the code as a text", 404, nil, `{"status":404,"message":"m","code":"20404"}`, 0, false},
		{"the code as a fraction", 404, nil, `{"status":404,"message":"m","code":20404.0}`, 0, false},
		{"a short code", 404, twilioHeader, `{"status":404,"message":"m","code":2040}`, 0, false},
		{"a negative code", 404, twilioHeader, `{"status":404,"message":"m","code":-20404}`, 0, false},
		{"another's page", 404, twilioHeader, `{"status":404,"message":"m","code":20404,"more_info":"https://example.com/docs/errors/20404"}`, 0, false},
		{"a page whose host only looks like it", 404, nil, `{"status":404,"message":"m","code":20404,"more_info":"https://www.twilio.com.example.com/docs/errors/20404"}`, 0, false},
		{"the page of another code", 404, nil, `{"status":404,"message":"m","code":20404,"more_info":"` + page + `20403"}`, 0, false},
		{"a page without a code", 404, nil, `{"status":404,"message":"m","more_info":"` + page + `20404"}`, 0, false},
		{"a cut body", 404, nil, `{"status":404,"message":"m","code":20404,"more_info":"` + page + `20404"`, 0, false},
		{"more than an object", 404, nil, `{"status":404,"message":"m","code":20404}{}`, 0, false},
	} {
		a := answer{status: tt.status, header: tt.header, body: []byte(tt.body), whole: true}
		code, shown := a.fromTwilio()
		if shown != tt.shown || tt.shown && code != tt.code {
			t.Errorf("%s: %v, code %d", tt.name, shown, code)
		}
		o := a.outcome(time.Now())
		if o.FromTwilio != tt.shown || (o.Kind == Uncertain) == tt.shown || o.Limited && !tt.shown || o.TwilioCode != tt.code {
			t.Errorf("%s: %+v", tt.name, o)
		}
		a.whole = false // what was lost could say anything
		if o := a.outcome(time.Now()); o.FromTwilio || o.Kind != Uncertain {
			t.Errorf("%s, cut: %+v", tt.name, o)
		}
	}
}

// TestFromTwilio: which answers besides refusals are Twilio's. A call without one says
// nothing of Flex.
func TestFromTwilio(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		answer
		want bool
	}{
		{"nothing", answer{}, false},
		{"nothing was sent", answer{unreached: true}, false},
		{"created", answer{status: 200, body: []byte(created), whole: true}, true},
		{"accepted, the body cut", answer{status: 200, header: twilioHeader, body: []byte(created[:10])}, true},
		{"a page of somebody", answer{status: 200, body: []byte("<html>"), whole: true}, false},
		{"a portal's page", answer{status: 200, body: []byte(`{"sid":"x","status":"ok"}`), whole: true}, false},
		{"a redirect", answer{status: 302, header: http.Header{"Location": {"/"}}, whole: true}, false},
		{"Twilio's 500", answer{status: 500, body: []byte(`{"status":500,"message":"m","code":20500}`), whole: true}, true},
		{"a gateway's 502", answer{status: 502, body: []byte("<html>"), whole: true}, false},
	} {
		if o := tt.outcome(time.Now()); o.FromTwilio != tt.want {
			t.Errorf("%s: %+v", tt.name, o)
		}
	}
}

// FuzzForeignAnswer: what has no trait of Twilio is never a refusal, whatever it says.
// A 2xx counts as an answer.
func FuzzForeignAnswer(f *testing.F) {
	f.Add(403, "Server", "AmazonS3", `{"message":"Forbidden"}`, true)
	f.Add(404, "X-Powered-By", "Express", `{"status":404,"message":"Not Found"}`, true)
	f.Add(429, "Retry-After", "3600", `{"status":429,"code":429,"message":"slow down"}`, true)
	f.Add(404, "Content-Type", "text/html", `<html>not found</html>`, false)
	f.Add(422, "Content-Type", "application/json", `{"status":422,"message":"m","code":42200,"more_info":"https://docs.example.com/errors/42200"}`, true)
	f.Fuzz(func(t *testing.T, status int, name, value, body string, whole bool) {
		name = http.CanonicalHeaderKey(name)
		if status < 200 || status > 999 || strings.HasPrefix(name, "Twilio-") || strings.Contains(body, "twilio") {
			return
		}
		for family := range 10 { // every code that alone is a trait: 20xxx and 45xxx
			if strings.Contains(body, fmt.Sprint("20", family)) || strings.Contains(body, fmt.Sprint("45", family)) {
				return
			}
		}
		if strings.Contains(body, "KD") {
			return // the sid of an interaction
		}
		o := answer{status: status, header: http.Header{name: {value}}, body: []byte(body), whole: whole}.outcome(time.Now())
		if o.Kind != Uncertain || o.Limited || o.FromTwilio || o.TwilioCode != 0 || o.Answered != (status/100 == 2) {
			t.Errorf("%d %s: %s %q: %+v", status, name, value, body, o)
		}
	})
}

// TestAnswerOfAnother: a 2xx whose task carries the key of another request, as a cache on the
// way gives it, says nothing of this one. Mine is what carries the key of this one.
func TestAnswerOfAnother(t *testing.T) {
	t.Parallel()
	mine, other := LookupKey("mine"), LookupKey("other")
	for key, want := range map[string]Kind{mine: Created, other: Uncertain, "": Created} {
		body := fmt.Sprintf(`{"sid":"KD4b1f0c22d98e47a6b3c5d7e9f1a20b34","routing":{"properties":{"attributes":"{\"interaction_request\":%s}"}}}`,
			strings.ReplaceAll(fmt.Sprintf("%q", key), `"`, `\"`))
		s := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(body)) })
		c := newClient(t, s.URL, func(c *Config) { c.LookupAttribute = "interaction_request" })
		in := wish
		in.LookupKey = mine
		if o := c.Create(t.Context(), in); o.Kind != want || o.Mine != (key == mine) || o.Kind == Uncertain && (!o.Answered || o.InteractionSID != "") {
			t.Errorf("the key %q: %+v", key, o)
		}
	}
}

// TestAnswerOfACache: a cache on the way answers with what Twilio has said to another call, however
// it says so. A refusal is none then, a creation only where the answer carries the key of this very
// request, and a list proves nothing. That somebody is on the way is no sign of a cache.
func TestAnswerOfACache(t *testing.T) {
	t.Parallel()
	mine := LookupKey("mine")
	refusal := func(status, code int) string {
		return fmt.Sprintf(`{"status":%d,"message":"m","code":%d,"more_info":"https://www.twilio.com/docs/errors/%d"}`, status, code, code)
	}
	for _, tt := range []struct {
		name, value string
		cached      bool
	}{
		{"Age", "0", true}, {"Age", "17", true}, {"Age", "soon", true},
		{"X-Cache", "HIT", true}, {"X-Cache", "Hit from cloudfront", true}, {"X-Cache", "MISS, HIT", true}, {"X-Cache", "TCP_MEM_HIT from proxy", true},
		{"Cf-Cache-Status", "HIT", true}, {"X-Cache-Status", "hit", true}, {"Cache-Status", "proxy; hit; ttl=3", true}, {"Warning", `110 - "Response is Stale"`, true},
		{"X-Cache", "MISS from white.example", false}, {"X-Cache", "Error from cloudfront", false}, {"Cache-Status", "proxy; fwd=method", false},
		{"Via", "1.1 gateway", false}, {"Cf-Cache-Status", "DYNAMIC", false}, {"Date", "Sun, 29 Nov 2026 00:00:00 GMT", false},
	} {
		status, body := 0, ""
		s := serve(t, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Cache-Control") != "no-cache" {
				t.Error("a call does not say that a cache must not answer it")
			}
			w.Header().Set(tt.name, tt.value)
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		})
		c := newClient(t, s.URL)
		in := wish
		in.LookupKey = mine
		check := func(what string, want Kind) {
			t.Helper()
			if tt.cached {
				want = Uncertain
			}
			if o := c.Create(t.Context(), in); o.Kind != want || (o.Kind == Uncertain) != tt.cached || o.Limited && tt.cached || o.Kind == Uncertain && o.InteractionSID != "" {
				t.Errorf("%s: %s, %s: %+v", tt.name, tt.value, what, o)
			}
		}
		for _, r := range []struct {
			status, code int
			want         Kind
		}{{429, 20429, Refused}, {403, 20403, Blocked}, {401, 20003, Blocked}, {404, 20404, Rejected}, {400, 20001, Rejected}} {
			status, body = r.status, refusal(r.status, r.code)
			check(fmt.Sprint(r.status), r.want)
		}
		status, body = 200, `{"sid":"`+kd+`"}`
		check("created without a key", Created)
		status, body = 200, `{"tasks":[],"meta":{"key":"tasks"}}`
		_, err := c.SearchTasks(t.Context(), "WS00000000000000000000000000000002", "interaction_request", []string{mine})
		if (err != nil) != tt.cached {
			t.Errorf("%s: %s, a search: %v", tt.name, tt.value, err)
		}
		body = fmt.Sprintf(`{"sid":"KD4b1f0c22d98e47a6b3c5d7e9f1a20b34","routing":{"properties":{"attributes":"{\"interaction_request\":\"%s\"}"}}}`, mine)
		if o := c.Create(t.Context(), in); o.Kind != Created {
			t.Errorf("%s: %s, with its key: %+v", tt.name, tt.value, o)
		}
	}
}

// TestUnknownPath: Twilio says that it does not know the path of our call, or not the method there.
// FLEX_URL is at fault, and every request would fare the same. What Twilio does not find in a
// request's body is the request's fault.
func TestUnknownPath(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		status, code int
		message      string
		want         bool
	}{
		{404, 20404, "The requested resource /v1/v1/Interactions was not found", true},
		{404, 20404, "The requested resource /v1/Interactions was not found", true},
		{404, 20404, "The requested resource /Interactions was not found", true}, // many of Twilio's hosts leave the version out
		{404, 20404, `The requested resource "/flex/v1/Interactions/" was not found.`, true},
		{404, 20404, "The requested resource https://flex-api.twilio.com/v2/Interactions was not found", true},
		{405, 20004, "Method not allowed", true},
		{404, 20404, "The workspace WS00000000000000000000000000000002 was not found", false},
		{404, 20404, "The requested resource /v1/Workspaces/WS00000000000000000000000000000002/Workflows was not found", false},
		{404, 20404, "The requested resource /v1/Interactions/KD00000000000000000000000000000000 was not found", false},
		{404, 20404, "The requested resource /Services/CH00000000000000000000000000000002 was not found", false},
		{404, 20404, "The resource was not found", false},
		{404, 20404, "Interactions", false},
		{404, 45006, "The requested resource /v1/Interactions was not found", false},
		{400, 20001, "The requested resource /v1/Interactions was not found", false},
		{400, 20404, "The requested resource /v1/Interactions was not found", false},
		{405, 45008, "Method not allowed", false},
		{400, 20004, "Method not allowed", false},
	} {
		body := fmt.Sprintf(`{"code":%d,"message":%q,"more_info":"https://www.twilio.com/docs/errors/%d","status":%d}`, tt.code, tt.message, tt.code, tt.status)
		o := answer{status: tt.status, body: []byte(body), whole: true}.outcome(time.Now())
		if want := map[bool]Kind{true: Blocked, false: Rejected}[tt.want]; o.UnknownPath != tt.want || o.Kind != want {
			t.Errorf("%d, %d, %s: %+v", tt.status, tt.code, tt.message, o)
		}
		if tt.want && o.Message != "FLEX_URL leads to a path that Twilio does not know: "+tt.message {
			t.Errorf("%s: %s", tt.message, o.Message)
		}
		body = strings.Replace(body, "www.twilio.com", "www.example.com", 1)
		if o := (answer{status: tt.status, body: []byte(body), whole: true}).outcome(time.Now()); o.UnknownPath || o.Kind != Uncertain {
			t.Errorf("another's %d: %+v", tt.status, o)
		}
	}
}

// TestUnknownPathOfACall: a client whose address has a path too much, and the imitation of Twilio.
func TestUnknownPathOfACall(t *testing.T) {
	t.Parallel()
	s := flextest.New(t)
	c := newClient(t, s.URL()+"/v1", func(c *Config) {
		c.Credentials = func() (string, string) { return flextest.AccountSID, flextest.AuthToken }
	})
	if o := c.Create(t.Context(), wish); o.Kind != Blocked || !o.UnknownPath || o.HTTPStatus != 404 || o.TwilioCode != 20404 {
		t.Errorf("%+v", o)
	}
	// The read asks for an interaction that cannot exist: Twilio's 404 is its good answer, at a wrong path, too.
	if o := c.Check(t.Context()); o.Kind != Rejected || o.UnknownPath {
		t.Errorf("%+v", o)
	}
}

// TestPathIsNotShown: a gateway may want its key in the path of FLEX_URL, and who does not know
// the path repeats it.
func TestPathIsNotShown(t *testing.T) {
	t.Parallel()
	for _, form := range []string{`{"code":20404,"message":"The requested resource %s was not found","more_info":"https://www.twilio.com/docs/errors/20404","status":404}`, "Cannot POST %s"} {
		s := serve(t, func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(404)
			fmt.Fprintf(w, form, r.URL.EscapedPath())
		})
		o := newClient(t, s.URL+"/key-8f3e 0b7c").Create(t.Context(), wish)
		if strings.Contains(o.Message, "8f3e") || !strings.Contains(o.Message, "/[hidden]/v1/Interactions") {
			t.Errorf("%s", o.Message)
		}
	}
}
