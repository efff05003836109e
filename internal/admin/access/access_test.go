package access

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"flexworker/internal/outbox/operator"
)

const (
	actToken  = "the-token-that-acts"
	lookToken = "the-token-that-looks"
)

// A rig is an Access whose tokens a test may rotate, and what it logs.
type rig struct {
	*Access
	acts, looks string
	log         bytes.Buffer
}

func newRig(t *testing.T, trusted string) *rig {
	t.Helper()
	proxies, err := ParseProxies(trusted)
	if err != nil {
		t.Fatal(err)
	}
	g := &rig{acts: actToken, looks: lookToken}
	g.Access = New(Config{Token: func() string { return g.acts }, ReadToken: func() string { return g.looks }, Trusted: proxies,
		Log: slog.New(slog.NewTextHandler(&g.log, nil))})
	return g
}

// asked is a request from 192.0.2.1, with these headers: name, value, name, value.
func asked(headers ...string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "http://localhost/", nil)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	return r
}

func from(address string, headers ...string) *http.Request {
	r := asked(headers...)
	r.RemoteAddr = netip.AddrPortFrom(netip.MustParseAddr(address), 1234).String()
	return r
}

func TestCaller(t *testing.T) {
	t.Parallel()
	const proxy = "10.0.0.7"
	acts := operator.Caller{Name: "ADMIN_TOKEN from 192.0.2.1", Right: operator.MayAct}
	looks := operator.Caller{Name: "ADMIN_READ_TOKEN from 192.0.2.1", Right: operator.MayLook}
	for name, c := range map[string]struct {
		r    *http.Request
		want operator.Caller
		err  error
	}{
		"nothing":           {asked(), operator.Caller{}, ErrNone},
		"token":             {asked("Authorization", "Bearer "+actToken), acts, nil},
		"small letters":     {asked("Authorization", "bearer "+actToken), acts, nil},
		"read token":        {asked("Authorization", "Bearer "+lookToken), looks, nil},
		"wrong token":       {asked("Authorization", "Bearer "+actToken+"x"), operator.Caller{}, ErrWrong},
		"beginning":         {asked("Authorization", "Bearer "+actToken[:5]), operator.Caller{}, ErrWrong},
		"empty token":       {asked("Authorization", "Bearer "), operator.Caller{}, ErrWrong},
		"basic":             {asked("Authorization", "Basic "+actToken), operator.Caller{}, ErrNone},
		"cookie of others":  {asked("Cookie", cookieName+"=abc"), operator.Caller{}, ErrNone},
		"proxy, act":        {from(proxy, "X-Forwarded-User", "Ann Lee", "X-Forwarded-Groups", "staff, flexworker-act"), operator.Caller{Name: "Ann Lee", Right: operator.MayAct}, nil},
		"proxy, look":       {from(proxy, "X-Forwarded-User", "ann", "X-Forwarded-Groups", "flexworker-look"), operator.Caller{Name: "ann", Right: operator.MayLook}, nil},
		"proxy, both":       {from(proxy, "X-Forwarded-User", "ann", "X-Forwarded-Groups", "flexworker-act,flexworker-look"), operator.Caller{Name: "ann", Right: operator.MayAct}, nil},
		"proxy, unknown":    {from(proxy, "X-Forwarded-User", "ann", "X-Forwarded-Groups", "flexworker-actors,Flexworker-Act"), operator.Caller{Name: "ann"}, nil},
		"proxy, no groups":  {from(proxy, "X-Forwarded-User", "ann"), operator.Caller{Name: "ann"}, nil},
		"proxy, no user":    {from(proxy, "X-Forwarded-Groups", "flexworker-act"), operator.Caller{}, ErrNone},
		"proxy, blank user": {from(proxy, "X-Forwarded-User", " ", "X-Forwarded-Groups", "flexworker-act"), operator.Caller{}, ErrWrong},
		"proxy, no UTF-8":   {from(proxy, "X-Forwarded-User", "a\xff", "X-Forwarded-Groups", "flexworker-act"), operator.Caller{}, ErrWrong},
		"proxy, two users":  {from(proxy, "X-Forwarded-User", "ann", "X-Forwarded-User", "eve", "X-Forwarded-Groups", "flexworker-act"), operator.Caller{}, ErrWrong},
		"proxy, two groups": {from(proxy, "X-Forwarded-User", "ann", "X-Forwarded-Groups", "x", "X-Forwarded-Groups", "flexworker-act"), operator.Caller{}, ErrWrong},
		"proxy and token":   {from(proxy, "X-Forwarded-User", "ann", "Authorization", "Bearer "+actToken), operator.Caller{Name: "ann"}, nil},
		"proxy of a prefix": {from("::ffff:10.1.2.3", "X-Forwarded-User", "ann", "X-Forwarded-Groups", "flexworker-act"), operator.Caller{Name: "ann", Right: operator.MayAct}, nil},
		"proxy, IPv6":       {from("2001:db8::9", "X-Forwarded-User", "ann", "X-Forwarded-Groups", "flexworker-act"), operator.Caller{Name: "ann", Right: operator.MayAct}, nil},
		"not a proxy":       {asked("X-Forwarded-User", "ann", "X-Forwarded-Groups", "flexworker-act"), operator.Caller{}, ErrNone},
		"not a proxy, with the address of one before": {asked("X-Forwarded-For", proxy, "X-Forwarded-User", "ann", "X-Forwarded-Groups", "flexworker-act"), operator.Caller{}, ErrNone},
		"not a proxy, read token":                     {asked("X-Forwarded-User", "ann", "X-Forwarded-Groups", "flexworker-act", "Authorization", "Bearer "+lookToken), looks, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := newRig(t, "10.0.0.7, 10.1.0.0/16,2001:db8::/32").Caller(c.r)
			if got != c.want || !errors.Is(err, c.err) {
				t.Errorf("got %+v, %v; want %+v, %v", got, err, c.want, c.err)
			}
		})
	}
}

