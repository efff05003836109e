package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync/atomic"
	"testing"

	"flexworker/internal/outbox"
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
			cfg := r.config()
			cfg.FlexURL, cfg.FlexConcurrency = way.URL, 4
			w := r.start(cfg)
			r.send("good", 0, 5)
			eventually(t, func() error { return is("final results", len(in.final()), 5) })
			strange.Store(true)
			r.send("lost", 0, 30)
			r.says(cfg.AdminAddr, string(outbox.WordUnreachable), 503)
			if n := r.count(`SELECT count(*) FROM outbox WHERE settled_at IS NOT NULL`); n != 5 {
				t.Errorf("%d are settled by the word of a stranger: %s", n-5, r.states())
			}
			met := r.count(`SELECT count(DISTINCT outbox_id) FROM outbox_attempts WHERE outcome = 'uncertain'`)
			if met == 0 || met > 12 { // five in a row, with four in flight, and what one more try each costs
				t.Errorf("%d requests met the stranger: %s", met, r.states())
			}
			w.stop()
			w.wait()
			// One that starts so takes nothing.
			w = r.start(cfg)
			r.says(cfg.AdminAddr, string(outbox.WordUnreachable), 503)
			w.stop()
			w.wait()
			if n := r.count(`SELECT count(DISTINCT outbox_id) FROM outbox_attempts WHERE outcome = 'uncertain'`); n > met+1 {
				t.Errorf("a replica that starts on a wrong way costs %d more", n-met)
			}

			r.start(r.config())
			eventually(t, func() error {
				waits := r.count(`SELECT count(*) FROM outbox WHERE state = 'uncertain' AND for_person_since IS NOT NULL`)
				return is("final results", len(in.final()), 35-waits)
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
