package api

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"flexworker/internal/flex"
	"flexworker/internal/testing/pgtest"
)

// TestEveryRoute: each route does what it says, in an answer that the document allows.
func TestEveryRoute(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	for _, id := range []string{"r-1", "r-2", "r-3", "a/b c?"} {
		g.add(t, id, "crm", plain, keyed)
	}
	pgtest.Exec(t, g.pool, `INSERT INTO outbox_replicas (name, version, state, account, lookup_attribute, lookup_settle, flex_timeout, flex_rate, uncertain_policy, retention)
		VALUES ('w1', 'v1', 'ok', 'AC1', 'x', '1 minute', '15 seconds', 10, 'hold', '720 hours'), ('w2', 'v1', 'unauthorized', 'AC2', 'x', '1 minute', '15 seconds', 10, 'hold', '720 hours')`)
	pgtest.Exec(t, g.pool, `INSERT INTO outbox_malformed (kind, stream, stream_sequence, stream_time, subject, source, headers, raw, error)
		VALUES ('malformed', 'REQUESTS', 9007199254740993, now(), 'interactions.requests.crm', 'crm', '{}', '\x00ff', 'not JSON')`)

	g.get(t, "/gate").has(t, "ok", "state")
	if fleet := g.get(t, "/fleet"); fleet.code != 200 || len(fleet.body["differences"].([]any)) != 1 {
		t.Error(fleet.text)
	}
	g.get(t, "/backlog").has(t, "[map[oldest_seconds:1.5 requests:2 state:pending]]", "backlog")
	if list := g.get(t, "/malformed"); !strings.Contains(list.text, `"stream_sequence":"9007199254740993"`) {
		t.Error(list.text)
	}
	if doc := g.get(t, "/openapi.yaml"); doc.code != 200 || doc.text != string(document) {
		t.Error(doc.code)
	}

	first := g.get(t, "/requests?limit=3")
	next, _ := first.body["next"].(string)
	rest := g.get(t, "/requests?limit=3&cursor="+url.QueryEscape(next))
	if n := len(first.body["requests"].([]any)); n != 3 || next == "" || len(rest.body["requests"].([]any)) != 1 || rest.body["next"] != nil {
		t.Error(first.text, rest.text)
	}
	if list := g.get(t, "/requests?state=created&source=crm&error_kind=x&http_status=400&twilio_code=20001&for_person=true&older_than=1h&settled_within=1h"+
		"&received_after=2026-01-01T00:00:00Z&received_before=2026-01-02T00:00:00%2B01:00"); list.code != 200 || len(list.body["requests"].([]any)) != 0 {
		t.Error(list.text)
	}
	escaped := "/requests/" + url.PathEscape("a/b c?")
	g.get(t, escaped).has(t, "a/b c?", "request_id")
	g.get(t, escaped+"/explain").has(t, "a/b c?", "request_id")
	if one := g.get(t, "/requests/r-1"); !strings.Contains(one.text, `"stream_sequence":"1152921504606846976"`) || !strings.Contains(one.text, `"choices":[{"act":"cancel","unverified":false,"becomes":"It is cancelled."}]`) {
		t.Error(one.text)
	}

	why := object{"why": "a test"}
	held := g.post(t, "/gate/hold", why)
	held.has(t, "ok", "before", "state")
	held.has(t, "held", "after", "state")
	pgtest.Exec(t, g.pool, `UPDATE outbox_replicas SET seen_at = clock_timestamp()`) // so that they live, however long that took
	if list := g.get(t, "/attention"); list.body["waiting"] != 2.0 || !strings.Contains(list.text, "worker release") {
		t.Error(list.text)
	}
	g.post(t, "/gate/release", why).has(t, "ok", "after", "state")

	cancelled := g.post(t, escaped+"/cancel", why)
	cancelled.has(t, "cancelled", "request", "state")
	cancelled.has(t, "cancelled", "becomes")
	if again := g.tag(t, url.PathEscape("a/b c?")); again != cancelled.header.Get("ETag") {
		t.Errorf("%s after %s", again, cancelled.header.Get("ETag"))
	}
	g.abandoned(t, "r-1")
	g.post(t, "/requests/r-1/republish", why).has(t, "published again", "becomes")
	g.post(t, "/requests/r-1/retry", object{"why": "a test", "unverified": true}, "If-Match", g.tag(t, "r-1")).has(t, "pending", "request", "state")

	g.uncertain(t, "r-2")
	g.uncertain(t, "r-3")
	g.post(t, "/requests/r-2/lookup", why).has(t, "looked up now", "becomes")
	g.flex.fetched = flex.Outcome{Kind: flex.Created, InteractionSID: sidA, TaskSID: "WT1", Response: []byte(`{}`)}
	resolved := g.post(t, "/requests/r-2/resolve", object{"why": "seen in Flex", "created": sidA}, "If-Match", g.tag(t, "r-2"))
	resolved.has(t, "created", "request", "state")
	resolved.has(t, "[Flex shows "+sidA+", task WT1. Its task shows no interaction_request: compare customer and channel.]", "said")
	g.post(t, "/requests/r-3/resolve", object{"why": "not in Flex", "absent": true, "unverified": true}, "If-Match", g.tag(t, "r-3")).has(t, "pending", "request", "state")

	many := object{"act": "cancel", "filter": object{"state": "pending", "source": "crm"}}
	preview := g.post(t, "/acts:preview", many)
	preview.has(t, 2, "would_change")
	many["why"], many["token"] = "a test", preview.body["token"]
	done := g.post(t, "/acts", many)
	done.has(t, 2, "changed")
	done.has(t, "[r-1 r-3]", "first")

	acts := g.get(t, "/acts")
	const want = "hold by ADMIN_TOKEN from 192.0.2.1; release by ADMIN_TOKEN from 192.0.2.1; cancel a/b c? by ADMIN_TOKEN from 192.0.2.1; " +
		"republish r-1 by ADMIN_TOKEN from 192.0.2.1; retry r-1 by ADMIN_TOKEN from 192.0.2.1; lookup r-2 by ADMIN_TOKEN from 192.0.2.1; " +
		"resolve created r-2 by ADMIN_TOKEN from 192.0.2.1; resolve absent r-3 by ADMIN_TOKEN from 192.0.2.1; " +
		"cancel r-1 by ADMIN_TOKEN from 192.0.2.1; cancel r-3 by ADMIN_TOKEN from 192.0.2.1"
	if got := g.recorded(t); got != want || len(acts.body["acts"].([]any)) != 10 {
		t.Error(got, acts.text)
	}
	for line := range strings.Lines(g.log.String()) { // nothing is logged but who read a payload
		if !strings.Contains(line, `level=INFO msg="a payload was shown" who="ADMIN_READ_TOKEN from 192.0.2.1" request_id=`) {
			t.Error(line)
		}
	}
}

