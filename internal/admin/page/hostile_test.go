package page_test

import (
	"encoding/json"
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"

	"golang.org/x/net/html"

	"flexworker/internal/terminal"
	"flexworker/internal/testing/pgtest"
)

// everywhere writes a text into every place that has a text of others: one request in each state, acts, malformed messages, gate and
// replicas.
func (r *rig) everywhere(t testing.TB, text string) {
	t.Helper()
	payload, err := json.Marshal(map[string]any{"request_id": text, "channel": map[string]any{"type": text, "participants": []any{map[string]any{"address": text}}}, text: text,
		"routing": map[string]any{"properties": map[string]any{"workspace_sid": text, "attributes": map[string]any{text: text, "customerName": text}}}, "metadata": map[string]any{text: text}})
	if err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, r.pool, `TRUNCATE outbox, outbox_attempts, outbox_acts, outbox_malformed, outbox_replicas, outbox_setups RESTART IDENTITY`)
	pgtest.Exec(t, r.pool, `
		INSERT INTO outbox (request_id, source, state, attempt, request, response, warnings, error_kind, error_message, twilio_request_id, stream, stream_sequence, stream_time, lookup_key, lookup_attribute, task_sid,
		       attempt_began_at, uncertain_since, for_person_since, due_at, settled_at, published_at, interaction_sid, resolved_by, leased_by, leased_until, received_at)
		SELECT $1 || n, $1, state, 1, $2, $2, '[]', $1, $1, $1, $1, n, now(), md5('x'), $1, $1,
		       now(), now(), CASE WHEN state = 'uncertain' THEN now() END, CASE WHEN state IN ('pending', 'uncertain') THEN now() END,
		       CASE WHEN final THEN now() END, CASE WHEN final THEN now() END, CASE WHEN state = 'created' THEN 'KD00000000000000000000000000000001' END, CASE WHEN state = 'created' THEN 'response' END,
		       CASE WHEN state = 'sending' THEN $1 END, CASE WHEN state = 'sending' THEN now() END, now() - n * interval '1 second'
		  FROM unnest(ARRAY['pending', 'sending', 'uncertain', 'created', 'rejected', 'abandoned']) WITH ORDINALITY AS s (state, n), LATERAL (SELECT n > 3 AS final) AS f`, text, string(payload))
	pgtest.Exec(t, r.pool, `
		INSERT INTO outbox_attempts (outbox_id, kind, number, worker, started_at, took, http_status, twilio_request_id, outcome, error, applied)
		SELECT o.id, kind, 1, $1, now(), interval '1 second', 500, $1, $1, $1, kind = 'attempt' FROM outbox o, unnest(ARRAY['attempt', 'lookup']) AS kind`, text)
	pgtest.Exec(t, r.pool, `INSERT INTO outbox_acts (who, why, act, request_id, was, attempt) SELECT $1, $1, 'retry', request_id, $1, 1 FROM outbox UNION ALL SELECT $1, $1, 'hold', NULL, $1, NULL::integer`, text)
	pgtest.Exec(t, r.pool, `
		INSERT INTO outbox_setups (id, created_at, channel_sid, channel_status, error_code, error_message, task_status, task_reason, word, error_kind, why, decided_at)
		SELECT id, now(), $1, $1, 1, $1, $1, $1, 'setup_failed', $1, $1, now() FROM outbox WHERE state = 'created'`, text)
	// Minutes have no text of others, and their number changes while a test runs.
	pgtest.Exec(t, r.pool, `UPDATE outbox_counted SET until = date_trunc('minute', now()) - interval '2 hours'`)
	headers, err := json.Marshal(map[string][]string{text: {text}})
	if err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, r.pool, `
		INSERT INTO outbox_malformed (kind, stream, stream_sequence, stream_time, subject, source, request_id, headers, raw, error) VALUES ('conflict', $1, 1, now(), $1, $1, $1, $2, $3, $1)`,
		text, string(headers), []byte(text))
	pgtest.Exec(t, r.pool, `UPDATE outbox_gate SET held_since = now(), reason = $1, changed_by = $1, rate_by = $1, rate = 1`, text)
	pgtest.Exec(t, r.pool, `
		INSERT INTO outbox_replicas (name, version, seen_at, state, reason, account, lookup_attribute, lookup_settle, flex_timeout, flex_rate, uncertain_policy, retention)
		SELECT $1 || n, $1, now(), 'unreachable', $1, $1 || n, $1, '1 second', '1 second', n, $1, '1 hour' FROM generate_series(1, 2) AS n`, text)
}

// living has the replicas live, however long it takes to read the pages.
func (r *rig) living(t testing.TB) {
	t.Helper()
	pgtest.Exec(t, r.pool, `UPDATE outbox_replicas SET seen_at = clock_timestamp()`)
}

// screensOf are the addresses of the screens that show what everywhere wrote.
func screensOf(text string) []string {
	all := []string{"", "decide?id=" + url.QueryEscape(text+"3"), "decide?id=" + url.QueryEscape(text+"3") + "&done=" + url.QueryEscape(text+"1"), "requests?request=" + url.QueryEscape(text+"1"), "requests", "requests?source=" + url.QueryEscape(text), "requests?kind=" + url.QueryEscape(text), "requests?find=" + url.QueryEscape(text), "requests?setup=failed", "acts", "malformed", "malformed?id=1", "fleet"}
	for _, n := range []string{"1", "2", "3", "4", "5", "6"} {
		all = append(all, "request?id="+url.QueryEscape(text+n))
	}
	return all
}

// skeleton is the page without its texts and the values of its attributes: what it is made of.
func skeleton(t testing.TB, page string) string {
	t.Helper()
	var b strings.Builder
	z := html.NewTokenizer(strings.NewReader(page))
	for {
		switch z.Next() {
		case html.ErrorToken:
			return b.String()
		case html.TextToken, html.DoctypeToken:
		case html.StartTagToken, html.EndTagToken, html.SelfClosingTagToken:
			token := z.Token()
			b.WriteString(token.Type.String() + " " + token.Data)
			for _, a := range token.Attr {
				b.WriteString(" " + a.Key)
				if a.Key == "href" || a.Key == "action" || a.Key == "src" {
					before, _, _ := strings.Cut(a.Val, "?")
					b.WriteString("=" + before)
				}
			}
			b.WriteString("\n")
		case html.CommentToken:
			t.Errorf("there is a comment: %s", z.Raw())
		}
	}
}

// FuzzHostile: whatever a text says, the page is made of the same elements and attributes as with a harmless one, and shows the text.
func FuzzHostile(f *testing.F) {
	for _, text := range []string{
		`<script>alert(1)</script>`, `"><img src=x onerror=alert(1)>`, `' onmouseover='alert(1)`, `javascript:alert(1)`, `</textarea></title></style><svg onload=alert(1)>`,
		`{{.}}`, `<!--`, `]]>`, `&lt;b&gt;`, `a&b=c#d?e/f\g`, "\u202e\u2066gnp.exe", "line\nline\r\n\ttab", "\x1b[31mred", "\ufeff\u200b", "//elsewhere.example/", "../../..", "%3Cscript%3E", "😀 日本 Zoë", `\u003cscript\u003e`, "`${alert(1)}`",
	} {
		f.Add(text)
	}
	r := newRig(f, "")
	p := r.signIn(f, actToken, "ada")
	plain := map[int]string{}
	r.everywhere(f, "plain")
	r.page.Forget()
	for n, address := range screensOf("plain") {
		r.living(f)
		page, _ := p.get(address)
		plain[n] = skeleton(f, page)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p.t = t
		text = strings.ToValidUTF8(strings.ReplaceAll(text, "\x00", ""), "\ufffd")
		for len(text) > 200 {
			_, size := utf8.DecodeLastRuneInString(text)
			text = text[:len(text)-size]
		}
		text = "x" + text + "x" // an empty text, or one of spaces, is left out
		r.everywhere(t, text)
		r.page.Forget()
		for n, address := range screensOf(text) {
			r.living(t)
			page, status := p.get(address)
			if status != 200 {
				t.Fatalf("%q: %s: %d\n%s", text, address, status, page)
			}
			if got := skeleton(t, page); got != plain[n] {
				t.Errorf("%q makes another page of %s: %s", text, address, parting(got, plain[n]))
			}
			if shown := terminal.Line(text); !strings.Contains(html.UnescapeString(page), shown) {
				t.Errorf("%s does not show %q", address, shown)
			}
		}
	})
}

// parting is where two skeletons part.
func parting(got, want string) string {
	a, b := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return strings.Join(a[max(0, i-3):min(i+3, len(a))], ", ") + "; want " + strings.Join(b[max(0, i-3):min(i+3, len(b))], ", ")
		}
	}
	return "one is longer"
}
