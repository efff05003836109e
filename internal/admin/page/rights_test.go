package page_test

import (
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"testing"

	"flexworker/internal/testing/pgtest"
)

// changing are the routes that change something, each with a form that would. duplicate is that of crm-2.
func changing(duplicate string) map[string]url.Values {
	return map[string]url.Values{
		"hold":     {"why": {"a test"}},
		"release":  {"why": {"a test"}},
		"act":      {"id": {"crm-1"}, "act": {"cancel"}, "attempt": {"1"}, "why": {"a test"}},
		"decide":   {"id": {"crm-1"}, "attempt": {"1"}, "absent": {"true"}, "unverified": {"true"}, "why": {"a test"}, "save": {"true"}},
		"requests": {"act": {"cancel"}, "why": {"a test"}, "token": {"a token"}},
		"close":    {"id": {"crm-2"}, "attempt": {"1"}, "duplicate": {duplicate}, "why": {"a test"}, "save": {"true"}},
		"erase":    {"id": {"crm-2"}, "attempt": {"1"}, "why": {"a test"}},
	}
}

// TestRights: every route that changes something, with every right, and from another site. What is refused changes nothing.
func TestRights(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	r.add(t, "crm", "crm-1", "Ada Lovelace", 1)
	r.uncertain(t, "crm-1", true)
	_, duplicate := r.twice(t, "crm-2")
	before := r.tables(t)
	forms := changing(duplicate)
	for route, form := range forms {
		for _, tt := range []struct {
			who, token string
			header     [2]string
			status     int
			location   string
		}{
			{"nobody", "", [2]string{}, http.StatusSeeOther, "login?lost=act"},
			{"with a wrong token", "another", [2]string{}, http.StatusSeeOther, "login?lost=act"},
			{"who may look", lookToken, [2]string{}, http.StatusForbidden, ""},
			{"from another site, may act", actToken, [2]string{"Sec-Fetch-Site", "cross-site"}, http.StatusForbidden, ""},
			{"from another origin, may act", actToken, [2]string{"Origin", "https://elsewhere.example"}, http.StatusForbidden, ""},
			{"headers of a proxy that is not trusted", "", [2]string{"X-Forwarded-User", "ada"}, http.StatusSeeOther, "login?lost=act"},
		} {
			p := r.signIn(t, tt.token, "eve")
			status, location := p.raw(route, form, tt.header)
			if status != tt.status || location != tt.location {
				t.Errorf("%s, %s: %d %s, want %d %s", route, tt.who, status, location, tt.status, tt.location)
			}
			if after := r.tables(t); after != before {
				t.Fatalf("%s, %s: changed\n%s\n%s", route, tt.who, before, after)
			}
		}
	}
	for _, route := range []string{"hold", "release", "act", "decide", "close", "erase"} { // the token of many is no token
		p := r.signIn(t, actToken, "ada")
		before := r.tables(t)
		if status, _ := p.raw(route, forms[route], [2]string{}); status != http.StatusSeeOther || r.tables(t) == before {
			t.Errorf("%s, who may act: %d\n%s", route, status, r.tables(t))
		}
	}
}

// tables are what acts change.
func (r *rig) tables(t testing.TB) string {
	t.Helper()
	return pgtest.One[string](t, r.pool, `SELECT concat_ws(' ', (SELECT string_agg(o::text, ' ') FROM outbox o), (SELECT g::text FROM outbox_gate g), (SELECT string_agg(a::text, ' ') FROM outbox_acts a))`)
}

