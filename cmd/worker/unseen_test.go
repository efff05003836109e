package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"

	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/natstest"
)

// unseen is a text of others with all that must not reach a terminal: it turns the direction of writing, has no width,
// steers the terminal in two forms, and would begin a line of its own.
const unseen = "evil\u202e\u200b\u009b2J\x1b[31m\tx\nFORGED"

// faultsOfView says what somebody who looks at a text would not see, or would take for our own.
func faultsOfView(text string) (faults []string) {
	if !utf8.ValidString(text) {
		faults = append(faults, "bytes that are no UTF-8")
	}
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if i := strings.IndexFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }); i >= 0 {
			faults = append(faults, fmt.Sprintf("%+q", line))
		} else if strings.HasPrefix(strings.TrimSpace(line), "FORGED") {
			faults = append(faults, "a line of a text of others: "+line)
		}
	}
	return faults
}

// poison writes the text into every column of text or JSON of our tables that takes it, and returns those whose
// constraints refuse it.
func (r *rig) poison() (refused []string) {
	r.t.Helper()
	document, err := json.Marshal(map[string]any{"channel": map[string]any{"type": unseen, "sid": unseen}, "metadata": unseen, unseen: unseen, "not_before": unseen,
		"routing": map[string]any{"properties": map[string]any{"workspace_sid": unseen, "workflow_sid": unseen, "attributes": map[string]any{unseen: unseen}}}})
	if err != nil {
		r.t.Fatal(err)
	}
	rows, err := r.pool.Query(r.t.Context(), `SELECT table_name || '.' || column_name, data_type FROM information_schema.columns JOIN information_schema.tables USING (table_schema, table_name)
		WHERE table_schema = current_schema() AND table_type = 'BASE TABLE' AND table_name <> 'outbox_migrations' AND data_type IN ('text', 'json', 'jsonb', 'bytea', 'character varying') ORDER BY 1`)
	if err != nil {
		r.t.Fatal(err)
	}
	columns := map[string]string{}
	var name, kind string
	for rows.Next() {
		if err := rows.Scan(&name, &kind); err != nil {
			r.t.Fatal(err)
		}
		columns[name] = kind
	}
	rows.Close()
	for name, kind := range columns {
		table, column, _ := strings.Cut(name, ".")
		set := fmt.Sprintf(`UPDATE %s SET %s = `, table, column)
		var value any = unseen
		switch {
		case kind == "json":
			set, value = set+`$1::json`, string(document)
		case kind == "bytea":
			set, value = set+`$1`, []byte(unseen)
		case name == "outbox.request_id": // it is unique
			set += `$1 || id`
		case name == "outbox.leased_by": // only while sending
			set += `$1 WHERE leased_by IS NOT NULL`
		case name == "outbox.faults", name == "outbox.warnings":
			set += `$1::json`
		default:
			set += `$1`
		}
		if _, err := r.pool.Exec(r.t.Context(), set, value); err != nil {
			refused = append(refused, name)
		}
	}
	slices.Sort(refused)
	return refused
}

