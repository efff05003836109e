package flextest

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestFaults shows for each fault what a plain client sees, without and with
// the interaction made first, and what the ledger says.
func TestFaults(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		fault         Fault
		failed, after string // seen when it failed, and when it happened all the same
		sent          int    // status line that the server counts
	}{
		{Reset, "reset", "reset", 0},
		{EOF, "EOF", "EOF", 0},
		{Drip, "200 no sid", "200 sid", 200},
		{SlowBody, "200 no sid", "200 sid", 200},
		{Cut, "200 cut", "200 cut", 200},
		{NotJSON, "200 not JSON", "200 not JSON", 200},
		{HTML, "200 html", "200 html", 200},
		{Empty, "204 empty", "204 empty", 204},
		{NoSID, "200 no sid", "200 no sid", 200},
		{BadSID, "200 bad sid", "200 bad sid", 200},
		{Huge, "200 too large", "200 too large", 200},
		{Gzip, "200 gzip no sid", "200 gzip sid", 200},
		{GzipBomb, "200 gzip too large", "200 gzip too large", 200},
		{HugeHeaders, "headers too large", "headers too large", 200},
		{Flood, "headers too large", "headers too large", 200},
		{Status(301), "301 no code", "301 no code", 301},
		{Status(302), "302 no code", "302 no code", 302},
		{Status(307), "307 no code", "307 no code", 307},
		{Status(400), "400 code 20001", "400 code 20001", 400},
		{Status(400).Code(45004), "400 code 45004", "400 code 45004", 400},
		{Status(401), "401 code 20003", "401 code 20003", 401},
		{Status(403), "403 code 20403", "403 code 20403", 403},
		{Status(404), "404 code 20404", "404 code 20404", 404},
		{Status(408), "408 no code", "408 no code", 408},
		{Status(409), "409 code 20409", "409 code 20409", 409},
		{Status(429), "429 code 20429", "429 code 20429", 429},
		{Status(429).Code(0), "429 no code", "429 no code", 429},
		{Status(500), "500 code 20500", "500 code 20500", 500},
		{Status(502).HTML(), "502 html", "502 html", 502},
		{Status(503), "503 code 20503", "503 code 20503", 503},
		{Status(504).HTML(), "504 html", "504 html", 504},
		{Status(403).Foreign(), "403 no code", "403 no code", 403},
		{Status(429).Foreign(), "429 no code", "429 no code", 429},
	} {
		for created, want := range []string{tt.failed, tt.after} {
			fault := tt.fault
			if created == 1 {
				fault = CreateThen(fault)
			}
			t.Run(string(fault), func(t *testing.T) {
				t.Parallel()
				s := New(t, fault)
				s.Set(Settings{Drip: time.Nanosecond})
				got := look(newClient(t).Do(request(t.Context(), t, s.URL()+"/v1/Interactions", formFor(hexA))))
				if got != want {
					t.Errorf("the client saw %q, want %q", got, want)
				}
				calls := s.Calls()
				if calls.Created != created || calls.Received != 1 || calls.Faults != 1 || calls.Answered[tt.sent] != 1 || calls.InFlight != 0 {
					t.Errorf("created %d, calls: %+v", calls.Created, calls)
				}
				if next := create(t, s, formFor(hexB)); next.status != 200 {
					t.Errorf("the call after it: %d %s", next.status, next.body)
				}
			})
		}
	}
}

// TestForeignAnswers: what a gateway answers by itself has no trait of Twilio, whether it
// passed the call on or not; what Twilio answers has.
func TestForeignAnswers(t *testing.T) {
	t.Parallel()
	for fault, twilio := range map[Fault]bool{
		Status(403): true, Status(429).Code(0): true, Status(403).HTML(): false, Status(404).Foreign(): false, HTML: false,
	} {
		for _, fault := range []Fault{fault, CreateThen(fault)} {
			a := create(t, New(t, fault), formFor(hexA))
			header := a.header.Get("Twilio-Request-Id") != "" && a.header.Get("Twilio-Concurrent-Requests") != ""
			body := strings.Contains(a.body, `"status":`)
			if header != twilio || body != twilio {
				t.Errorf("%s: %s, %v", fault, a.body, a.header)
			}
		}
	}
}