// raw sends a form and follows no redirect.
func (p *person) raw(route string, form url.Values, header [2]string) (status int, location string) {
	p.t.Helper()
	request, err := http.NewRequestWithContext(p.t.Context(), http.MethodPost, p.base+route, strings.NewReader(form.Encode()))
	if err != nil {
		p.t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if header[0] != "" {
		request.Header.Set(header[0], header[1])
	}
	client := *p.client
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	response, err := client.Do(request)
	if err != nil {
		p.t.Fatal(err)
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		p.t.Fatal(err)
	}
	return response.StatusCode, response.Header.Get("Location")
}

// TestMayLook: whoever may look reads every screen, and is shown no form that acts.
func TestMayLook(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	r.stage(t)
	p := r.signIn(t, lookToken, "grace")
	for _, address := range []string{"", "decide", "requests", "request?id=crm-4251-order", "request?id=crm-4221-order", "request?id=crm-4203-reminder", "acts", "malformed", "malformed?id=1", "fleet"} {
		page, status := p.get(address)
		if status != http.StatusOK || strings.Contains(page, "could not be read") {
			t.Errorf("%s: %d\n%s", address, status, page)
		}
		for _, action := range []string{"hold", "release", "act", "decide", "requests", "close", "erase"} {
			if strings.Contains(page, `method="post" action="`+action) {
				t.Errorf("%s has a form for %s", address, action)
			}
		}
	}
}

// TestNoRight: whoever a proxy lets in without a group that counts is shown nothing, also of what is in memory already.
func TestNoRight(t *testing.T) {
	t.Parallel()
	r := newRig(t, "").trusting(t)
	r.stage(t)
	r.signIn(t, lookToken, "grace").get("")
	r.page.Stay()
	p := r.signIn(t, "", "")
	for _, address := range []string{"", "decide", "decide?id=crm-4251-order", "requests", "requests?find=crm-4251-order", "request?id=crm-4251-order", "export", "acts", "malformed", "malformed?id=1", "fleet", "pulse", "pulse?id=crm-4251-order", "nothing?"} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.url+address, nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("X-Forwarded-User", "eve")
		request.Header.Set("X-Forwarded-Groups", "others")
		response, err := p.client.Do(request)
		page, status := p.read(response, err)
		if want := map[bool]int{false: http.StatusForbidden, true: http.StatusNotFound}[address == "nothing?"]; status != want || strings.Contains(page, "crm-") || strings.Contains(page, "worker-2") {
			t.Errorf("%s: %d\n%s", address, status, page)
		}
	}
}

// TestLogin: what is wrong with a login is said, a wrong token is told nothing else, and nobody is led away from the page.
func TestLogin(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	for _, tt := range []struct {
		token, name, next string
		status            int
		want              string
	}{
		{actToken, "ada", "request?id=x", http.StatusSeeOther, "request?id=x"},
		{actToken, "ada", "./", http.StatusSeeOther, "./"},
		{actToken, "ada", "", http.StatusSeeOther, "./"},
		{actToken, "ada", "//elsewhere.example", http.StatusSeeOther, "./"},
		{actToken, "ada", "https://elsewhere.example/requests", http.StatusSeeOther, "./"},
		{actToken, "ada", `requests\..\..`, http.StatusSeeOther, "./"},
		{actToken, "ada", "logout", http.StatusSeeOther, "./"},
		{actToken, "  ", "", http.StatusBadRequest, ""},
		{"wrong", "ada", "", http.StatusForbidden, ""},
		{"", "ada", "", http.StatusForbidden, ""},
	} {
		jar, err := cookiejar.New(nil)
		if err != nil {
			t.Fatal(err)
		}
		p := &person{t: t, base: r.url, client: &http.Client{Jar: jar}}
		status, location := p.raw("login", url.Values{"token": {tt.token}, "name": {tt.name}, "next": {tt.next}}, [2]string{})
		if status != tt.status || location != tt.want {
			t.Errorf("%q as %q to %q: %d %q, want %d %q", tt.token, tt.name, tt.next, status, location, tt.status, tt.want)
		}
		p.client.CloseIdleConnections()
	}
	if text := r.log.String(); strings.Contains(text, actToken) || !strings.Contains(text, "a wrong token was refused") {
		t.Errorf("the log: %s", text)
	}
}

// TestMayLookWhileHeld: who is told to release it, and may not, is told that.
func TestMayLookWhileHeld(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	r.replicas(t)
	pgtest.Exec(t, r.pool, `UPDATE outbox_gate SET held_since = now(), reason = 'a test', changed_by = 'ada'`)
	page, _ := r.signIn(t, lookToken, "grace").get("")
	for _, want := range []string{"Your token may look, not act: only who signs in with", "3 alive; none sends while the fleet is held"} {
		if !strings.Contains(page, want) {
			t.Errorf("it lacks %q\n%s", want, page)
		}
	}
}