// TestNumbersAsTheyCame: a payload comes back number for number, and key for key.
func TestNumbersAsTheyCame(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	const payload = `{"channel":{"type":"sms","n":[1e2,1.50,12345678901234567890,-0,1E-7]},"b":"<&>\u00e9","a":1,"slash":"\/","x":"é "}`
	g.add(t, "r", "crm", payload)
	if one := g.get(t, "/requests/r"); !strings.Contains(one.text, `"request":`+payload) {
		t.Error(one.text)
	}
}

// TestHead: HEAD is GET without the body.
func TestHead(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	g.add(t, "r", "crm", plain)
	server := httptestServer(t, g.http)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodHead, server+Prefix+"/requests/r", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+lookToken)
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != 200 || answer.Header.Get("ETag") != `"1-0-pending-0-0"` {
		t.Error(answer)
	}
}

// TestEveryProblem: each kind of problem, as callers meet it.
func TestEveryProblem(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	for _, id := range []string{"pending", "sure", "lookups", "old", "locked", "given"} {
		g.add(t, id, "crm", plain, keyed)
	}
	for _, id := range []string{"sure", "lookups", "old"} {
		g.uncertain(t, id)
	}
	pgtest.Exec(t, g.pool, `UPDATE outbox SET for_person_since = NULL WHERE request_id = 'lookups'`)
	why := object{"why": "a test"}
	resolve := func(id string, body object) answer {
		body["why"] = "a test"
		return g.post(t, "/requests/"+id+"/resolve", body, "If-Match", g.tag(t, id))
	}
	task := flex.Task{TaskSID: "WT1", InteractionSID: sidA, Key: flex.LookupKey("sure"), DateCreated: time.Now()}
	seen := map[string]bool{}
	for kind, provoke := range map[string]func() answer{
		"off": func() answer {
			g.acts = ""
			defer func() { g.acts = actToken }()
			return g.get(t, "/gate")
		},
		"no-credential":    func() answer { return g.send(t, as(http.MethodGet, "/gate", nil)) },
		"wrong-credential": func() answer { return g.send(t, as(http.MethodGet, "/gate", nil, "Authorization", "Bearer x")) },
		"slow-down": func() (a answer) {
			for range 11 {
				r := as(http.MethodGet, "/gate", nil, "Authorization", "Bearer x")
				r.RemoteAddr = "192.0.2.99:1"
				a = g.send(t, r)
			}
			return a
		},
		"cross-origin": func() answer { return g.post(t, "/gate/hold", why, "Sec-Fetch-Site", "cross-site") },
		"forbidden": func() answer {
			return g.send(t, as(http.MethodPost, "/gate/hold", why, "Authorization", "Bearer "+lookToken))
		},
		"no-route": func() answer { return g.get(t, "/request") },
		"method":   func() answer { return g.post(t, "/gate", why) },
		"media-type": func() answer {
			return g.post(t, "/gate/hold", "why=x", "Content-Type", "application/x-www-form-urlencoded")
		},
		"too-large":       func() answer { return g.post(t, "/gate/hold", object{"why": strings.Repeat("x", bodyMost)}) },
		"invalid":         func() answer { return g.post(t, "/gate/hold", object{}) },
		"unknown-request": func() answer { return g.post(t, "/requests/nobody/cancel", why) },
		"tag-wanted":      func() answer { return g.post(t, "/requests/sure/resolve", object{"why": "x", "absent": true}) },
		"stale":           func() answer { return g.post(t, "/requests/pending/cancel", why, "If-Match", `"1-1-uncertain-0-0"`) },
		"not-allowed":     func() answer { return g.post(t, "/requests/pending/lookup", why) },
		"looked-up":       func() answer { return resolve("lookups", object{"absent": true}) },
		"exists": func() answer {
			g.flex.tasks = []flex.Task{task}
			defer func() { g.flex.tasks = nil }()
			return resolve("sure", object{"absent": true})
		},
		"unproved":  func() answer { return resolve("sure", object{"absent": true}) },
		"not-shown": func() answer { return resolve("sure", object{"created": sidA}) },
		"not-its": func() answer {
			g.flex.fetched = flex.Outcome{Kind: flex.Created, Response: []byte(`{"routing":{"properties":{"attributes":"{\"interaction_request\":\"` + flex.LookupKey("x") + `\"}"}}}`)}
			defer func() { g.flex.fetched = flex.Outcome{} }()
			return resolve("sure", object{"created": sidA})
		},
		"cannot-ask": func() answer {
			g.flex.err = errCannot
			defer func() { g.flex.err = nil }()
			return resolve("sure", object{"created": sidA})
		},
		"other-preview": func() answer {
			return g.post(t, "/acts", object{"why": "x", "act": "cancel", "filter": object{}, "token": "e30"})
		},
		"locked": func() answer {
			tx, err := g.pool.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = tx.Rollback(t.Context()) }()
			pgtest.Exec(t, tx, `SELECT FROM outbox WHERE request_id = 'locked' FOR UPDATE`)
			return g.post(t, "/requests/locked/cancel", why)
		},
		"key-reused": func() answer {
			g.post(t, "/requests/given/cancel", why, "Idempotency-Key", "k1")
			return g.post(t, "/requests/given/retry", why, "Idempotency-Key", "k1")
		},
		"under-way": func() answer {
			g.takeKey(t, "k2", `0 seconds`)
			return g.post(t, "/requests/given/retry", why, "Idempotency-Key", "k2")
		},
		"interrupted": func() answer {
			g.takeKey(t, "k3", `2 minutes`)
			return g.post(t, "/requests/given/retry", why, "Idempotency-Key", "k3")
		},
		"outcome-unknown": func() answer { return g.away(t).post(t, "/gate/hold", why) },
		"database":        func() answer { return g.away(t).get(t, "/gate") },
		"busy": func() (busy answer) { // while another act on many asks for its connection
			many := object{"act": "cancel", "filter": object{"source": "nobody"}}
			token := g.post(t, "/acts:preview", many).body["token"]
			many["why"], many["token"] = "x", token
			var other *rig
			asking := false
			other = g.otherwise(t, func(config *pgxpool.Config) {
				config.PrepareConn = func(context.Context, *pgx.Conn) (bool, error) {
					if !asking {
						asking = true
						busy = other.post(t, "/acts", many)
					}
					return true, nil
				}
			})
			other.post(t, "/acts", many).is(t, http.StatusOK, "")
			return busy
		},
		"too-slow": func() answer {
			slow := newRig(t)
			slow.post(t, "/gate/hold", why)
			pgtest.Exec(t, slow.pool, `ALTER TABLE outbox_acts RENAME TO acts; CREATE VIEW outbox_acts AS SELECT a.* FROM acts a, pg_sleep(60)`)
			return slow.otherwise(t, func(config *pgxpool.Config) { config.ConnConfig.RuntimeParams["statement_timeout"] = "50ms" }).get(t, "/acts")
		},
		"not-counted": func() answer {
			g.counted = time.Time{}
			return g.get(t, "/backlog")
		},
		"internal": func() answer {
			g.takeKey(t, "k4", `0 seconds`)
			pgtest.Exec(t, g.pool, `UPDATE outbox_idempotency_keys SET answer = 'nonsense' WHERE key = 'k4'`)
			return g.post(t, "/requests/given/retry", why, "Idempotency-Key", "k4")
		},
	} {
		got := provoke()
		if got.kind() != kind || got.code != kinds[kind].status || got.header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: %d %s", kind, got.code, got.text)
		}
		seen[kind] = true
	}
	for kind := range kinds {
		if !seen[kind] {
			t.Errorf("nobody has met %s", kind)
		}
	}
	if got := g.recorded(t); got != "cancel given by ADMIN_TOKEN from 192.0.2.1" {
		t.Error(got)
	}
	if strings.Contains(g.log.String(), "Bearer") || strings.Contains(g.log.String(), actToken) {
		t.Error(g.log.String())
	}
}