func TestHang(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		fault    Fault
		held, on int // created while it hangs, and after Release
	}{
		{Hang, 0, 1},
		{CreateThenHang, 1, 1},
	} {
		// hang makes the call and returns when it hangs.
		hang := func(t *testing.T, s *Server, ctx context.Context) <-chan string {
			seen := make(chan string, 1)
			req := request(ctx, t, s.URL()+"/v1/Interactions", formFor(hexA))
			go func() { seen <- look(newClient(t).Do(req)) }()
			until(t, s, func(c Calls) bool { return c.Hanging == 1 && c.InFlight == 1 && c.Created == tt.held })
			return seen
		}
		t.Run(string(tt.fault)+" released", func(t *testing.T) {
			s := New(t, tt.fault)
			seen := hang(t, s, t.Context())
			s.Release()
			if got := <-seen; got != "200 sid" {
				t.Errorf("the client saw %q", got)
			}
			if n := len(s.Ledger()); n != tt.on {
				t.Errorf("%d created, want %d", n, tt.on)
			}
		})
		t.Run(string(tt.fault)+" given up", func(t *testing.T) {
			s := New(t, tt.fault)
			ctx, cancel := context.WithCancel(t.Context())
			seen := hang(t, s, ctx)
			cancel()
			if got := <-seen; got != "gave up" {
				t.Errorf("the client saw %q", got)
			}
			until(t, s, func(c Calls) bool { return c.Answered[0] == 1 && c.Hanging == 0 })
			s.Release()
			if n := len(s.Ledger()); n != tt.held {
				t.Errorf("%d created, want %d", n, tt.held)
			}
		})
		t.Run(string(tt.fault)+" closed", func(t *testing.T) {
			s := New(t, tt.fault)
			seen := hang(t, s, t.Context())
			s.Close()
			if got := <-seen; got != "EOF" && got != "reset" {
				t.Errorf("the client saw %q", got)
			}
			if n := len(s.Ledger()); n != tt.held {
				t.Errorf("%d created, want %d", n, tt.held)
			}
		})
	}
}

// TestDripStalls: with an hour between two bytes the client sees no end, and
// Close ends it.
func TestDripStalls(t *testing.T) {
	t.Parallel()
	for _, fault := range []Fault{CreateThenDrip, CreateThenSlowBody} {
		s := New(t, fault)
		s.Set(Settings{Drip: time.Hour})
		seen := make(chan string, 1)
		req := request(t.Context(), t, s.URL()+"/v1/Interactions", formFor(hexA))
		go func() { seen <- look(newClient(t).Do(req)) }()
		until(t, s, func(c Calls) bool { return c.Answered[200] == 1 })
		s.Close()
		if got := <-seen; got == "200 sid" {
			t.Errorf("%s: the client saw %q", fault, got)
		}
	}
}

// TestCloseRace: both calls are answered well, but the connection is not what
// it seems for the call that follows.
func TestCloseRace(t *testing.T) {
	t.Parallel()
	t.Run("close", func(t *testing.T) {
		s := New(t, CreateThenClose)
		if got := look(newClient(t).Do(request(t.Context(), t, s.URL()+"/v1/Interactions", formFor(hexA)))); got != "200 sid" {
			t.Errorf("the client saw %q", got)
		}
	})
	t.Run("close-next", func(t *testing.T) {
		s, client := New(t, CreateThenCloseNext), newClient(t)
		var seen []string
		for _, key := range []string{hexA, hexB} {
			seen = append(seen, look(client.Do(request(t.Context(), t, s.URL()+"/v1/Interactions", formFor(key)))))
		}
		if seen[0] != "200 sid" || seen[1] != "EOF" && seen[1] != "reset" {
			t.Errorf("the client saw %q", seen)
		}
		if calls := s.Calls(); calls.Created != 1 || calls.Received != 1 {
			t.Errorf("the second call was read: %+v", calls)
		}
	})
}

func TestCreateTwice(t *testing.T) {
	t.Parallel()
	s := New(t, CreateTwice)
	sid := sidOf(t, create(t, s, formFor(hexA)))
	ledger, twice := s.Ledger(), s.Duplicates()
	if len(ledger) != 2 || ledger[1].InteractionSID != sid || ledger[0].RequestID != ledger[1].RequestID {
		t.Errorf("ledger: %+v", ledger)
	}
	if len(twice) != 1 || twice[0] != hexA {
		t.Errorf("duplicates: %q", twice)
	}
}

func TestRedirectTarget(t *testing.T) {
	t.Parallel()
	s := New(t, Status(307))
	client := newClient(t)
	client.CheckRedirect = nil
	req := request(t.Context(), t, s.URL()+"/v1/Interactions", formFor(hexA))
	body := formFor(hexA).Encode()
	req, err := http.NewRequestWithContext(t.Context(), "POST", req.URL.String(), strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if got := look(client.Do(req)); got != "404 code 20404" {
		t.Errorf("the client saw %q", got)
	}
	if calls, violations := s.Calls(), s.Violations(); calls.Redirected != 1 || len(violations) != 1 {
		t.Errorf("redirected %d, violations %q", calls.Redirected, violations)
	}
	s.ForgetViolations()
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	date := time.Now().Add(time.Hour).UTC().Format(http.TimeFormat)
	for _, text := range []string{"", "30", "3600", date, "-5", "99999999999999999999", "soon"} {
		fault := Status(429)
		if text != "" {
			fault = fault.RetryAfter(text)
		}
		s := New(t, fault)
		if a := create(t, s, formFor(hexA)); a.status != 429 || a.header.Get("Retry-After") != text {
			t.Errorf("%d, Retry-After %q, want %q", a.status, a.header.Get("Retry-After"), text)
		}
	}
}

func TestFaultWords(t *testing.T) {
	t.Parallel()
	for _, bad := range []Fault{"rest", "create-then-", "create-then", "close", "close-next", "200", "600", "503; htm", "429; code=x", "create-then-twice"} {
		if _, err := bad.plan(); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}
