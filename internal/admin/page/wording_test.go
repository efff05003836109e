package page_test

import (
	"net/url"
	"strings"
	"testing"

	"flexworker/internal/testing/pgtest"
)

// TestNotCountedYet: while nothing is counted the page does not say that nothing was created, and leads to what was.
func TestNotCountedYet(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	r.twice(t, "crm-1")
	p := r.signIn(t, lookToken, "grace")
	page, _ := p.get("")
	if !strings.Contains(page, "Nothing had settled by then") || strings.Contains(page, `class="figures"`) {
		t.Errorf("it says:\n%s", page)
	}
	if page, _ = p.get("requests?age=within-1h"); !strings.Contains(page, "crm-1") {
		t.Errorf("the list:\n%s", page)
	}
	pgtest.Exec(t, r.pool, `INSERT INTO outbox_minutes (minute, source, outcome, n) VALUES (date_trunc('minute', now()) - interval '1 minute', 'crm', 'created', 1)`)
	pgtest.Exec(t, r.pool, `UPDATE outbox_counted SET until = date_trunc('minute', now())`)
	r.page.Forget()
	if page, _ = p.get(""); !strings.Contains(page, "<dt>created</dt><dd>1</dd>") {
		t.Errorf("once it is counted:\n%s", page)
	}
}

// TestConflictNow: a message that conflicted says what was then; beside it stands what its request is now.
func TestConflictNow(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	r.twice(t, "crm-1")
	pgtest.Exec(t, r.pool, `INSERT INTO outbox_malformed (kind, stream, stream_sequence, stream_time, subject, source, request_id, headers, raw, error) VALUES
		('conflict', 'S', 1, now(), 's', 'crm', 'crm-1', '{}', '', 'it waits to be sent, and goes on untouched'), ('conflict', 'S', 2, now(), 's', 'crm', 'gone', '{}', '', 'it waits')`)
	p := r.signIn(t, lookToken, "grace")
	for address, want := range map[string]string{"malformed": "Error, as it was then", "malformed?id=1": "is created now", "malformed?id=2": "was removed since"} {
		if page, status := p.get(address); status != 200 || !strings.Contains(page, want) {
			t.Errorf("%s: %d, want %q\n%s", address, status, want, page)
		}
	}
}

// TestWaitsInTheStream: what no worker has stored yet is in no list. Now says how many messages that are, and so does the box that finds
// nothing.
func TestWaitsInTheStream(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	p := r.signIn(t, lookToken, "grace")
	for n, want := range map[int64]string{-1: "How many messages wait in the request stream is not known", 0: "No message waits in the request stream.",
		1: "1 message waits in the request stream: no worker has stored it yet.", 1234: "1,234 messages wait in the request stream: no worker has stored them yet."} {
		r.stream.Store(n)
		r.page.Forget()
		for address, more := range map[string]string{"": "Not finished", "requests?find=just-sent": "A message that was just sent may still wait in the request stream"} {
			if page, _ := p.get(address); !strings.Contains(page, want) || !strings.Contains(page, more) {
				t.Errorf("/%s of %d lacks %q or %q\n%s", address, n, want, more, page)
			}
		}
	}
}

// TestUncertainMayBeWhatFails: who is told to see what fails is led to what is uncertain. Where nothing is, nothing is bold.
func TestUncertainMayBeWhatFails(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	r.add(t, "crm", "crm-1", "Ada Lovelace", 1)
	p := r.signIn(t, lookToken, "grace")
	if page, _ := p.get(""); strings.Contains(page, "state-uncertain") || strings.Contains(page, "</a>: uncertain.") {
		t.Errorf("of none it says:\n%s", page)
	}
	r.uncertain(t, "crm-1", false)
	r.page.Forget()
	if page, _ := p.get(""); !strings.Contains(page, "state-uncertain") || !strings.Contains(page, `<a href="requests?state=uncertain">1 request</a>: uncertain.`) {
		t.Errorf("of one it says:\n%s", page)
	}
}

