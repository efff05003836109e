package flex

import (
	"bufio"
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

const (
	testUser     = "SK00000000000000000000000000000009"
	testPassword = "a very+secret/password"
	kd           = "KD4b1f0c22d98e47a6b3c5d7e9f1a20b34"
	wt           = "WT9c8b7a6f5e4d4c3b2a19080706050403"
	ws           = "WS00000000000000000000000000000002"
	ww           = "WW00000000000000000000000000000003"
	key          = "5f2c9a7e41d84b0c9e6d3a1b7c8f0e22"
)

// created is the answer of twilio.md, section 5, shortened.
const created = `{"sid":"` + kd + `","channel":{"sid":"UO77aa01c3e5f7482d9b0a1c2d3e4f5061","type":"whatsapp"},` +
	`"routing":{"reservation":null,"properties":{"sid":"` + wt + `","workspace_sid":"` + ws + `","workflow_sid":"` + ww + `",` +
	`"workflow_name":"Inbound care","assignment_status":"pending","priority":10,"date_created":1795305600,` +
	`"attributes":"{\"interaction_request\":\"` + key + `\",\"flexInteractionSid\":\"` + kd + `\",\"conversationSid\":\"CH00000000000000000000000000000007\"}"}}}`

var wish = Interaction{
	Channel:   json.RawMessage(`{"type":"sms","initiated_by":"api"}`),
	Routing:   json.RawMessage(`{"properties":{"workspace_sid":"` + ws + `","attributes":{"n":12345678901234567890}}}`),
	LookupKey: key,
}

// newClient returns a client for one server, which is Flex and TaskRouter alike.
func newClient(t testing.TB, address string, change ...func(*Config)) *Client {
	t.Helper()
	cfg := Config{
		URL: address, TaskRouterURL: address, Timeout: 20 * time.Second, Concurrency: 4, LookupAttribute: "interaction_request",
		Credentials: func() (string, string) { return testUser, testPassword },
	}
	for _, f := range change {
		f(&cfg)
	}
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.CloseIdle)
	return c
}

func within(d time.Duration) func(*Config) { return func(c *Config) { c.Timeout = d } }

// serve starts a server whose handler has the body read already, so that it sees
// the client go.
func serve(t testing.TB, h http.HandlerFunc) *httptest.Server {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		h(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

// listen starts a server of bare connections and returns its address; talk gets
// the number of the connection, from 1.
func listen(t *testing.T, talk func(n int, c net.Conn)) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n := 1; ; n++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				talk(n, c)
			}()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return "http://" + l.Addr().String()
}

// readRequest takes one whole request from a bare connection.
func readRequest(r *bufio.Reader) bool {
	req, err := http.ReadRequest(r)
	if err != nil {
		return false
	}
	_, err = io.Copy(io.Discard, req.Body)
	return err == nil
}

func answerText(status, body string) string {
	return fmt.Sprintf("HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s", status, len(body), body)
}

func TestCreateSends(t *testing.T) {
	t.Parallel()
	var got *http.Request
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if err := r.ParseForm(); err != nil {
			t.Error(err)
		}
		got = r
		w.Header().Set("Twilio-Request-Id", "RQ1")
		io.WriteString(w, created)
	})
	in := wish
	in.ContextSID, in.WebhookTTID = "HQ00000000000000000000000000000001", "flex_interactionwebhook_x"
	c := newClient(t, s.URL+"/", func(c *Config) { c.UserAgent = "flexworker/test" })
	o := c.Create(t.Context(), in)

	if o.Kind != Created || o.InteractionSID != kd || o.TaskSID != wt || o.AssignmentStatus != "pending" || !o.Answered ||
		o.HTTPStatus != 200 || o.ErrorKind != "" || o.Message != "" || o.RequestID != "RQ1" || string(o.Response) != created || o.Took <= 0 {
		t.Errorf("outcome %+v", o)
	}
	if got.Method != "POST" || got.URL.String() != "/v1/Interactions" || got.ProtoMajor != 1 || got.ContentLength <= 0 {
		t.Errorf("%s %s %s, length %d", got.Method, got.URL, got.Proto, got.ContentLength)
	}
	user, password, _ := got.BasicAuth()
	if user != testUser || password != testPassword {
		t.Errorf("credentials %q %q", user, password)
	}
	want := url.Values{
		"Channel":               {string(wish.Channel)},
		"Routing":               {`{"properties":{"workspace_sid":"` + ws + `","attributes":{"interaction_request":"` + key + `","n":12345678901234567890}}}`},
		"InteractionContextSid": {in.ContextSID}, "WebhookTtid": {in.WebhookTTID},
	}
	if fmt.Sprint(got.PostForm) != fmt.Sprint(want) {
		t.Errorf("form\n got %v\nwant %v", got.PostForm, want)
	}
	// All headers there are: an Idempotency-Key would let the transport repeat.
	for name := range got.Header {
		switch name {
		case "Accept", "Authorization", "Cache-Control", "Content-Length", "Content-Type", "User-Agent":
		default:
			t.Errorf("header %s is sent", name)
		}
	}
	if ct := got.Header.Get("Content-Type"); ct != "application/x-www-form-urlencoded" {
		t.Errorf("Content-Type %q", ct)
	}
}

