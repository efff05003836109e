package page_test

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"flexworker/internal/outbox/gate"
	"flexworker/internal/outbox/operator"
	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/faultproxy"
)

// away is what a worker says of itself that has no Postgres.
var away = gate.Standing{Word: gate.WordDatabase, Reason: "Postgres does not answer", Since: time.Date(2026, 11, 22, 11, 58, 0, 0, time.UTC), Away: true}

const awaySaid = "Postgres does not answer, since 2026-11-22 11:58:00 UTC"

var tags = regexp.MustCompile(`<[^>]*>`)

// apart is the same rig with a page that has Postgres through a proxy, and a worker that is asked soon whether it has.
func (r *rig) apart(t testing.TB) (*rig, *faultproxy.Proxy) {
	t.Helper()
	config, err := pgxpool.ParseConfig(r.pool.Config().ConnString())
	if err != nil {
		t.Fatal(err)
	}
	at := config.ConnConfig
	proxy := faultproxy.New(t, net.JoinHostPort(at.Host, fmt.Sprint(at.Port)))
	host, port, err := net.SplitHostPort(proxy.Addr())
	if err != nil {
		t.Fatal(err)
	}
	at.Host, at.Fallbacks = host, nil
	if _, err := fmt.Sscan(port, &at.Port); err != nil {
		t.Fatal(err)
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	t.Cleanup(proxy.Heal) // or the pool waits for its connections
	other := *r
	other.counting = r.desk // from memory, as a worker has it
	served := other.serve(t, "", operator.NewDesk(pool, operator.Caller{}, nil))
	served.page.Hurries()
	return served, proxy
}

// TestFrozenPostgres: while Postgres does not answer, every screen says so, since when and what to do, from what the worker knows
// without it. The menu stays, and the page loads itself again.
func TestFrozenPostgres(t *testing.T) {
	t.Parallel()
	whole := newRig(t, "")
	whole.add(t, "crm", "crm-1", "Ada Lovelace", 1)
	whole.stream.Store(7)
	r, proxy := whole.apart(t)
	p := r.signIn(t, actToken, "ada")
	if page, _ := p.get(""); !strings.Contains(page, "Hold the fleet") {
		t.Fatalf("before:\n%s", page)
	}
	proxy.Blackhole()
	r.standing.Store(&away)
	r.page.Forget()
	menu := []string{`<a href="requests"`, "Sign out", `<noscript><meta http-equiv="refresh"`, "data-away"}
	for address, tt := range map[string]struct {
		status int
		want   []string
	}{
		"": {http.StatusOK, []string{awaySaid, "See whether Postgres runs", "7 messages wait in the request stream", "gate: cannot be read",
			"It cannot be read now: Postgres does not answer.", `<a href="requests?state=pending">`}},
		"requests?source=crm": {http.StatusOK, []string{`value="crm"`, "It cannot be read now: Postgres does not answer."}},
		"requests?find=crm-1": {http.StatusOK, []string{"It cannot be read now: Postgres does not answer."}},
		"request?id=crm-1":    {http.StatusServiceUnavailable, []string{awaySaid, "See whether Postgres runs", "This page loads itself again"}},
		"decide?id=crm-1":     {http.StatusServiceUnavailable, []string{awaySaid}},
		"malformed?id=1":      {http.StatusServiceUnavailable, []string{awaySaid}},
		"acts":                {http.StatusOK, []string{"It cannot be read now: Postgres does not answer."}},
		"fleet":               {http.StatusOK, []string{"It cannot be read now: Postgres does not answer."}},
		"decide":              {http.StatusOK, []string{"It cannot be read now: Postgres does not answer."}},
	} {
		page, status := p.get(address)
		page += tags.ReplaceAllString(page, "")
		for _, want := range append(tt.want, menu...) {
			if !strings.Contains(page, want) {
				t.Errorf("/%s does not say %q\n%s", address, want, page)
			}
		}
		for _, wrong := range []string{"took too long", "Narrow it down", "not counted yet", "tone-good", `action="hold"`} {
			if strings.Contains(page, wrong) {
				t.Errorf("/%s says %q\n%s", address, wrong, page)
			}
		}
		if status != tt.status {
			t.Errorf("/%s: %d, want %d", address, status, tt.status)
		}
	}
	if text, status := p.get("pulse?id=crm-1"); status != http.StatusOK || !strings.Contains(text, `"away":"`+awaySaid+`."`) {
		t.Errorf("the pulse: %d %s", status, text)
	}
	if page, status := p.get("request?id=crm-1&region=explanation&region=bar"); status != http.StatusOK || !strings.Contains(page, "gate: cannot be read") || strings.Contains(page, "<html") {
		t.Errorf("the bar alone: %d\n%s", status, page)
	}
	proxy.Heal()
	r.standing.Store(&gate.Standing{Word: gate.WordOK})
	r.page.Forget()
	for address, want := range map[string]string{"": "Hold the fleet", "request?id=crm-1": "Where it stands", "requests?source=crm": "crm-1"} {
		if page, status := p.get(address); status != http.StatusOK || !strings.Contains(page, want) || strings.Contains(page, "does not answer") {
			t.Errorf("afterwards /%s: %d\n%s", address, status, page)
		}
	}
}

// TestFrozenWhileOpen: so it is with a page that is open. Its first screen is never left green, another keeps what it shows, and says
// that this may be old.
func TestFrozenWhileOpen(t *testing.T) {
	t.Parallel()
	whole := newRig(t, "")
	whole.replicas(t)
	whole.add(t, "crm", "crm-1", "Ada Lovelace", 1)
	r, proxy := whole.apart(t)
	b := r.open(t, desktop)
	b.signIn(actToken, "ada")
	b.sees("#verdict h2", "Requests move")
	freeze := func() {
		proxy.Blackhole()
		r.standing.Store(&away)
	}
	thaw := func() {
		proxy.Heal()
		r.standing.Store(&gate.Standing{Word: gate.WordOK})
	}
	freeze()
	b.sees("#verdict h2", awaySaid)
	b.is("#verdict.tone-bad")
	b.sees(".gate-word", "gate: cannot be read")
	b.sees("#attention", "It cannot be read now: Postgres does not answer.")
	b.sees("#replicas", "It cannot be read now: Postgres does not answer.")
	if text := b.text("#lost"); strings.Contains(text, away.Reason) { // it may say that there is no answer, where a pulse takes long
		t.Errorf("the strip repeats it: %q", text)
	}
	b.holds("while Postgres does not answer")
	b.visit("")
	b.is("main[data-away]")
	thaw()
	b.comes("#verdict h2", "Requests move")
	b.sees("#attention", "worker-2")
	b.visit("requests")
	b.sees("#list", "crm-1")
	freeze()
	b.sees("#lost", awaySaid+". What you see may be old.")
	b.sees(".gate-word", "gate: cannot be read")
	b.sees("#list", "crm-1")
	b.visit("request?id=crm-1")
	b.sees("#no-postgres", awaySaid)
	b.holds("a request while Postgres does not answer")
	thaw()
	b.comes("#explanation", "pending")
}

// TestFrozenWithoutScript: without JavaScript the page loads itself again.
func TestFrozenWithoutScript(t *testing.T) {
	t.Parallel()
	whole := newRig(t, "")
	whole.replicas(t)
	whole.add(t, "crm", "crm-1", "Ada Lovelace", 1)
	r, proxy := whole.apart(t)
	b := r.open(t, screen{width: phone.width, height: phone.height, dark: true, noScript: true})
	b.signIn(actToken, "ada")
	b.sees("#verdict h2", "Requests move")
	proxy.Blackhole()
	r.standing.Store(&away)
	r.page.Forget()
	b.visit("")
	b.comes("#verdict h2", awaySaid)
	proxy.Heal()
	r.standing.Store(&gate.Standing{Word: gate.WordOK})
	b.comes("#verdict h2", "Requests move")
}

// TestNoAnswer: a page that has no answer says so, by UTC, blames nobody, and leaves no headline standing. A form that somebody is at
// work in stays.
func TestNoAnswer(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	r.replicas(t)
	var status atomic.Int64 // what is in front answers with; 0: what the page answers, 1: nothing
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		switch s := status.Load(); s {
		case 0:
			r.page.ServeHTTP(w, q)
		case 1:
			<-q.Context().Done()
		default:
			w.WriteHeader(int(s))
		}
	}))
	t.Cleanup(front.Close)
	at := *r
	at.url = front.URL + "/"
	b := at.open(t, desktop)
	b.signIn(actToken, "ada")
	b.sees("#verdict h2", "1 of 3 replicas cannot work")
	for s, want := range map[int64]string{1: "this worker or its Postgres takes too long, or the way to them is lost", http.StatusGatewayTimeout: "answered with HTTP status 504"} {
		status.Store(s)
		b.sees("#lost", want)
		b.sees("#lost", "UTC")
		b.sees("#verdict h2", "Not known whether requests move: no answer since")
		b.sees(".gate-word", "gate: not known")
		if text := b.text("#verdict"); strings.Contains(text, "cannot work") || strings.Contains(b.text("#lost"), "worker has not answered") {
			t.Errorf("%d: it says %q, %q", s, text, b.text("#lost"))
		}
		if tone := evaluate[string](b, `getComputedStyle(document.querySelector('#verdict')).borderLeftColor`); tone != evaluate[string](b, `getComputedStyle(document.querySelector('.gate-word'), '::before').backgroundColor`) {
			t.Errorf("%d: the card's tone is %s", s, tone)
		}
		b.accessible("without an answer")
		status.Store(0)
		b.sees("#verdict h2", "1 of 3 replicas cannot work")
		b.sees(".gate-word", "gate: open")
		b.becomes("the strip is gone", `document.querySelector('#lost').hidden && !document.querySelector('#unknown')`)
	}
	b.unfold("#hold-it")
	b.fill("#why-hold", "half a reas")
	status.Store(http.StatusServiceUnavailable)
	b.sees("#verdict h2", "Not known whether requests move")
	b.holdsText("#why-hold", "half a reas")
	status.Store(0)
	b.becomes("the headline is back", `!document.querySelector('#unknown')`)
	b.sees("#verdict h2", "1 of 3 replicas cannot work")
	b.holdsText("#why-hold", "half a reas")
}

// TestAsOf: the moment that a page says it is of goes on while what it shows is fetched anew.
func TestAsOf(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	r.replicas(t)
	b := r.open(t, desktop)
	b.signIn(lookToken, "grace")
	b.sees("#verdict h2", "1 of 3 replicas cannot work")
	first := b.text(".title time")
	expect.Eventually(t, func() error {
		if now := b.text(".title time"); now <= first {
			return fmt.Errorf("it was of %s, and is of %s", first, now)
		}
		return nil
	})
}
