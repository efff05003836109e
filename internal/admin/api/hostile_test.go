package api

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"

	"flexworker/internal/outbox/operator"
	"flexworker/internal/rawjson"
	"flexworker/internal/testing/pgtest"
)

// kept says whether Postgres can keep a text of at most most bytes; the consumer takes no other.
func kept(text string, most int) bool {
	return text != "" && len(text) <= most && utf8.ValidString(text) && !strings.ContainsRune(text, 0)
}

// FuzzHostile: whatever others wrote, as id, source, payload, error or reason, comes back as it was, in an answer that
// is JSON and as the document has it.
func FuzzHostile(f *testing.F) {
	for _, text := range []string{"plain", "<script>alert(1)</script>", `"};alert(1);//`, "</script><!--", "a/b?c=d&e#f%2e", "..", ".", "../../etc", "a b\tc\r\nd", "\x1b[31m", "\u202eevil", "\u2028\u2029",
		"é\u0301𝄞", `\u0041\"`, "'; DROP TABLE outbox; --", "%00", "{{.}}", "$(reboot)", "urn:flexworker:problem:stale", strings.Repeat("x", 256)} {
		f.Add(text, text, text, `{"x":`+string(must(json.Marshal(text)))+`,"n":[1e300,-0,1.50]}`, text)
	}
	f.Add("a", "b", "c", `{"\u0041":"\u2028\/","deep":`+strings.Repeat("[", 90)+strings.Repeat("]", 90)+`}`, "d")
	g := newRig(f)
	f.Fuzz(func(t *testing.T, id, source, failure, payload, why string) {
		if !kept(id, 256) || !kept(source, 200) || !kept(failure, 200) || !json.Valid([]byte(payload)) || len(rawjson.Check([]byte(payload))) > 0 || len(payload) > 1<<16 {
			return
		}
		for _, table := range []string{"outbox", "outbox_attempts", "outbox_acts", "outbox_malformed"} {
			pgtest.Exec(t, g.pool, `DELETE FROM `+table)
		}
		pgtest.Exec(t, g.pool, `INSERT INTO outbox (request_id, source, state, request, error_kind, error_message, attempt, due_at, stream_sequence, stream_time, twilio_request_id)
			VALUES ($1, $2, 'pending', $3::text::json, 'http_503', $4, 1, now() + interval '1 hour', 1, now(), $4)`, id, source, payload, failure)
		pgtest.Exec(t, g.pool, `INSERT INTO outbox_attempts (outbox_id, kind, number, worker, started_at, outcome, error, applied)
			SELECT id, 'attempt', 1, $1, now(), 'transient', $1, true FROM outbox`, failure)
		pgtest.Exec(t, g.pool, `INSERT INTO outbox_malformed (kind, stream, stream_sequence, stream_time, subject, source, request_id, headers, raw, error)
			VALUES ('conflict', 'S', 1, now(), $1, $1, $2, '{}', $3, $4)`, source, id, []byte(payload), failure)

		path := "/requests/" + escape(id)
		one := g.get(t, path)
		one.has(t, id, "request_id")
		one.has(t, source, "source")
		one.has(t, failure, "error_message")
		var compact bytes.Buffer
		if err := json.Compact(&compact, []byte(payload)); err != nil || !strings.Contains(one.text, `"request":`+compact.String()+`,`) {
			t.Errorf("%s does not have the payload %s", one.text, compact.String())
		}
		g.get(t, path+"/explain").has(t, id, "request_id")
		for _, list := range []string{"/requests?source=" + url.QueryEscape(source), "/malformed"} {
			got := g.get(t, list)
			rows, _ := got.body["malformed"].([]any)
			if rows == nil {
				rows, _ = got.body["requests"].([]any)
			}
			if len(rows) != 1 || rows[0].(object)["request_id"] != id || rows[0].(object)["source"] != source {
				t.Errorf("%s: %s", list, got.text)
			}
		}
		preview := g.post(t, "/acts:preview", object{"act": "cancel", "filter": object{"request_ids": []string{id}, "source": source}})
		if first, _ := preview.body["first"].([]any); len(first) != 1 || first[0] != id {
			t.Error(preview.text)
		}
		if !utf8.ValidString(why) || strings.ContainsRune(why, 0) || strings.TrimSpace(why) == "" || len(why) > operator.WhyMost || why == "..." || why == "…" {
			return
		}
		g.post(t, path+"/retry", object{"why": why}, "If-Match", one.header.Get("ETag")).is(t, http.StatusOK, "")
		acts := g.get(t, "/acts")
		if rows, _ := acts.body["acts"].([]any); len(rows) != 1 || rows[0].(object)["why"] != why || rows[0].(object)["request_id"] != id {
			t.Error(acts.text)
		}
		stale := g.post(t, path+"/cancel", object{"why": why}, "If-Match", one.header.Get("ETag"))
		if since, _ := stale.body["since"].(string); stale.kind() != "stale" || !strings.Contains(since, why) {
			t.Error(stale.text)
		}
	})
}

// escape is an id in a path. Two dots, or one, would be taken for a step up, or for none.
func escape(id string) string {
	if strings.Trim(id, ".") == "" {
		return strings.ReplaceAll(id, ".", "%2E")
	}
	return url.PathEscape(id)
}

func must(text []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return text
}

// TestIDsThatNobodyHas: an id that Postgres could not keep is that of no request, and no error.
func TestIDsThatNobodyHas(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	for _, path := range []string{"/requests/..", "/requests/.", "/requests//x", "/requests/", "//requests", "/requests/r/explain/"} {
		g.get(t, path).is(t, http.StatusNotFound, "no-route")
	}
	for _, id := range []string{"%00", "a%00b", "%ff", "%ed%a0%80", strings.Repeat("x", 5000)} {
		g.get(t, "/requests/"+id).is(t, http.StatusNotFound, "unknown-request")
		g.post(t, "/requests/"+id+"/cancel", object{"why": "x"}).is(t, http.StatusNotFound, "unknown-request")
		g.get(t, "/requests/"+id+"/explain").is(t, http.StatusNotFound, "unknown-request")
	}
}