// FuzzForm: a form is what net/url makes of the same values.
func FuzzForm(f *testing.F) {
	f.Add(`{"a":"b c+é&=%"}`, "", "HQ1", "x\xff\x00~-_.")
	c := newClient(f, "http://127.0.0.1:1", func(c *Config) { c.LookupAttribute = "" })
	f.Fuzz(func(t *testing.T, channel, routing, contextSID, ttid string) {
		if channel == "" {
			return
		}
		want := url.Values{"Channel": {channel}}
		for name, value := range map[string]string{"Routing": routing, "InteractionContextSid": contextSID, "WebhookTtid": ttid} {
			if value != "" && (name != "Routing" || value != "null") {
				want.Set(name, value)
			}
		}
		got, err := c.form(Interaction{Channel: []byte(channel), Routing: []byte(routing), ContextSID: contextSID, WebhookTTID: ttid})
		if err != nil || got != want.Encode() {
			t.Errorf("\n got %s, %v\nwant %s", got, err, want.Encode())
		}
	})
}

func TestCreateSendsNoMore(t *testing.T) {
	t.Parallel()
	var form url.Values
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm() // what could not be read is missing below
		form = r.PostForm
		io.WriteString(w, created)
	})
	c := newClient(t, s.URL)
	for _, tt := range []struct{ routing, want string }{
		{``, `map[Channel:[{}]]`},
		{`null`, `map[Channel:[{}]]`},
		{`{"properties":{"x":1}}`, `map[Channel:[{}] Routing:[{"properties":{"x":1}}]]`}, // no workspace: no task to look for
	} {
		c.Create(t.Context(), Interaction{Channel: json.RawMessage(`{}`), Routing: json.RawMessage(tt.routing), LookupKey: key})
		if got := fmt.Sprint(form); got != tt.want {
			t.Errorf("%q: %s", tt.routing, got)
		}
	}
	silent := newClient(t, s.URL, func(c *Config) { c.LookupAttribute = "" })
	silent.Create(t.Context(), wish)
	if form.Get("Routing") != string(wish.Routing) {
		t.Errorf("without an attribute: %v", form)
	}
}

func TestCreateRefusesToSend(t *testing.T) {
	t.Parallel()
	var calls atomic.Int32
	s := serve(t, func(http.ResponseWriter, *http.Request) { calls.Add(1) })
	there := wish
	there.Routing = json.RawMessage(`{"properties":{"workspace_sid":"x","attributes":{"interaction_request":1}}}`)
	for name, in := range map[string]Interaction{"no channel": {}, "key is there": there} {
		if o := newClient(t, s.URL).Create(t.Context(), in); o.Kind != Rejected || !o.Unreached || o.ErrorKind != "request" {
			t.Errorf("%s: %+v", name, o)
		}
	}
	locked := newClient(t, s.URL, func(c *Config) { c.Credentials = func() (string, string) { return testUser, "" } })
	if o := locked.Create(t.Context(), wish); o.Kind != Blocked || !o.Unreached || o.ErrorKind != "credentials" {
		t.Errorf("no password: %+v", o)
	}
	if calls.Load() != 0 {
		t.Errorf("%d calls", calls.Load())
	}
}

func TestCredentialsRotate(t *testing.T) {
	t.Parallel()
	var password atomic.Value
	password.Store("first-password")
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if _, p, _ := r.BasicAuth(); p != "second-password" {
			w.WriteHeader(401)
			io.WriteString(w, `{"status":401,"message":"Authenticate","code":20003}`)
			return
		}
		io.WriteString(w, created)
	})
	c := newClient(t, s.URL, func(c *Config) {
		c.Credentials = func() (string, string) { return testUser, password.Load().(string) }
	})
	if o := c.Create(t.Context(), wish); o.Kind != Blocked {
		t.Errorf("first: %+v", o)
	}
	password.Store("second-password")
	if o := c.Create(t.Context(), wish); o.Kind != Created {
		t.Errorf("second: %+v", o)
	}
}

