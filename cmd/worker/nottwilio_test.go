package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"flexworker/internal/outbox/gate"
	"flexworker/internal/testing/expect"
)

// TestNotTwilio: the way to Flex leads to something that is not Twilio, from the start or from
// some moment on. The replica stops after a few calls. No request is refused for good by an
// answer that anybody may have given, and when the address is put right each is created once.
func TestNotTwilio(t *testing.T) {
	t.Parallel()
	for name, stranger := range map[string]struct {
		status     int
		kind, body string
		// forPerson: Flex may have answered so, and only a person can tell.
		forPerson bool
	}{
		"404 in HTML":                  {404, "text/html", "<html><h1>404 Not Found</h1><hr>nginx</html>", false},
		"404 in JSON of its own":       {404, "application/json", `{"error":"not found","code":404}`, false},
		"404 in the form of a gateway": {404, "application/json", `{"message":"no Route matched with those values","request_id":"6e1a"}`, false},
		"400 in JSON of its own":       {400, "application/json", `{"status":400,"error":"Bad Request","path":"/v1/Interactions"}`, false},
		"401 of a proxy":               {401, "text/plain", "who are you?", false},
		"403":                          {403, "application/json", `{"message":"Forbidden"}`, false},
		"429":                          {429, "text/html", "<html>429 Too Many Requests</html>", false},
		"200 with another body":        {200, "application/json", `{"ok":true}`, true},
		"200 in HTML":                  {200, "text/html", "<html>Welcome to nginx!</html>", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			in := r.read()
			flex, err := url.Parse(r.flex.URL())
			if err != nil {
				t.Fatal(err)
			}
			var strange atomic.Bool
			through := httputil.NewSingleHostReverseProxy(flex)
			way := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
				if !strange.Load() {
					through.ServeHTTP(w, q)
					return
				}
				_, _ = io.Copy(io.Discard, q.Body)
				w.Header().Set("Content-Type", stranger.kind)
				if stranger.status == 429 {
					w.Header().Set("Retry-After", "3600")
				}
				w.WriteHeader(stranger.status)
				_, _ = io.WriteString(w, stranger.body)
			}))
			t.Cleanup(way.Close)
			cfg := r.unhurried()
			cfg.FlexURL, cfg.FlexConcurrency = way.URL, 4
			w := r.start(cfg)
			r.send("good", 0, 5)
			expect.Eventually(t, func() error { return expect.Is("final results", in.ended(), 5) })
			strange.Store(true)
			r.send("lost", 0, 30)
			r.says(cfg.AdminAddr, string(gate.WordUnreachable), 503)
			if n := r.count(`SELECT count(*) FROM outbox WHERE settled_at IS NOT NULL`); n != 5 {
				t.Errorf("%d are settled by the word of a stranger: %s", n-5, r.states())
			}
			w.stop()
			w.wait()
			// All that was in flight when it said so is recorded now.
			met := r.count(`SELECT count(DISTINCT outbox_id) FROM outbox_attempts WHERE outcome = 'uncertain'`)
			if met == 0 || met > 12 { // five in a row, with four in flight, and what one more try each costs
				t.Errorf("%d requests met the stranger: %s", met, r.states())
			}
			// One that starts so takes nothing.
			w = r.start(cfg)
			r.says(cfg.AdminAddr, string(gate.WordUnreachable), 503)
			w.stop()
			w.wait()
			if n := r.count(`SELECT count(DISTINCT outbox_id) FROM outbox_attempts WHERE outcome = 'uncertain'`); n > met+1 {
				t.Errorf("a replica that starts on a wrong way costs %d more", n-met)
			}

			r.start(r.unhurried())
			expect.Eventually(t, func() error {
				waits := r.count(`SELECT count(*) FROM outbox WHERE state = 'uncertain' AND for_person_since IS NOT NULL`)
				return expect.Is("final results", in.ended(), 35-waits)
			})
			if twice := r.flex.Duplicates(); len(twice) > 0 {
				t.Errorf("created more than once: %v", twice)
			}
			waits := r.count(`SELECT count(*) FROM outbox WHERE state = 'uncertain'`)
			if waits > 0 && !stranger.forPerson || waits > met {
				t.Errorf("%d wait for a person: %s", waits, r.states())
			}
			if n := r.count(`SELECT count(*) FROM outbox WHERE state = 'created'`); n != 35-waits {
				t.Errorf("%d are created, want %d: %s", n, 35-waits, r.states())
			}
		})
	}
}

