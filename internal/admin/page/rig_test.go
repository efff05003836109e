package page_test

import (
	"cmp"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"flexworker/internal/admin/access"
	"flexworker/internal/admin/page"
	"flexworker/internal/database"
	"flexworker/internal/flex"
	"flexworker/internal/outbox/gate"
	"flexworker/internal/outbox/operator"
	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/flextest"
	"flexworker/internal/testing/pgtest"
	"flexworker/migrations"
)

const (
	actToken  = "a-token-to-act"
	lookToken = "a-token-to-look"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Run(m, endProcess)) }

var migrated = pgtest.NewTemplate(migrations.Up)

// A rig is the page on tables of its own, with a Flex to ask.
type rig struct {
	pool   *pgxpool.Pool
	desk   *operator.Desk
	flex   *flextest.Server
	client *flex.Client
	page   *page.Tested
	url    string // of the first screen; it ends with a slash
	log    *expect.Log
	reads  *atomic.Int64 // how often the page read what it keeps for all

	trusted  []netip.Prefix                 // proxies that say who somebody is
	counting *operator.Desk                 // which counts the backlog; nil: desk
	standing *atomic.Pointer[gate.Standing] // of its worker
	stream   *atomic.Int64                  // messages that wait in the request stream; -1: nobody knows
}

// newRig serves the page. prefix is a path that a proxy puts before it; "": none.
func newRig(t testing.TB, prefix string) *rig {
	t.Helper()
	r := &rig{pool: migrated.NewPool(t, database.ForLoops), flex: flextest.New(t), standing: &atomic.Pointer[gate.Standing]{}, stream: &atomic.Int64{}}
	r.standing.Store(&gate.Standing{Word: gate.WordOK})
	var err error
	r.client, err = flex.New(flex.Config{URL: r.flex.URL(), TaskRouterURL: r.flex.URL(), Timeout: expect.Patience, Concurrency: 2,
		LookupAttribute: "interaction_request", UserAgent: "flexworker/test",
		Credentials: func() (string, string) { return flextest.AccountSID, flextest.AuthToken }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.client.CloseIdle)
	asks := func() (operator.Flex, time.Duration, error) { return r.client, time.Second, nil }
	return r.serve(t, prefix, operator.NewDesk(r.pool, operator.Caller{}, asks))
}

// serve is the same rig with a page of another desk.
func (r *rig) serve(t testing.TB, prefix string, desk *operator.Desk) *rig {
	t.Helper()
	other := *r
	r = &other
	r.desk, r.log, r.reads = desk, &expect.Log{}, &atomic.Int64{}
	log := slog.New(slog.NewTextHandler(r.log, nil))
	ctx := context.WithoutCancel(t.Context())
	r.page = page.NewTested(page.Config{
		Access: access.New(access.Config{Token: func() string { return actToken }, ReadToken: func() string { return lookToken },
			Trusted: r.trusted, Log: log}),
		Desk: desk,
		Backlog: func() ([]operator.Backlog, time.Time) {
			r.reads.Add(1)
			backlog, err := cmp.Or(r.counting, desk).For(operator.Caller{Right: operator.MayLook}).Backlog(ctx)
			if err != nil {
				return nil, time.Time{}
			}
			return backlog, time.Now()
		},
		Stream:   func() (int, bool) { n := r.stream.Load(); return int(n), n >= 0 },
		Standing: func(context.Context) gate.Standing { return *r.standing.Load() },
		Worker:   "worker-1", Version: "v1.0.0", Log: log,
	})
	r.page.AskFor(expect.Patience) // a busy machine may take longer to look than a screen waits
	var handler http.Handler = r.page
	if prefix != "" {
		handler = http.StripPrefix(prefix, handler)
	}
	server := httptest.NewServer(handler)
	t.Cleanup(func() {
		server.Close()
		if text := r.log.String(); strings.Contains(text, "template failed") {
			t.Error(text)
		}
	})
	r.url = server.URL + prefix + "/"
	return r
}

// trusting is the same rig with a page that believes a proxy on this machine.
func (r *rig) trusting(t testing.TB) *rig {
	t.Helper()
	other := *r
	other.trusted = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
	return other.serve(t, "", r.desk)
}

// A person is somebody with a client that keeps cookies, as a browser does, and runs no script.
type person struct {
	t      testing.TB
	client *http.Client
	base   string
}

// signIn is a person who has signed in with a token.
func (r *rig) signIn(t testing.TB, token, name string) *person {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	p := &person{t: t, base: r.url, client: &http.Client{Jar: jar, Timeout: expect.Patience}}
	t.Cleanup(p.client.CloseIdleConnections)
	if token != "" {
		p.post("login", "token", token, "name", name)
	}
	return p
}

// get reads a page; redirects are followed.
func (p *person) get(address string) (text string, status int) {
	p.t.Helper()
	response, err := p.client.Get(p.base + address)
	return p.read(response, err)
}

// post sends a form of names and values.
func (p *person) post(address string, fields ...string) (text string, status int) {
	p.t.Helper()
	form := url.Values{}
	for i := 0; i < len(fields); i += 2 {
		form.Add(fields[i], fields[i+1])
	}
	response, err := p.client.Post(p.base+address, "application/x-www-form-urlencoded", strings.NewReader(form.Encode()))
	return p.read(response, err)
}

func (p *person) read(response *http.Response, err error) (string, int) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return string(body), response.StatusCode
}