// TestUncertainRequest: its time is that of its next lookup, the acts say more than their buttons, and that its sender was told is no
// result. That stands there also after a decision and the next attempt.
func TestUncertainRequest(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	r.add(t, "crm", "crm-1", "Ada Lovelace", 1)
	r.uncertain(t, "crm-1", true)
	pgtest.Exec(t, r.pool, `UPDATE outbox SET announced_at = '2026-11-22 11:57:00Z'`)
	p := r.signIn(t, actToken, "ada")
	page, _ := p.get("request?id=crm-1")
	for _, want := range []string{"<dt>Next lookup</dt>", "TaskRouter is asked within seconds whether an attempt created it", "Its sender was told on the result stream that a person has to look"} {
		if !strings.Contains(page, want) {
			t.Errorf("it lacks %q\n%s", want, page)
		}
	}
	if strings.Contains(page, "<dt>Due</dt>") || strings.Contains(page, "It is looked up now.") {
		t.Errorf("it says:\n%s", page)
	}
	if status, _ := p.raw("decide", url.Values{"id": {"crm-1"}, "attempt": {"1"}, "absent": {"true"}, "unverified": {"true"}, "why": {"a test"}, "save": {"true"}}, [2]string{}); status != 303 {
		t.Fatal(status)
	}
	pgtest.Exec(t, r.pool, `UPDATE outbox SET announced_at = NULL`) // as the next attempt does
	if page, _ = p.get("request?id=crm-1"); !strings.Contains(page, `it was uncertain; its sender was told so at <time datetime="2026-11-22T11:57:00.000Z">`) {
		t.Errorf("after the decision:\n%s", page)
	}
}

// TestCodeOfAnEarlierAttempt: what is created is not said to have failed. The whole story has the earlier code.
func TestCodeOfAnEarlierAttempt(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	r.twice(t, "crm-1")
	pgtest.Exec(t, r.pool, `INSERT INTO outbox_attempts (outbox_id, kind, number, worker, started_at, took, http_status, twilio_code, outcome, error, applied)
		SELECT id, 'attempt', 9, 'worker-1', now() - interval '1 hour', interval '1 second', 429, 20429, 'refused', 'too many', true FROM outbox`)
	page, _ := r.signIn(t, lookToken, "grace").get("request?id=crm-1")
	said, story, _ := strings.Cut(page, `id="story"`)
	if strings.Contains(said, "Twilio's code 20429") || strings.Contains(said, "Twilio&#39;s code 20429") || !strings.Contains(story, "code 20429") {
		t.Errorf("it says:\n%s", page)
	}
}

// TestGone: a replica that went without a word is gone since it was last seen, what to do is said, and also that its leases are over.
func TestGone(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	pgtest.Exec(t, r.pool, `
		INSERT INTO outbox_replicas (name, version, started_at, seen_at, state, state_since, account, lookup_attribute, lookup_settle, flex_timeout, flex_rate, uncertain_policy, retention)
		SELECT 'worker-' || n, 'v1', now() - interval '26 hours', now() - interval '1 minute', 'ok', '2001-01-01', 'AC', 'x', '60 seconds', CASE n WHEN 1 THEN interval '1 hour' ELSE interval '15 seconds' END, 10, 'hold', '720 hours' FROM generate_series(1, 2) AS n`)
	p := r.signIn(t, lookToken, "grace")
	page, _ := p.get("fleet")
	first, second, _ := strings.Cut(page, ">worker-2<")
	for part, wants := range map[string][]string{first: {"is looked up when its leases run out", "start it again, and see its log"}, second: {"Its leases have run out", "start it again, and see its log"}} {
		for _, want := range wants {
			if !strings.Contains(part, want) {
				t.Errorf("it lacks %q\n%s", want, part)
			}
		}
	}
	if strings.Contains(page, "2001-01-01") {
		t.Errorf("it is gone since it was well:\n%s", page)
	}
}