// TestWrongPathAtTwilio: FLEX_URL leads to Twilio, at a path that Twilio does not know. What Twilio
// says of the path is no word about a request: the replica stops, no request is rejected or loses
// an attempt, and when the address is put right each is created once. The reads by which the replica
// asks cannot tell: until an interaction is created it is not ready.
func TestWrongPathAtTwilio(t *testing.T) {
	t.Parallel()
	for name, wrong := range map[string]func(w http.ResponseWriter, q *http.Request, through http.Handler){
		"a path too much": func(w http.ResponseWriter, q *http.Request, through http.Handler) {
			q.URL.Path = "/v1" + q.URL.Path
			through.ServeHTTP(w, q)
		},
		"another host of Twilio's": func(w http.ResponseWriter, q *http.Request, _ http.Handler) {
			w.WriteHeader(404)
			_, _ = io.WriteString(w, `{"code":20404,"message":"The requested resource `+q.URL.Path+` was not found","more_info":"https://www.twilio.com/docs/errors/20404","status":404}`)
		},
		"a path that is only read": func(w http.ResponseWriter, q *http.Request, through http.Handler) {
			if q.Method != http.MethodPost {
				through.ServeHTTP(w, q)
				return
			}
			w.WriteHeader(405)
			_, _ = io.WriteString(w, `{"code":20004,"message":"Method not allowed","more_info":"https://www.twilio.com/docs/errors/20004","status":405}`)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			in := r.read()
			flex, err := url.Parse(r.flex.URL())
			if err != nil {
				t.Fatal(err)
			}
			var astray atomic.Bool
			var posts atomic.Int64
			through := httputil.NewSingleHostReverseProxy(flex)
			way := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
				if !astray.Load() {
					through.ServeHTTP(w, q)
					return
				}
				if q.Method == http.MethodPost {
					posts.Add(1)
				}
				wrong(w, q, through)
			}))
			t.Cleanup(way.Close)
			cfg := r.unhurried()
			cfg.FlexURL, cfg.FlexConcurrency = way.URL, 4
			w := r.start(cfg)
			r.send("good", 0, 5)
			expect.Eventually(t, func() error { return expect.Is("final results", in.ended(), 5) })
			astray.Store(true)
			r.send("lost", 0, 30)
			r.says(cfg.AdminAddr, string(gate.WordUnreachable), 503)
			// It asks, tries one call after each good read, and says all the while that it is not ready.
			stop := r.watch(cfg.AdminAddr, string(gate.WordUnreachable)+" 503")
			before := posts.Load()
			expect.Eventually(t, func() error {
				if posts.Load() < before+2 {
					return errors.New("it does not try again")
				}
				return nil
			})
			asked, other := stop()
			ready := slices.ContainsFunc(other, func(said string) bool { return strings.Contains(said, fmt.Sprint(" ", http.StatusOK, " ")) })
			if asked == 0 || ready || len(other) > 2+asked/10 { // a busy machine answers late now and then
				t.Errorf("of %d times it said %q", asked, other)
			}
			if n := r.count(`SELECT count(*) FROM outbox WHERE settled_at IS NOT NULL`); n != 5 {
				t.Errorf("%d are settled by what Twilio says of a path: %s", n-5, r.states())
			}
			if n := r.count(`SELECT count(*) FROM outbox WHERE state = 'uncertain' OR attempt - uncounted > 0 AND state = 'pending'`); n != 0 {
				t.Errorf("%d lost an attempt: %s", n, r.states())
			}
			const says = "FLEX_URL leads to a path that Twilio does not know: "
			var reason string
			expect.Eventually(t, func() error { // a replica writes its row now and then
				return r.pool.QueryRow(t.Context(), `SELECT reason FROM outbox_replicas WHERE state = 'unreachable'`).Scan(&reason)
			})
			told := r.text(`SELECT error_message FROM outbox WHERE state = 'pending' AND error_message IS NOT NULL ORDER BY id LIMIT 1`)
			if !strings.HasPrefix(reason, says) || !strings.HasPrefix(told, says) {
				t.Errorf("the fleet shows %q, a request %q", reason, told)
			}
			w.stop()
			w.wait()

			r.start(r.unhurried())
			expect.Eventually(t, func() error { return expect.Is("final results", in.ended(), 35) })
			in.balanced(35)
			if twice := r.flex.Duplicates(); len(twice) > 0 {
				t.Errorf("created more than once: %v", twice)
			}
			if n := r.count(`SELECT count(*) FROM outbox WHERE state = 'created' AND attempt - uncounted = 1`); n != 35 {
				t.Errorf("%d were created by one counted attempt: %s", n, r.states())
			}
		})
	}
}