// TestOff: without ADMIN_TOKEN nobody is let in, whatever else is set.
func TestOff(t *testing.T) {
	t.Parallel()
	g := newRig(t, "192.0.2.1")
	g.acts = ""
	cookie := login{"eve", operator.MayAct, time.Now().Add(time.Hour).Unix()}.seal("")
	for _, r := range []*http.Request{asked(), asked("Authorization", "Bearer "), asked("Authorization", "Bearer "+lookToken), asked("Cookie", cookieName+"="+cookie),
		asked("X-Forwarded-User", "ann", "X-Forwarded-Groups", "flexworker-act")} {
		if c, err := g.Caller(r); !errors.Is(err, ErrOff) || c != (operator.Caller{}) {
			t.Error(r.Header, c, err)
		}
	}
	if err := g.Login(httptest.NewRecorder(), asked(), "", "ann"); !errors.Is(err, ErrOff) {
		t.Error(err)
	}
}

// TestNoReadToken: where there is no ADMIN_READ_TOKEN, an empty one is no credential, and seals no cookie.
func TestNoReadToken(t *testing.T) {
	t.Parallel()
	g := newRig(t, "")
	g.looks = ""
	if c, err := g.Caller(asked("Authorization", "Bearer ")); !errors.Is(err, ErrWrong) {
		t.Error(c, err)
	}
	cookie := login{"eve", operator.MayLook, time.Now().Add(time.Hour).Unix()}.seal("")
	if c, err := g.Caller(asked("Cookie", cookieName+"="+cookie)); !errors.Is(err, ErrNone) {
		t.Error(c, err)
	}
}

// TestEqualTokens: where a rotation has made both tokens one, who has it looks.
func TestEqualTokens(t *testing.T) {
	t.Parallel()
	g := newRig(t, "")
	g.looks = actToken
	if c, err := g.Caller(asked("Authorization", "Bearer "+actToken)); err != nil || c.Right != operator.MayLook {
		t.Error(c, err)
	}
}

// loggedIn is the cookie that Login gives.
func loggedIn(t *testing.T, g *rig, r *http.Request, token, name string) *http.Cookie {
	t.Helper()
	w := httptest.NewRecorder()
	if err := g.Login(w, r, token, name); err != nil {
		t.Fatal(err)
	}
	cookies := w.Result().Cookies()
	if len(cookies) != 1 {
		t.Fatal(cookies)
	}
	return cookies[0]
}

func TestLogin(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g, replica := newRig(t, ""), newRig(t, "")
		for token, right := range map[string]operator.Right{actToken: operator.MayAct, lookToken: operator.MayLook} {
			c := loggedIn(t, g, asked(), token, " Zoë; =, ")
			if !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.MaxAge != 12*60*60 || c.Path != "/" || strings.Contains(c.Value, token) {
				t.Errorf("%+v", c)
			}
			who, err := replica.Caller(asked("Cookie", c.String()))
			if who != (operator.Caller{Name: "Zoë; =,", Right: right}) || err != nil {
				t.Error(who, err)
			}
			for i := range c.Value { // whatever is changed in it
				changed := []byte(c.Value)
				changed[i] ^= 1
				if who, err := replica.Caller(asked("Cookie", cookieName+"="+string(changed))); !errors.Is(err, ErrNone) {
					t.Fatal(i, who, err)
				}
			}
		}
		acts, looks := loggedIn(t, g, asked(), actToken, "ann"), loggedIn(t, g, asked(), lookToken, "bob")
		g.acts = "another-token"
		if _, err := g.Caller(asked("Cookie", acts.String())); !errors.Is(err, ErrNone) {
			t.Error("after the rotation", err)
		}
		if who, err := g.Caller(asked("Cookie", looks.String())); err != nil {
			t.Error("the other token was rotated", who, err)
		}
		<-time.After(cookieLasts - time.Second) // of the bubble's clock
		if _, err := g.Caller(asked("Cookie", looks.String())); err != nil {
			t.Error("a second before its end", err)
		}
		<-time.After(time.Second)
		if _, err := g.Caller(asked("Cookie", looks.String())); !errors.Is(err, ErrNone) {
			t.Error("at its end", err)
		}
	})
}