func TestNewNamesEveryFault(t *testing.T) {
	t.Parallel()
	_, err := New(Config{URL: "https://user:" + testPassword + "@flex-api.twilio.com", TaskRouterURL: "http://taskrouter.twilio.com",
		Concurrency: -1, LookupAttribute: "a-b", UserAgent: "a\nb"})
	for _, want := range []string{"\nTaskRouterURL:", "Credentials:", "Timeout:", "Concurrency:", "LookupAttribute:", "UserAgent:"} {
		if err == nil || !strings.Contains("\n"+err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
	if strings.Contains(err.Error(), "secret") {
		t.Errorf("a secret in: %v", err)
	}
	for _, address := range []string{
		"", "flex-api.twilio.com", "https://", "https:///x", "https://h?x=1", "https://h?", "https://h#", "https://u@h", "http://h", "http://10.0.0.1",
		"ftp://127.0.0.1", "https:h", "http://localhost.example.com", "https://:443", "%",
	} {
		if got, err := baseAddress("URL", address, FlexHost, false); err == nil {
			t.Errorf("%q passes as %q", address, got)
		}
	}
	for address, want := range map[string]string{
		"https://flex-api.twilio.com": "https://flex-api.twilio.com", "https://h/base//": "https://h/base",
		"http://127.0.0.1:80/": "http://127.0.0.1:80", "http://[::1]:1": "http://[::1]:1", "http://localhost:9": "http://localhost:9",
	} {
		if got, err := baseAddress("URL", address, FlexHost, false); err != nil || got != want {
			t.Errorf("%q: %q, %v", address, got, err)
		}
	}
	for address, want := range map[string]string{"http://10.0.0.1:9090/": "http://10.0.0.1:9090", "https://h": "https://h", "http://u@h": "", "ftp://h": ""} {
		if got, err := baseAddress("URL", address, FlexHost, true); got != want || (err == nil) != (want != "") {
			t.Errorf("insecure %q: %q, %v", address, got, err)
		}
	}
	for _, name := range []string{"conversations", "flexInteractionSid", "AND", "1a", "a.b", strings.Repeat("a", 65)} {
		if _, err := New(Config{LookupAttribute: name}); !strings.Contains(err.Error(), "LookupAttribute:") {
			t.Errorf("the attribute %q passes", name)
		}
	}
}

// A server that says back all it was told must not get a secret into what we keep
// or print.
func TestSecretsStay(t *testing.T) {
	t.Parallel()
	var status atomic.Int32
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		basic := strings.TrimPrefix(r.Header.Get("Authorization"), "Basic ")
		w.Header().Set("Twilio-Request-Id", basic)
		w.Header().Set("Location", "https://u:"+url.QueryEscape(testPassword)+"@elsewhere.test/"+url.QueryEscape(testPassword))
		w.WriteHeader(int(status.Load()))
		body, _ := json.Marshal(map[string]any{"sid": kd, "message": "denied " + testPassword, "more_info": basic + " https://a:b-secret@c", "code": 1})
		w.Write(body)
	})
	c := newClient(t, s.URL)
	for _, code := range []int{200, 400, 401, 302, 500} {
		status.Store(int32(code))
		assertNoSecret(t, c.Create(t.Context(), wish))
		_, err := c.SearchTasks(t.Context(), ws, "interaction_request", []string{key})
		assertNoSecret(t, err)
	}
	s.Close()
	assertNoSecret(t, c.Create(t.Context(), wish))

	cfg := Config{URL: "https://u:" + testPassword + "@h", TaskRouterURL: "https://h?token=" + testPassword,
		Credentials: func() (string, string) { return testUser, testPassword }}
	assertNoSecret(t, cfg)
	assertNoSecret(t, &cfg)
	assertNoSecret(t, struct{ Config Config }{cfg})
	assertNoSecret(t, c)
	assertNoSecret(t, struct{ Client *Client }{c})

	proxy := answer{}.clean(`proxyconnect: "http://me:b-secret@proxy:1"`, 100)
	if strings.Contains(proxy, "b-secret") {
		t.Errorf("a proxy's password: %s", proxy)
	}
}

func assertNoSecret(t *testing.T, v any) {
	t.Helper()
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "v", v)
	text := fmt.Sprintf("%v %+v %#v %s %q", v, v, v, v, v) + log.String()
	if o, ok := v.(Outcome); ok { // whose Response is bytes to fmt
		text += string(o.Response) + o.Message
	}
	basic, _ := http.NewRequest("GET", "http://h", nil)
	basic.SetBasicAuth(testUser, testPassword)
	for _, secret := range []string{testPassword, url.QueryEscape(testPassword), "b-secret",
		strings.TrimPrefix(basic.Header.Get("Authorization"), "Basic ")} {
		if strings.Contains(text, secret) {
			t.Errorf("%q in %.1000s", secret, text)
		}
	}
}

func TestFetchAndCheck(t *testing.T) {
	t.Parallel()
	var status atomic.Int32
	var body, path atomic.Value
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		path.Store(r.Method + " " + r.URL.Path)
		w.WriteHeader(int(status.Load()))
		io.WriteString(w, body.Load().(string))
	})
	c := newClient(t, s.URL)
	for _, tt := range []struct {
		name         string
		status       int
		body         string
		fetch, check Kind
	}{
		{"there", 200, created, Created, Created},
		{"Twilio's 404", 404, `{"code":20404,"message":"not found","status":404}`, Rejected, Rejected},
		{"another's 404", 404, `<html>not found</html>`, Uncertain, Uncertain},
		{"an empty 404", 404, ``, Uncertain, Uncertain},
		{"Flex not set up", 404, `{"code":45103,"status":404,"message":"x"}`, Rejected, Blocked},
		{"wrong password", 401, `{"code":20003,"status":401,"message":"x"}`, Blocked, Blocked},
		{"another's 401", 401, ``, Uncertain, Uncertain},
		{"redirect", 302, ``, Uncertain, Uncertain},
		{"limited", 429, `{"code":20429,"status":429,"message":"x"}`, Refused, Refused},
		{"limited by another", 429, ``, Uncertain, Uncertain},
		{"down", 503, ``, Uncertain, Uncertain},
		{"nonsense", 200, `hello`, Uncertain, Uncertain},
	} {
		status.Store(int32(tt.status))
		body.Store(tt.body)
		if o := c.Fetch(t.Context(), kd); o.Kind != tt.fetch {
			t.Errorf("%s: Fetch %+v", tt.name, o)
		}
		if got := path.Load(); got != "GET /v1/Interactions/"+kd {
			t.Errorf("%s: %s", tt.name, got)
		}
		if o := c.Check(t.Context()); o.Kind != tt.check {
			t.Errorf("%s: Check %+v", tt.name, o)
		}
		if got := path.Load(); got != "GET /v1/Interactions/"+nobody {
			t.Errorf("%s: %s", tt.name, got)
		}
	}
	status.Store(200)
	body.Store(strings.Replace(created, kd, "KD00000000000000000000000000000001", 1))
	if o := c.Fetch(t.Context(), kd); o.Kind != Uncertain || o.ErrorKind != "other_sid" || o.InteractionSID != "" {
		t.Errorf("another interaction: %+v", o)
	}
	path.Store("")
	for _, sid := range []string{"", "KD", kd + "/Channels", "../" + kd, kd + "\n"} {
		if o := c.Fetch(t.Context(), sid); o.Kind != Rejected || !o.Unreached || path.Load() != "" {
			t.Errorf("%q: %+v", sid, o)
		}
	}
}

func TestHTTP1Only(t *testing.T) {
	t.Parallel()
	var calls atomic.Int32
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		if r.ProtoMajor != 1 {
			t.Errorf("came by %s", r.Proto)
		}
		io.WriteString(w, created)
	}))
	s.EnableHTTP2 = true
	s.StartTLS()
	defer s.Close()
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	c := newClient(t, s.URL, func(c *Config) { c.RootCAs = roots })
	if o := c.Create(t.Context(), wish); o.Kind != Created || calls.Load() != 1 {
		t.Errorf("%d calls, %+v", calls.Load(), o)
	}
	c.CloseIdle()
}

func BenchmarkCreate(b *testing.B) {
	s := serve(b, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, created) })
	c := newClient(b, s.URL)
	b.ReportAllocs()
	for b.Loop() {
		if o := c.Create(context.Background(), wish); o.Kind != Created {
			b.Fatal(o)
		}
	}
}

// BenchmarkCreateOwn is our own share of a Create: building the form and judging
// the answer, the transport apart.
func BenchmarkCreateOwn(b *testing.B) {
	c := newClient(b, "http://127.0.0.1:1")
	a := answer{status: 200, header: http.Header{}, body: []byte(created), whole: true, secrets: secretsOf(testUser, testPassword)}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.form(wish); err != nil {
			b.Fatal(err)
		}
		if o := a.outcome(time.Now()); o.Kind != Created {
			b.Fatal(o)
		}
	}
}