// TestAllFaultsAtOnce: nothing that was sent is obeyed in part, or passed over in silence.
func TestAllFaultsAtOnce(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	for name, c := range map[string]struct {
		path string
		body any // nil: GET
		want string
	}{
		"no JSON":         {"/gate/hold", `{`, ": not JSON at byte 1: unexpected end of JSON input"},
		"no object":       {"/gate/hold", `[]`, ": is no object"},
		"null":            {"/gate/hold", `null`, ": is no object"},
		"no body":         {"/gate/hold", ``, ": not JSON at byte 0: unexpected end of JSON input"},
		"a key twice":     {"/gate/hold", `{"why":"a","why":"b"}`, "why: "},
		"NUL and half":    {"/gate/hold", `{"why":"\u0000","x":"\ud800"}`, "why: ; x: "},
		"a blank reason":  {"/gate/hold", object{"why": " \n"}, "why: is required"},
		"dots":            {"/gate/hold", object{"why": "..."}, "why: an act wants to know who does it and why: both are recorded"},
		"a long reason":   {"/gate/hold", object{"why": strings.Repeat("x", 2001)}, "why: may have 2000 characters"},
		"no reason":       {"/gate/hold", object{"why": nil}, "why: must not be null: leave it out"},
		"all, or none":    {"/acts:preview", object{"act": "cancel", "filter": object{"request_ids": nil}}, "filter.request_ids: must not be null: leave it out"},
		"a number as why": {"/gate/hold", object{"why": 1}, "why: must be a string"},
		"unknown":         {"/gate/release", object{"why": "x", "who": "me", "Why": "x"}, "Why: is not known here; who: is not known here"},
		"retry":           {"/requests/r/retry", object{"unverified": "yes", "attempt": 1}, "unverified: must be true or false; why: is required; attempt: is not known here"},
		"resolve":         {"/requests/r/resolve", object{"why": "x"}, `: says either "created" with the sid of the interaction, or "absent": true`},
		"resolve, both":   {"/requests/r/resolve", object{"why": "x", "created": sidA, "absent": true}, `: says either "created" with the sid of the interaction, or "absent": true`},
		"resolve, a sid":  {"/requests/r/resolve", object{"why": "x", "created": "KD12"}, "created: must be KD and 32 hexadecimal digits"},
		"preview":         {"/acts:preview", object{"why": "x"}, "act: is required; filter: is required; why: is not known here"},
		"acts": {"/acts", object{"act": "resolve", "unverified": true, "filter": object{"request_ids": object{}, "state": "gone", "source": 1, "http_status": 99, "twilio_code": 1.5, "for_person": 1,
			"older_than": "3 days", "received_after": "yesterday", "limit": 0, "cursor": "x"}},
			"why: is required; act: must be one of retry, cancel, lookup, republish; unverified: is for a retry alone; filter.state: must be one of pending, sending, uncertain, created, rejected, abandoned, expired, cancelled; " +
				"filter.source: must be a string; filter.http_status: must be a whole number from 100 to 599; filter.twilio_code: must be a whole number from 1 to 2147483647; filter.for_person: must be true or false; " +
				"filter.older_than: must be a duration such as \"90m\" or \"12h\"; filter.received_after: must be a time such as \"2026-11-22T09:00:00Z\"; filter.limit: must be a whole number from 1 to 1000; " +
				"filter.request_ids: must be an array of strings; filter.cursor: is not known here; token: is required"},
		"a list":      {"/requests?state=gone&limit=ten&cursor=a&cursor=b&request_ids=x&for_person=1x", nil, "cursor: stands twice; state: must be one of pending, sending, uncertain, created, rejected, abandoned, expired, cancelled; for_person: must be true or false; limit: must be a whole number from 1 to 1000; request_ids: is not known here"},
		"no UTF-8":    {"/requests?source=%ff", nil, "source: is not UTF-8 text without NUL"},
		"NUL":         {"/requests?source=%00", nil, "source: is not UTF-8 text without NUL"},
		"no query":    {"/requests?%zz", nil, ": is no query that can be read"},
		"no cursor":   {"/acts?cursor=x", nil, "cursor: this is no cursor of this list"},
		"another's":   {"/malformed?cursor=" + "YWN0cy4x", nil, "cursor: this is no cursor of this list"},
		"a cursor":    {"/requests?cursor=x", nil, "cursor: this is no cursor of this list"},
		"not a param": {"/gate?verbose=1", nil, "verbose: is not known here"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := g.get(t, c.path)
			if c.body != nil {
				got = g.post(t, c.path, c.body)
			}
			got.is(t, http.StatusBadRequest, "invalid")
			var faults []string
			list, _ := got.body["faults"].([]any)
			for _, f := range list {
				fault := f.(map[string]any)
				faults = append(faults, fault["path"].(string)+": "+fault["problem"].(string))
			}
			want := strings.Split(c.want, "; ")
			if !slices.EqualFunc(faults, want, func(f, w string) bool { return f == w || strings.HasSuffix(w, ": ") && strings.HasPrefix(f, w) }) {
				t.Errorf("%q, want %q", faults, want)
			}
		})
	}
	if got := g.recorded(t); got != "" {
		t.Error(got)
	}
	for name, header := range map[string][2]string{"a key": {"Idempotency-Key", strings.Repeat("x", 256)}, "a key of others": {"Idempotency-Key", "é"}, "tags": {"If-Match", `"a", "b"`}, "no tag": {"If-Match", `1-0-pending-0-0`}} {
		if got := g.post(t, "/requests/r/cancel", object{"why": "x"}, header[0], header[1]); got.kind() != "invalid" || !strings.Contains(got.text, header[0]) {
			t.Errorf("%s: %s", name, got.text)
		}
	}
}

