package page_test

import (
	"html"
	"net/http"
	"strings"
	"testing"
	"time"

	"flexworker/internal/outbox"
	"flexworker/internal/outbox/request"
	"flexworker/internal/rawjson"
	"flexworker/internal/testing/pgtest"
)

// twice stores a request that was created twice, and gives the sids of the interaction that is kept and of its duplicate.
func (r *rig) twice(t testing.TB, id string) (kept, duplicate string) {
	t.Helper()
	r.add(t, "crm", id, "Ada Lovelace", 1)
	kept, duplicate = r.inFlex(t, id, "Ada Lovelace"), r.inFlex(t, id, "Ada Lovelace")
	pgtest.Exec(t, r.pool, `UPDATE outbox SET state = 'created', attempt = 1, due_at = NULL, interaction_sid = $2, resolved_by = 'lookup', settled_at = now(), published_at = now(), received_at = now() - interval '1 minute',
		error_kind = 'duplicate', error_message = 'created more than once; the oldest is adopted, close the others: ' || $3 WHERE request_id = $1`, id, kept, duplicate)
	return kept, duplicate
}

// active says whether the channel of an interaction is active.
func (r *rig) active(t testing.TB, sid string) bool {
	t.Helper()
	channels, err := r.client.Channels(t.Context(), sid)
	if err != nil || len(channels) != 1 {
		t.Fatal(channels, err)
	}
	return channels[0].Status == "active"
}

// TestCloseDuplicate: the form has the sid that the lookup named, Flex's answer is shown first, and only then the duplicate is closed.
func TestCloseDuplicate(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	kept, duplicate := r.twice(t, "crm-1")
	b := r.open(t, desktop)
	b.signIn(actToken, "ada")
	b.visit("request?id=crm-1")
	b.sees("#choices", "It was created more than once")
	b.unfold("#do-close")
	b.sees("#do-close", "whoever talks there is cut off")
	b.holdsText("#duplicate", duplicate)
	b.fill("#why-close", "created twice")
	b.click("#do-close button")
	b.sees("#closing", "Nothing is closed yet")
	b.sees("#closing", "customerName Ada Lovelace")
	b.sees("#closing", "It is kept: Flex shows "+kept)
	b.holds("a close")
	if !r.active(t, duplicate) || r.acts(t) != "" {
		t.Fatalf("before it is confirmed: %s", r.acts(t))
	}
	b.click("#closing button")
	b.told("Closed: " + duplicate)
	if r.active(t, duplicate) || !r.active(t, kept) {
		t.Error("the wrong one is closed")
	}
	if got, want := r.acts(t), "ada close crm-1 1 created twice"; got != want {
		t.Errorf("recorded: %s, want %s", got, want)
	}
}

// TestCloseRefused: what is no duplicate of the request is not closed, the page says why, and what was typed stays.
func TestCloseRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	kept, duplicate := r.twice(t, "crm-1")
	others := r.inFlex(t, "crm-2", "Grace Hopper")
	p := r.signIn(t, actToken, "ada")
	tag := tagIn(t, p, "crm-1")
	for sid, want := range map[string]string{kept: "It is the interaction of the request.", others: "was created for another request", "KD0": "is not the sid of an interaction", "KD00000000000000000000000000000bad": "Flex does not show"} {
		page, status := p.post("close", "id", "crm-1", "attempt", "1", "tag", tag, "duplicate", sid, "why", "created twice", "save", "true")
		page = html.UnescapeString(page)
		if status != http.StatusConflict || !strings.Contains(page, "Nothing was closed") || !strings.Contains(page, want) || !strings.Contains(page, `name="duplicate" value="`+sid+`"`) || !strings.Contains(page, `value="created twice"`) {
			t.Errorf("%s: %d, want %q\n%s", sid, status, want, page)
		}
		if offered := strings.Contains(page, "Unverified: Flex does not show"); offered != (sid == others) {
			t.Errorf("%s: unverified is offered: %v", sid, offered)
		}
	}
	pgtest.Exec(t, r.pool, `INSERT INTO outbox_acts (who, why, act, request_id, was, attempt) VALUES ('grace', 'again', 'republish', 'crm-1', 'created', 1)`)
	page, status := p.post("close", "id", "crm-1", "attempt", "1", "tag", tag, "duplicate", duplicate, "why", "created twice", "save", "true")
	if status != http.StatusConflict || !strings.Contains(page, "republish by grace") || !r.active(t, duplicate) {
		t.Errorf("on an old screen: %d\n%s", status, page)
	}
}

// TestErase: what is personal is gone, and what the tables cannot reach is named. What has not settled stays.
func TestErase(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	r.twice(t, "crm-1")
	r.add(t, "crm", "crm-2", "Grace Hopper", 2)
	p := r.signIn(t, actToken, "ada")
	page, _ := p.get("request?id=crm-1")
	if !strings.Contains(page, `id="do-erase"`) || !strings.Contains(page, "blanked for good") {
		t.Fatalf("there is no form:\n%s", page)
	}
	page, _ = p.post("erase", "id", "crm-1", "attempt", "1", "tag", tagIn(t, p, "crm-1"), "why", "GDPR-77")
	if !strings.Contains(page, "Erased") || !strings.Contains(page, "Twilio: the task") {
		t.Errorf("it does not say where it may still be:\n%s", page)
	}
	if text := pgtest.One[string](t, r.pool, `SELECT request::text FROM outbox WHERE request_id = 'crm-1'`); strings.Contains(text, "Ada") {
		t.Errorf("it is still %s", text)
	}
	page, status := p.post("erase", "id", "crm-2", "attempt", "0", "tag", tagIn(t, p, "crm-2"), "why", "GDPR-78")
	if status != http.StatusConflict || !strings.Contains(page, "Nothing was erased") {
		t.Errorf("what has not settled: %d\n%s", status, page)
	}
	if got, want := r.acts(t), "ada erase crm-1 1 GDPR-77"; got != want {
		t.Errorf("recorded: %s, want %s", got, want)
	}
}

// TestNotRetried: of a request that failed the check before Flex the acts say what the explanation says: no retry, a new request_id.
func TestNotRetried(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	e := request.Event{Message: request.Message{Stream: "INTERACTION_REQUESTS", Subject: "interactions.requests.crm", Source: "crm", Sequence: 1, Time: time.Now(), Raw: []byte("{}")},
		RequestID: "crm-1", Request: []byte(`{"request_id": "crm-1"}`), Faults: []rawjson.Fault{{Path: "channel", Problem: "required"}}}
	if _, err := outbox.NewStore(r.pool, "worker-1", time.Second, "interaction_request").Add(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	p := r.signIn(t, actToken, "ada")
	for _, unpublished := range []bool{true, false} {
		r.page.Forget()
		page, _ := p.get("request?id=crm-1")
		_, choices, _ := strings.Cut(page, `id="choices"`)
		choices, _, _ = strings.Cut(choices, "</section>")
		if !strings.Contains(choices, "publishes the corrected request under a new request_id") || strings.Contains(choices, "Retry") || strings.Contains(choices, "being sent") {
			t.Errorf("it says:\n%s", choices)
		}
		if strings.Contains(choices, "its result is published until the result stream has it") != unpublished {
			t.Errorf("unpublished: %v:\n%s", unpublished, choices)
		}
		pgtest.Exec(t, r.pool, `UPDATE outbox SET published_at = now()`)
	}
}