// TestCookieOfAnotherRight: a cookie of ADMIN_READ_TOKEN that says that it acts does not act.
func TestCookieOfAnotherRight(t *testing.T) {
	t.Parallel()
	forged := login{"eve", operator.MayAct, time.Now().Add(time.Hour).Unix()}.seal(lookToken)
	if who, err := newRig(t, "").Caller(asked("Cookie", cookieName+"="+forged)); !errors.Is(err, ErrNone) {
		t.Error(who, err)
	}
}

func TestLoginRefused(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]error{"": ErrName, " ": ErrName, "a\nb": ErrName, "a\u202eb": ErrName, "\xff": ErrName, strings.Repeat("é", 101): ErrName,
		strings.Repeat("é", 100): ErrWrong, "ann": ErrWrong} {
		g, w := newRig(t, ""), httptest.NewRecorder()
		if err := g.Login(w, asked(), "wrong", name); !errors.Is(err, want) || len(w.Result().Cookies()) > 0 {
			t.Errorf("%q: %v, %v", name, err, w.Result().Cookies())
		}
	}
}

func TestCookieIsSecure(t *testing.T) {
	t.Parallel()
	g := newRig(t, "")
	for host, secure := range map[string]bool{"localhost:8080": false, "127.0.0.1": false, "127.8.8.8:1": false, "[::1]:8080": false, "[::1]": false,
		"worker.localhost": false, "worker.example": true, "10.0.0.1:8080": true, "localhost.example": true, "": true} {
		r := asked()
		r.Host = host
		if c := loggedIn(t, g, r, actToken, "ann"); c.Secure != secure {
			t.Errorf("%s: %v", host, c)
		}
	}
}

func TestLogout(t *testing.T) {
	t.Parallel()
	w := httptest.NewRecorder()
	newRig(t, "").Logout(w, asked())
	if c := w.Result().Cookies()[0]; c.Name != cookieName || c.MaxAge >= 0 || c.Value != "" {
		t.Error(c)
	}
}

// TestWrongTokens: an address that guesses is slowed down, whichever way it guesses, and no other is. What is wrong is
// counted, and logged with the address, never with the token.
func TestWrongTokens(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, "10.0.0.7")
		guess := func(r *http.Request) error {
			r.Header.Set("Authorization", "Bearer a-guess")
			_, err := g.Caller(r)
			return err
		}
		for range wrongMost - 1 {
			if err := guess(from("2001:db8::1")); !errors.Is(err, ErrWrong) {
				t.Fatal(err)
			}
		}
		if err := g.Login(httptest.NewRecorder(), from("2001:db8::2"), "a-guess", "ann"); !errors.Is(err, ErrWrong) {
			t.Fatal(err)
		}
		if err := guess(from("2001:db8::3")); !errors.Is(err, ErrSlowDown) { // the same network
			t.Fatal(err)
		}
		if err := g.Login(httptest.NewRecorder(), from("2001:db8::1"), actToken, "ann"); err != nil {
			t.Error("a right token is not refused for others' wrong ones", err)
		}
		for _, r := range []*http.Request{from("2001:db8::1"), from("2001:db8:0:1::1"), from("192.0.2.1"), from("10.0.0.7", "X-Forwarded-For", "2001:db8::1, 192.0.2.9")} {
			r.Header.Set("Authorization", "Bearer "+actToken)
			if _, err := g.Caller(r); err != nil {
				t.Error(r.RemoteAddr, err)
			}
		}
		if err := guess(from("10.0.0.7", "X-Forwarded-For", "192.0.2.9, 2001:db8::1")); !errors.Is(err, ErrSlowDown) {
			t.Error("the address that the proxy names", err)
		}
		cookie := loggedIn(t, g, from("192.0.2.1"), actToken, "ann")
		if _, err := g.Caller(from("2001:db8::1", "Cookie", cookie.String())); err != nil {
			t.Error("a cookie is no guess", err)
		}
		<-time.After(RetryAfter) // of the bubble's clock
		if err := guess(from("2001:db8::1")); !errors.Is(err, ErrWrong) {
			t.Error(err)
		}
		if err := guess(from("2001:db8::1")); !errors.Is(err, ErrSlowDown) {
			t.Error(err)
		}
		if wrong, slowed := g.Counters.Wrong.Load(), g.Counters.Slowed.Load(); wrong != wrongMost+1 || slowed != 3 {
			t.Error(wrong, slowed)
		}
		if log := g.log.String(); strings.Contains(log, "guess") || !strings.Contains(log, "address=2001:db8::1 ") || !strings.Contains(log, "a wrong token was refused") {
			t.Error(log)
		}
	})
}

