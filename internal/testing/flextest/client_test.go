package flextest

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The parts of a good create call.
const (
	smsChannel = `{"type":"sms","initiated_by":"api","participants":[{"address":"+15550100001","proxy_address":"+15550100002"}]}`
	hexA       = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	hexB       = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
)

// routingFor is a Routing whose task carries these attributes, JSON text.
func routingFor(attributes string) string {
	return `{"properties":{"workspace_sid":"` + WorkspaceSID + `","workflow_sid":"` + WorkflowSID + `","attributes":` + attributes + `}}`
}

// formFor is a good form whose lookup key is key.
func formFor(key string) url.Values {
	return url.Values{"Channel": {smsChannel}, "Routing": {routingFor(`{"interaction_request":"` + key + `"}`)}}
}

// newClient is a plain client that follows nothing and decompresses nothing.
func newClient(t testing.TB) *http.Client {
	transport := &http.Transport{DisableCompression: true, MaxResponseHeaderBytes: 64 << 10}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// request is a call with the right credentials; form nil: a GET.
func request(ctx context.Context, t testing.TB, address string, form url.Values) *http.Request {
	t.Helper()
	method, body := "GET", ""
	if form != nil {
		method, body = "POST", form.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, address, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.GetBody = nil
	req.SetBasicAuth(AccountSID, AuthToken)
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	return req
}

// answer is what came of a call that was answered.
type answer struct {
	status int
	header http.Header
	body   string
}

// do makes a call that has to be answered completely.
func do(t testing.TB, req *http.Request) answer {
	t.Helper()
	res, err := newClient(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{res.StatusCode, res.Header, string(body)}
}

// create makes one create call with the default credentials.
func create(t testing.TB, s *Server, form url.Values) answer {
	t.Helper()
	return do(t, request(t.Context(), t, s.URL()+"/v1/Interactions", form))
}

// get makes one GET with the default credentials.
func get(t testing.TB, s *Server, path string) answer {
	t.Helper()
	return do(t, request(t.Context(), t, s.URL()+path, nil))
}

// read decodes a JSON body.
func read[T any](t testing.TB, body string) T {
	t.Helper()
	var value T
	if err := json.Unmarshal([]byte(body), &value); err != nil {
		t.Fatalf("%v in %s", err, body)
	}
	return value
}

// sidOf is the sid of a created interaction.
func sidOf(t testing.TB, a answer) string {
	t.Helper()
	sid := read[struct{ SID string }](t, a.body).SID
	if a.status/100 != 2 || !isSID("KD", sid) {
		t.Fatalf("not created: %d %s", a.status, a.body)
	}
	return sid
}

// look says in a few words what a client saw of a create call.
func look(res *http.Response, err error) string {
	if err != nil {
		return lookErr(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	seen := fmt.Sprint(res.StatusCode)
	if res.Header.Get("Content-Encoding") == "gzip" {
		seen += " gzip"
		zip, zipErr := gzip.NewReader(strings.NewReader(string(body)))
		if zipErr != nil {
			return seen + " unreadable"
		}
		body, err = io.ReadAll(io.LimitReader(zip, 1<<20))
	}
	var value struct {
		SID  *string
		Code int
	}
	switch jsonErr := json.Unmarshal(body, &value); {
	case err != nil:
		return seen + " " + lookErr(err)
	case len(body) == 1<<20:
		return seen + " too large"
	case len(body) == 0:
		return seen + " empty"
	case strings.HasPrefix(string(body), "<!DOCTYPE html>"):
		return seen + " html"
	case jsonErr != nil:
		return seen + " not JSON"
	case value.SID != nil && isSID("KD", *value.SID):
		return seen + " sid"
	case value.SID != nil:
		return seen + " bad sid"
	case value.Code != 0:
		return fmt.Sprintf("%s code %d", seen, value.Code)
	case strings.Contains(string(body), `"message"`):
		return seen + " no code"
	}
	return seen + " no sid"
}

func lookErr(err error) string {
	switch {
	case errors.Is(err, syscall.ECONNRESET):
		return "reset"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.Is(err, io.ErrUnexpectedEOF):
		return "cut"
	case errors.Is(err, io.EOF):
		return "EOF"
	case errors.Is(err, context.Canceled):
		return "gave up"
	case strings.Contains(err.Error(), "exceeded"): // the text of net/http's header limit
		return "headers too large"
	}
	return err.Error()
}

// patience is a context for what has to happen, in time for a report when it
// does not.
func patience(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// until waits for the counters.
func until(t testing.TB, s *Server, done func(Calls) bool) {
	t.Helper()
	if err := s.Wait(patience(t), done); err != nil {
		t.Fatalf("%v; calls: %+v", err, s.Calls())
	}
}
