package outbox

import (
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"flexworker/internal/flex"
	"flexworker/internal/outbox/request"
	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/flextest"
	"flexworker/internal/testing/pgtest"
)

// A listener is flextest seen from outside: what was really asked of it.
type listener struct {
	mu    sync.Mutex
	asked map[string]int // "METHOD host path"
	query []string
}

func (l *listener) before(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		l.mu.Lock()
		l.asked[r.Method+" "+r.Host+" "+r.RequestURI[:min(len(r.RequestURI), len(r.URL.EscapedPath()))]]++
		l.query = append(l.query, r.URL.RawQuery)
		l.mu.Unlock()
		next.ServeHTTP(w, r)
	})
}

// clientOf is a client of a server that stands for both hosts.
func clientOf(t *testing.T, url string) *flex.Client {
	t.Helper()
	client, err := flex.New(flex.Config{URL: url, TaskRouterURL: url, Timeout: patience, Concurrency: testSlots, LookupAttribute: "interaction_request",
		Credentials: func() (string, string) { return flextest.APIKey, flextest.APISecret }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.CloseIdle)
	return client
}

// TestEventsCannotSteerCalls: whatever a request carries, the calls go to the
// one host and the known paths, and carry no header of its making.
func TestEventsCannotSteerCalls(t *testing.T) {
	t.Parallel()
	srv := flextest.New(t)
	l := &listener{asked: map[string]int{}}
	front := httptest.NewServer(l.before(srv))
	t.Cleanup(front.Close)
	host := strings.TrimPrefix(front.URL, "http://")
	s := newStore(t)
	bad := []string{"../../../evil", "WS1/../../Tasks", "http://evil.example/", "//evil.example", "a\r\nHost: evil.example", "a\nX-Evil: 1", "WS1?x=1", "WS1#x", "%2e%2e%2f", "\u0000", " ", "WS\u202e1", "a&Channel={}"}
	for i, b := range bad {
		q := fmt.Sprintf("%q", b)
		if b == "\u0000" {
			q = `"\u0001"`
		}
		// Past the check at the door, as a row that a person changed would be.
		e := event(fmt.Sprintf("s-%d", i), uint64(i+1), func(e *request.Event) {
			e.LookupKey = flex.LookupKey(e.RequestID)
			e.Request = fmt.Appendf(nil, `{"channel":{"type":"sms","initiated_by":"api","sid":%[1]s,"participants":[{"address":%[1]s,"proxy_address":%[1]s}]},`+
				`"routing":{"properties":{"workspace_sid":%[1]s,"workflow_sid":%[1]s,"attributes":{"test_id":%[1]s}}},`+
				`"interaction_context_sid":%[1]s,"webhook_ttid":%[1]s}`, q)
			e.Raw = e.Request
		})
		if _, err := s.Add(t.Context(), e); err != nil {
			t.Fatalf("%s: %v", q, err)
		}
	}
	client := clientOf(t, front.URL)
	s.leaseFor = patience + request.LeaseMargin
	d := &Dispatcher{Store: s, Flex: client, Policy: request.Policy{MinDelay: time.Hour, MaxDelay: time.Hour, MaxAttempts: 10, Settle: time.Minute},
		Concurrency: testSlots, Limit: testLimit, Log: quiet, Counters: &Counters{}}
	stop := start(t, d)
	expect.Eventually(t, func() error {
		var n int
		if err := s.pool.QueryRow(t.Context(), `SELECT count(*) FROM outbox_attempts`).Scan(&n); err != nil || n < len(bad) {
			return fmt.Errorf("%d attempts, %w", n, err)
		}
		return nil
	})
	stop()
	for what := range l.asked {
		if what != "POST "+host+" /v1/Interactions" {
			t.Errorf("asked %s", what)
		}
	}
	if n := l.asked["POST "+host+" /v1/Interactions"]; n != len(bad) {
		t.Errorf("%d calls, want %d: %v", n, len(bad), l.asked)
	}
	clear(l.asked)
	// And the reads, for all of them made uncertain.
	for _, b := range bad {
		_, _ = client.SearchTasks(t.Context(), b, "interaction_request", []string{flex.LookupKey("x")})                                         // where it goes counts, not what it brings
		_, _, _ = client.Events(t.Context(), b, "interaction_request", []string{flex.LookupKey("x")}, time.Now().Add(-time.Minute), time.Now()) // the same
		_ = client.Fetch(t.Context(), b)                                                                                                        // the same
		_, _ = client.SearchTasks(t.Context(), flextest.WorkspaceSID, "interaction_request", []string{"x' OR interaction_request == 'y", b})    // the same
	}
	for what := range l.asked {
		ok := what == "GET "+host+" /v1/Workspaces/"+flextest.WorkspaceSID+"/Tasks"
		if !ok {
			t.Errorf("asked %s", what)
		}
	}
}

// TestSecretsStayHidden: a server that sends the credentials back, in a body, a
// header and a message, does not get them into the log, the table or a result.
func TestSecretsStayHidden(t *testing.T) {
	t.Parallel()
	basic := base64.StdEncoding.EncodeToString([]byte(flextest.APIKey + ":" + flextest.APISecret))
	status := []int{400, 401, 403, 404, 429, 500, 503, 200, 201, 302}
	var mu sync.Mutex
	turn := 0
	echo := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		n := turn
		turn++
		mu.Unlock()
		_, _ = io.Copy(io.Discard, r.Body) // it is not of interest
		got := r.Header.Get("Authorization")
		user, secret, _ := r.BasicAuth()
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Twilio-Request-Id", got)
		w.Header().Set("Location", "/"+secret)
		w.WriteHeader(status[n%len(status)])
		text := fmt.Sprintf("no access for %s with %s (%s, %s)", user, secret, got, strings.TrimPrefix(got, "Basic "))
		if n%2 == 0 {
			fmt.Fprintf(w, `{"code":20003,"message":%q,"more_info":%q,"status":401,"authorization":%q}`, text, text, got)
		} else {
			fmt.Fprint(w, text)
		}
	}))
	t.Cleanup(echo.Close)
	s := newStore(t)
	var log strings.Builder
	var logMu sync.Mutex
	mustAdd(t, s, "k", 2*len(status))
	anew := func() *Dispatcher {
		return &Dispatcher{Store: s, Flex: clientOf(t, echo.URL), Policy: request.Policy{MinDelay: time.Hour, MaxDelay: time.Hour, MaxAttempts: 10, Settle: time.Minute},
			Concurrency: 1, Limit: testLimit, Log: slog.New(slog.NewTextHandler(writerFunc(func(b []byte) (int, error) {
				logMu.Lock()
				defer logMu.Unlock()
				return log.Write(b)
			}), &slog.HandlerOptions{Level: slog.LevelDebug})), Counters: &Counters{}}
	}
	var reasons []string // as they stand in outbox_replicas
	d := anew()
	stop := start(t, d)
	expect.Eventually(t, func() error {
		// What has stopped it starts anew at once: here each kind of answer has to come.
		if _, reason, stopped := d.Stopped(); stopped {
			reasons = append(reasons, reason)
			stop()
			d = anew()
			stop = start(t, d)
		}
		var n int
		if err := s.pool.QueryRow(t.Context(), `SELECT count(*) FROM outbox_attempts`).Scan(&n); err != nil || n < 2*len(status) {
			return fmt.Errorf("%d attempts, %w", n, err)
		}
		return nil
	})
	stop()
	logMu.Lock()
	defer logMu.Unlock()
	places := map[string]string{
		"the log":      log.String(),
		"outbox":       pgtest.One[string](t, s.pool, `SELECT string_agg(o::text, E'\n') FROM outbox o`),
		"the attempts": pgtest.One[string](t, s.pool, `SELECT string_agg(a::text, E'\n') FROM outbox_attempts a`),
		"the reasons":  strings.Join(reasons, "\n"),
		"the gate":     pgtest.One[string](t, s.pool, `SELECT g::text FROM outbox_gate g`),
	}
	if !strings.Contains(places["outbox"], "no access for "+flextest.APIKey) {
		t.Error("what the server said did not come through: this test sees nothing")
	}
	for place, text := range places {
		for _, secret := range []string{flextest.APISecret, basic} {
			if at := strings.Index(text, secret); at >= 0 {
				t.Errorf("%s shows a secret: ...%s...", place, text[max(0, at-150):min(len(text), at+100)])
			}
		}
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }
