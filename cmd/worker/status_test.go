package main

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"flexworker/internal/outbox/operator"
)

// TestStatus: one glance says whether requests move and, if not, why, since and until when
// and by whom; which source fails and with what; and what a person must do. It fits a
// terminal, whatever senders wrote.
func TestStatus(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	env := r.environment()
	r.types(env, typed{[]string{"status"}, 0, []string{"Gate: open\n", "Replicas: 0\n", "Unfinished: nothing\n", "A person must look at: nothing\n"}})
	long := strings.Repeat("a long text \x1b[2J", 20)
	const ended = `settled_at, published_at) SELECT format('%s-%s', $1::text, n), $2, $3, '{"routing":{"properties":{"workspace_sid":"WS7"}}}', 1, $4, $5, n, now(), now(), now() FROM generate_series(1, $6) n`
	insert := `INSERT INTO outbox (request_id, source, state, request, attempt, error_kind, error_message, stream_sequence, stream_time, ` + ended
	r.must(insert, "bad", "shop", "rejected", "http_400", "no such workflow "+long, 120)
	r.must(insert, "other", "crm\x1b]0;x", "rejected", "invalid", "channel.type: required", 3)
	r.must(`INSERT INTO outbox (request_id, source, state, request, attempt, error_kind, error_message, attempt_began_at, uncertain_since, for_person_since, stream_sequence, stream_time)
		VALUES ('it''s -1; ' || $1, 'crm', 'uncertain', '{}', 1, 'timeout', $1, now(), now(), now(), 1, now())`, strings.Repeat("x", 100))
	r.must(`INSERT INTO outbox (request_id, source, state, request, due_at, stream_sequence, stream_time) SELECT 'p-' || n, 'shop', 'pending', '{}', now(), n, now() FROM generate_series(1, 7) n`)
	r.must(`INSERT INTO outbox_replicas (name, version, state, reason, lookup_settle, flex_timeout, flex_rate, uncertain_policy, retention)
		VALUES ('w-1', 'v1', 'unauthorized', $1, '1min', '15s', 10, 'hold', '1h')`, "HTTP 401 "+long)
	r.must(`UPDATE outbox_gate SET paused_until = now() + interval '10 minutes', reason = $1, changed_by = 'w-9', changed_at = now()`, "HTTP 429 "+long)
	status, out, errs := r.try(env, "status")
	for _, want := range []string{"Gate: paused by w-9 since ", " until ", "    HTTP 429 a long", "    worker release --why ...\n", "Replicas: 1\n", "w-1  unauthorized",
		"7  pending    shop", "120 rejected of shop: http_400, WS7\n        no such workflow", `3 rejected of crm\x1b]0;x: invalid`, "request it's -1; xx", "        worker explain -- 'it'\\''s -1; xx", "replica w-1", "        worker fleet\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("it lacks %q", want)
		}
	}
	if status != 0 || strings.ContainsRune(out, '\x1b') {
		t.Errorf("status %d: %q %s", status, out, errs)
	}
	_, list, _ := r.try(env, "list")
	for line := range strings.Lines(out + list) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 100 && !strings.HasPrefix(line, "        worker ") && !strings.Contains(line, "it's -1; xx") {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	if t.Failed() {
		t.Log(out, list)
	}
	var all struct { // as a reader of another language has it
		Waiting  int64
		Failures []operator.Failure
	}
	if _, text, _ := r.try(env, "status", "--json"); json.Unmarshal([]byte(text), &all) != nil || all.Waiting != 2 || len(all.Failures) != 2 || all.Failures[0].Requests != 120 {
		t.Errorf("--json: %s", text)
	}
}
