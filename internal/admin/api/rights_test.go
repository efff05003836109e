package api

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"flexworker/internal/admin/access"
)

// bodies are good ones for each route that changes something, of a pending request r.
var bodies = map[string]object{
	"/requests/{id}/retry":     {"why": "a test"},
	"/requests/{id}/cancel":    {"why": "a test"},
	"/requests/{id}/republish": {"why": "a test"},
	"/requests/{id}/lookup":    {"why": "a test"},
	"/requests/{id}/resolve":   {"why": "a test", "absent": true, "unverified": true},
	"/requests/{id}/close":     {"why": "a test", "duplicate": sidA},
	"/requests/{id}/erase":     {"why": "a test"},
	"/gate/hold":               {"why": "a test"},
	"/gate/release":            {"why": "a test"},
	"/acts:preview":            {"act": "cancel", "filter": object{}},
	"/acts":                    {"why": "a test", "act": "cancel", "filter": object{}},
}

// cookie is what the page would give for a token.
func cookie(t *testing.T, token string) string {
	t.Helper()
	who := access.New(access.Config{Token: func() string { return actToken }, ReadToken: func() string { return lookToken }})
	w := httptest.NewRecorder()
	if err := who.Login(w, httptest.NewRequest(http.MethodPost, "http://localhost/", nil), token, "ann"); err != nil {
		t.Fatal(err)
	}
	c := w.Result().Cookies()[0]
	return c.Name + "=" + c.Value
}

// TestRights: every route, with every credential there is, and from another site.
func TestRights(t *testing.T) {
	t.Parallel()
	const nothing, looks, acts = 0, 1, 2
	for name, c := range map[string]struct {
		from    string // address; "": not a proxy's
		headers []string
		may     int
		refusal string // of what it may not
	}{
		"none":                        {"", nil, nothing, "no-credential"},
		"an empty token":              {"", []string{"Authorization", "Bearer "}, nothing, "wrong-credential"},
		"a wrong token":               {"", []string{"Authorization", "Bearer nobodys"}, nothing, "wrong-credential"},
		"a token as Basic":            {"", []string{"Authorization", "Basic " + actToken}, nothing, "no-credential"},
		"ADMIN_READ_TOKEN":            {"", []string{"Authorization", "Bearer " + lookToken}, looks, "forbidden"},
		"ADMIN_TOKEN":                 {"", []string{"Authorization", "Bearer " + actToken}, acts, ""},
		"a cookie that looks":         {"", []string{"Cookie", cookie(t, lookToken)}, looks, "forbidden"},
		"a cookie that acts":          {"", []string{"Cookie", cookie(t, actToken)}, acts, ""},
		"a forged cookie":             {"", []string{"Cookie", strings.Replace(cookie(t, actToken), "=", "=x", 1)}, nothing, "no-credential"},
		"a proxy, no groups":          {proxy, []string{"X-Forwarded-User", "ann"}, nothing, "forbidden"},
		"a proxy, an unknown group":   {proxy, []string{"X-Forwarded-User", "ann", "X-Forwarded-Groups", "admin"}, nothing, "forbidden"},
		"a proxy, a group that looks": {proxy, []string{"X-Forwarded-User", "ann", "X-Forwarded-Groups", access.GroupLooks}, looks, "forbidden"},
		"a proxy, a group that acts":  {proxy, []string{"X-Forwarded-User", "ann", "X-Forwarded-Groups", access.GroupActs}, acts, ""},
		"a proxy, nobody":             {proxy, []string{"X-Forwarded-Groups", access.GroupActs}, nothing, "no-credential"},
		"a proxy that is not trusted": {"10.0.0.8", []string{"X-Forwarded-User", "ann", "X-Forwarded-Groups", access.GroupActs}, nothing, "no-credential"},
		"another site's page, cookie": {"", []string{"Cookie", cookie(t, actToken), "Sec-Fetch-Site", "cross-site", "Origin", "https://elsewhere.example"}, acts, "cross-origin"},
		"another site's page, token":  {"", []string{"Authorization", "Bearer " + actToken, "Origin", "https://elsewhere.example"}, acts, "cross-origin"},
		"another site's page, proxy":  {proxy, []string{"X-Forwarded-User", "ann", "X-Forwarded-Groups", access.GroupActs, "Sec-Fetch-Site", "same-site"}, acts, "cross-origin"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newRig(t)
			g.add(t, "r", "crm", plain)
			for path, methods := range (&api{}).routes() {
				for method := range methods {
					body := bodies[path]
					if method == http.MethodPost && body == nil {
						t.Fatalf("%s: the test has no body for it", path)
					}
					needs, crossing := looks, false
					if method == http.MethodPost {
						crossing = c.refusal == "cross-origin"
						if path != "/acts:preview" {
							needs = acts
						}
					}
					if path == "/acts" && method == http.MethodPost {
						preview := g.post(t, "/acts:preview", bodies["/acts:preview"])
						body = object{"why": "a test", "act": "cancel", "filter": object{}, "token": preview.body["token"]}
					}
					headers := append([]string{"If-Match", g.tag(t, "r"), "Idempotency-Key", "k" + path}, c.headers...)
					r := as(method, strings.ReplaceAll(path, "{id}", "r"), body, headers...)
					if method == http.MethodGet {
						r = as(method, strings.ReplaceAll(path, "{id}", "r"), nil, headers...)
					}
					if c.from != "" {
						r.RemoteAddr = c.from + ":1"
					} else {
						r.RemoteAddr = "192.0.2." + string(rune('1'+len(path)%9)) + ":1" // ten wrong tokens would slow one address down
					}
					before := g.recorded(t)
					got := g.send(t, r)
					switch refused := c.may < needs || crossing; {
					case refused && (got.kind() != c.refusal || g.recorded(t) != before):
						t.Errorf("%s %s: %d %s; recorded %q", method, path, got.code, got.text, g.recorded(t))
					case !refused && (got.code == http.StatusUnauthorized || got.code == http.StatusForbidden || got.code >= 500 || got.kind() == "invalid"):
						t.Errorf("%s %s: %d %s", method, path, got.code, got.text)
					}
				}
			}
		})
	}
}