// TestRightTokensCostNothing: who has the token is never slowed down.
func TestRightTokensCostNothing(t *testing.T) {
	t.Parallel()
	g := newRig(t, "")
	for range 10 * wrongMost {
		if _, err := g.Caller(asked("Authorization", "Bearer "+lookToken)); err != nil {
			t.Fatal(err)
		}
	}
	if len(g.tries.from) != 0 {
		t.Error(g.tries.from)
	}
}

// TestManyAddresses: the memory of wrong tokens is bounded, and who guessed last is not forgotten for those before.
func TestManyAddresses(t *testing.T) {
	t.Parallel()
	var all tries
	now := time.Now()
	network := func(i int) netip.Addr {
		return netip.AddrFrom16([16]byte{0x20, 0x01, byte(i >> 16), byte(i >> 8), byte(i)})
	}
	for i := range 3 * addressesMost {
		all.wrong(network(i), now)
		if len(all.from) > addressesMost {
			t.Fatal(len(all.from))
		}
	}
	later := now.Add(RetryAfter)
	all.wrong(network(1<<20), later)
	for i := range addressesMost - 2 {
		all.wrong(network(1<<20+1+i), later)
	}
	if all.from[whose(network(1<<20))].n == 0 {
		t.Error("it was forgotten, although others had all their tries again")
	}
}

func TestProtect(t *testing.T) {
	t.Parallel()
	g := newRig(t, "")
	h := g.Protect(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }))
	for name, c := range map[string]struct {
		method  string
		headers []string
		want    int
	}{
		"a page is shown":       {http.MethodGet, nil, http.StatusTeapot},
		"a link from elsewhere": {http.MethodGet, []string{"Sec-Fetch-Site", "cross-site"}, http.StatusTeapot},
		"a program acts":        {http.MethodPost, nil, http.StatusTeapot},
		"its own page acts":     {http.MethodPost, []string{"Sec-Fetch-Site", "same-origin", "Origin", "http://localhost"}, http.StatusTeapot},
		"under plain http":      {http.MethodPost, []string{"Origin", "http://localhost"}, http.StatusTeapot},
		"another site acts":     {http.MethodPost, []string{"Sec-Fetch-Site", "cross-site"}, http.StatusForbidden},
		"a neighbour acts":      {http.MethodPost, []string{"Sec-Fetch-Site", "same-site"}, http.StatusForbidden},
		"another origin":        {http.MethodPost, []string{"Origin", "http://elsewhere.example"}, http.StatusForbidden},
		"no origin at all":      {http.MethodPost, []string{"Origin", "null"}, http.StatusForbidden},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := httptest.NewRequest(c.method, "http://localhost/", nil)
			for i := 0; i < len(c.headers); i += 2 {
				r.Header.Set(c.headers[i], c.headers[i+1])
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code != c.want {
				t.Error(w.Code, w.Body)
			}
			for header, want := range map[string]string{"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store"} {
				if got := w.Header().Get(header); got != want {
					t.Errorf("%s: %q", header, got)
				}
			}
		})
	}
}

func TestParseProxies(t *testing.T) {
	t.Parallel()
	for list, want := range map[string]string{"": "[]", " 10.0.0.7 ,": "[10.0.0.7/32]", "10.1.2.3/16": "[10.1.0.0/16]", "::1, fd00::/8": "[::1/128 fd00::/8]",
		"::ffff:10.0.0.7": "[10.0.0.7/32]", "::ffff:10.1.0.0/112": "[10.1.0.0/16]"} {
		if got, err := ParseProxies(list); err != nil || fmt.Sprint(got) != want {
			t.Errorf("%q: %v, %v", list, got, err)
		}
	}
	for _, list := range []string{"hunter2", "10.0.0.0/33", "10.0.0.7;10.0.0.8", "0.0.0.0/0", "::/0", "::ffff:0.0.0.0/96", "10.0.0.7:80"} {
		if got, err := ParseProxies(list); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v, %v", list, got, err)
		}
	}
}