// TestDetails: the detail of a problem says more than its title, and all that the error says.
func TestDetails(t *testing.T) {
	t.Parallel()
	for _, s := range sentinels {
		p, known := problemOf(s.err)
		if said := strings.Trim(strings.ToLower(p.Detail), ". "); !known || said == "" || said == strings.ToLower(p.Title) || strings.Contains(said, "outbox: ") {
			t.Errorf("%v: %+v", s.err, p)
		}
		if p, _ := problemOf(fmt.Errorf("%w: because", s.err)); s.kind != "invalid" && !strings.HasSuffix(p.Detail, ": because") {
			t.Errorf("%v because: %s", s.err, p.Detail)
		}
	}
}

// TestPayloadIsLogged: who reads a payload is written down, as the page does.
func TestPayloadIsLogged(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	g.add(t, "r", "crm", plain)
	g.get(t, "/requests")
	g.get(t, "/requests/r/explain")
	g.get(t, "/requests/nobody")
	g.http.ServeHTTP(httptest.NewRecorder(), as(http.MethodHead, "/requests/r", nil, "Authorization", "Bearer "+lookToken))
	if log := g.log.String(); strings.Contains(log, "payload") {
		t.Error(log)
	}
	g.get(t, "/requests/r")
	if log := g.log.String(); strings.Count(log, `msg="a payload was shown" who="ADMIN_READ_TOKEN from 192.0.2.1" request_id=r`) != 1 {
		t.Error(log)
	}
}