// unreadable is a body that nobody may read.
type unreadable struct{ t *testing.T }

func (b unreadable) Read([]byte) (int, error) {
	b.t.Error("the body was read")
	return 0, io.EOF
}

// TestNobodysBody: of who may not do what they ask for no body is read.
func TestNobodysBody(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	for path, methods := range (&api{}).routes() {
		if methods[http.MethodPost] == nil {
			continue
		}
		for token, refusal := range map[string]string{lookToken: "forbidden", "nobodys": "wrong-credential"} {
			if token == lookToken && path == "/acts:preview" { // which they may ask for
				continue
			}
			r := as(http.MethodPost, strings.ReplaceAll(path, "{id}", "r"), nil, "Authorization", "Bearer "+token)
			r.Body = io.NopCloser(unreadable{t})
			r.RemoteAddr = "192.0.2." + strconv.Itoa(len(path)) + ":1"
			if got := g.send(t, r); got.kind() != refusal {
				t.Errorf("%s: %d %s", path, got.code, got.text)
			}
		}
	}
}

// TestPreviewIsAQuestion: it takes no longer than other questions, and ends with its client; an act does neither.
func TestPreviewIsAQuestion(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	for path, acts := range map[string]bool{"/acts:preview": false, "/gate/hold": true} {
		asked := false
		gone, hangUp := context.WithCancel(t.Context())
		other := g.otherwise(t, func(config *pgxpool.Config) {
			config.PrepareConn = func(ctx context.Context, _ *pgx.Conn) (bool, error) {
				asked = true
				until, limited := ctx.Deadline()
				hangUp()
				if longer := time.Until(until) > askLimit; !limited || longer != acts || ctx.Err() == nil != acts {
					t.Errorf("%s: until %v, %v", path, until, ctx.Err())
				}
				return true, nil
			}
		})
		other.send(t, as(http.MethodPost, path, bodies[path], "Authorization", "Bearer "+actToken).WithContext(gone))
		if !asked {
			t.Errorf("%s: nobody was asked", path)
		}
	}
}