// TestNothingUnseenIsShown: what senders, Twilio and other workers wrote reaches no terminal unseen, whatever column it
// stands in and whichever verb shows it: no character that steers it, hides, or turns the writing; no line that could be
// taken for ours. The same of what verbs say when they refuse, of completion, and of the results that send waits for.
func TestNothingUnseenIsShown(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	twilio := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNotFound)
		_ = json.NewEncoder(w).Encode(map[string]any{"code": 20404, "message": unseen, "more_info": "https://www.twilio.com/docs/errors/20404", "status": 404})
	}))
	t.Cleanup(twilio.Close)
	env := r.environment("FLEX_URL="+twilio.URL, "TASKROUTER_URL="+twilio.URL)
	r.try(env, "migrate", "up")

	const row = `INSERT INTO outbox (request_id, source, request, stream_sequence, stream_time, attempt, state, error_kind, error_message, due_at, leased_by, leased_until,
		attempt_began_at, uncertain_since, for_person_since, interaction_sid, resolved_by, settled_at, published_at, lookup_key, lookup_attribute) `
	for i, state := range []string{"pending", "sending", "uncertain", "created", "rejected", "abandoned", "expired", "cancelled"} {
		for j := range 2 {
			r.must(row+`SELECT $1, 'crm', '{}', $2, now(), 1, $3, 'dial', 'm', CASE WHEN $3 = 'pending' THEN now() END, CASE WHEN $3 = 'sending' THEN 'w' END,
				CASE WHEN $3 = 'sending' THEN now() - interval '10 minutes' END, now() - interval '20 minutes', now() - interval '20 minutes', CASE WHEN $3 = 'uncertain' THEN now() END,
				CASE WHEN $3 = 'created' THEN 'KD00000000000000000000000000000001' END, CASE WHEN $3 = 'created' THEN 'response' END,
				s.at, s.at, repeat('0', 32), 'a' FROM (SELECT CASE WHEN $3 NOT IN ('pending', 'sending', 'uncertain') THEN now() END AS at) s`,
				fmt.Sprint(state, j), 10*i+j, state)
		}
	}
	r.must(`INSERT INTO outbox_attempts (outbox_id, kind, number, worker, started_at, outcome, error, applied)
		SELECT id, kind, 1, 'w', now(), 'created', 'e', n = 1 FROM outbox, (VALUES ('attempt'), ('lookup')) k (kind), generate_series(1, 2) n`)
	r.must(`INSERT INTO outbox_acts (who, why, act, request_id, attempt, was) VALUES ('w', 'w', 'retry', 'x', 1, 'pending')`)
	r.must(`INSERT INTO outbox_malformed (kind, stream, stream_sequence, stream_time, subject, source, request_id, headers, raw, error)
		SELECT kind, 's', n, now(), 's', 's', 'r', '{}', '', 'e' FROM (VALUES ('malformed', 1), ('conflict', 2)) v (kind, n)`)
	r.must(`INSERT INTO outbox_repeats (outbox_id, source, stream_sequence, stream_time) SELECT id, 's', id, now() FROM outbox`)
	for i, state := range []string{"ok", "unreachable"} {
		r.must(`INSERT INTO outbox_replicas (name, version, state, reason, account, lookup_settle, flex_timeout, flex_rate, uncertain_policy, retention, lookup_attribute)
			VALUES ($1, 'v', $2, 'r', $1, '1min', '15s', $3, 'hold', '1h', $1)`, state, state, i+1)
	}
	r.must(`UPDATE outbox_gate SET held_since = now(), reason = 'r', rate_by = 'w'`)
	// These have few words, or a form of their own; the last three are unique, or may differ between workers, and follow.
	want := []string{"outbox.ends_as", "outbox.interaction_sid", "outbox.lookup_key", "outbox.resolved_by", "outbox.state", "outbox_acts.act",
		"outbox_attempts.kind", "outbox_malformed.kind", "outbox_replicas.name", "outbox_replicas.state"}
	if refused := r.poison(); !slices.Equal(refused, want) {
		t.Errorf("%q refuse the text, want %q", refused, want)
	}
	r.must(`UPDATE outbox_replicas SET name = $1 || name, account = $1 || name, lookup_attribute = $1 || name, uncertain_policy = $1 || name`, unseen)
	r.must(`UPDATE outbox_acts SET request_id = (SELECT request_id FROM outbox WHERE state = 'uncertain' LIMIT 1)`)
	result, err := json.Marshal(map[string]any{"request_id": unseen, "outcome": "created", "interaction_sid": unseen, "stream": unseen})
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"one", unseen} {
		m := nats.NewMsg("interactions.results.created.crm")
		m.Data, m.Header = result, nats.Header{"Nats-Msg-Id": {strings.ReplaceAll(id, "\n", "")}, natstest.Forged: {"in the worker's place"}}
		if _, err := r.js.PublishMsg(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}

	// What people type themselves may have lines of its own.
	typed := strings.ReplaceAll(unseen, "\n", "")
	events := filepath.Join(t.TempDir(), "events")
	if err := os.WriteFile(events, []byte(`{"request_id":"`+"a\u202eb\u009b"+`","channel":{}}{"x`+"\u202e\x1b"), 0o600); err != nil {
		t.Fatal(err)
	}
	good := filepath.Join(t.TempDir(), "good")
	if err := os.WriteFile(good, requestOf("good"), 0o600); err != nil {
		t.Fatal(err)
	}
	requests, err := r.js.Stream(t.Context(), "INTERACTION_REQUESTS")
	if err != nil {
		t.Fatal(err)
	}
	all := [][]string{{"status"}, {"list"}, {"list", "--limit", "3"}, {"fleet"}, {"audit"}, {"audit", "--tables-only"}, {"send", events},
		{"show", unseen}, {"explain", unseen}, {"list", "--state", unseen}, {"list", unseen}, {unseen}, {"list", "--" + typed}, {"rate", unseen, "--why", "w"},
		{"recheck", "--since", "1h", "--why", unseen}, {"recheck", "--since", unseen, "--why", "w"}, {"retry", unseen, "--why", "w"}, {"send", typed},
		{"send", "--source", unseen, events}, {"help", unseen}, {"list", "--older-than", unseen}, {"migrate", unseen}}
	for _, act := range []string{"retry", "cancel", "lookup", "republish"} {
		all = append(all, []string{act, "--where", "--why", "w"})
	}
	rows, err := r.pool.Query(t.Context(), `SELECT DISTINCT ON (state) request_id, state FROM outbox ORDER BY state, id`)
	if err != nil {
		t.Fatal(err)
	}
	byState := map[string][][]string{}
	var id, state string
	if _, err := pgx.ForEachRow(rows, []any{&id, &state}, func() error {
		byState[state] = [][]string{{"show", id}, {"explain", id}}
		for _, act := range []string{"retry", "cancel", "lookup", "republish"} {
			byState[state] = append(byState[state], []string{act, "--why", "w", "--attempt", "7", "--", id})
		}
		byState[state] = append(byState[state], []string{"resolve", "--absent", "--why", "w", "--attempt", "1", "--", id}, []string{"resolve", "--absent", "--why", "w", "--", id},
			[]string{"resolve", "--created", "KD00000000000000000000000000000002", "--why", "w", "--attempt", "1", "--", id})
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	view := func(t *testing.T, verbs [][]string) {
		r := *r
		r.t = t
		for _, verb := range verbs {
			for _, words := range [][]string{verb, slices.Insert(slices.Clone(verb), 1, "--json")} {
				_, out, errs := r.try(env, words...)
				for _, fault := range append(faultsOfView(out), faultsOfView(errs)...) {
					t.Errorf("worker %+q shows %s", words, fault)
				}
			}
		}
	}
	view(t, all)
	t.Run("of one request", func(t *testing.T) {
		for state, verbs := range byState {
			t.Run(state, func(t *testing.T) {
				t.Parallel()
				view(t, verbs)
			})
		}
	})
	waiting := r.command(env, "send", "--source", "crm", "--wait", "1m", good)
	expect.Eventually(t, func() error {
		m, err := requests.GetLastMsgForSubject(t.Context(), "interactions.requests.crm")
		if err != nil {
			return err
		}
		result, err := json.Marshal(map[string]any{"request_id": "good", "outcome": "created", "stream": "INTERACTION_REQUESTS", "sequence": m.Sequence, "metadata": unseen})
		if err != nil {
			return err
		}
		forged := nats.NewMsg("interactions.results.created.crm")
		forged.Data = result
		forged.Header.Set(natstest.Forged, "in the worker's place")
		_, err = r.js.PublishMsg(t.Context(), forged)
		return err
	})
	if status := waiting.exit(); status != 0 || !strings.Contains(waiting.out.String(), "evil") {
		t.Errorf("send ends with status %d: %s%s", status, waiting.out.String(), waiting.log.String())
	}
	for _, fault := range faultsOfView(waiting.out.String()) {
		t.Errorf("send shows %s", fault)
	}
	for _, words := range [][]string{{"config"}, {"config", "--json"}} {
		_, out, errs := r.try(append(env, "REQUESTS_STREAM="+typed, "FLEX_URL="+typed, "ADMIN_ADDR="+typed, "LOG_LEVEL="+typed), words...)
		for _, fault := range append(faultsOfView(out), faultsOfView(errs)...) {
			t.Errorf("%s shows %s", words, fault)
		}
	}
	_, completed, _ := r.try(env, "__complete", "explain", "")
	for _, fault := range faultsOfView(completed) {
		t.Errorf("completion shows %s", fault)
	}
}

// TestLogShowsEverything: a line of the log in JSON means what was logged, and everything in it can be seen; the other
// form quotes such a text.
func TestLogShowsEverything(t *testing.T) {
	t.Parallel()
	for _, format := range []string{"json", "text"} {
		var out bytes.Buffer
		newLog(&out, "info", format).Info("m", "subject", unseen, unseen, "x")
		for _, fault := range faultsOfView(out.String()) {
			t.Errorf("%s shows %s", format, fault)
		}
		var read map[string]string
		if format == "json" && (json.Unmarshal(out.Bytes(), &read) != nil || read["subject"] != unseen || read[unseen] != "x") {
			t.Errorf("the line is read as %q", read)
		}
	}
}
