package api

import (
	"strings"
	"testing"

	"flexworker/internal/flex"
	"flexworker/internal/testing/pgtest"
)

// TestErase: what is personal is gone from the tables, the answers that were kept for idempotency keys included.
func TestErase(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	g.add(t, "r", "crm", plain)
	if got := g.post(t, "/requests/r/erase", object{"why": "asked to"}); got.kind() != "not-allowed" {
		t.Errorf("pending: %d %s", got.code, got.text)
	}
	if got := g.post(t, "/requests/r/cancel", object{"why": "Ada called"}, "Idempotency-Key", "k"); got.code != 200 {
		t.Fatal(got.text)
	}
	if got := g.post(t, "/requests/r/erase", object{"why": "asked to"}); got.kind() != "not-allowed" {
		t.Errorf("unpublished: %d %s", got.code, got.text)
	}
	pgtest.Exec(t, g.pool, `UPDATE outbox SET published_at = clock_timestamp(), error_message = 'Ada'`)
	if got := g.post(t, "/requests/r/erase", object{"why": "asked to"}, "If-Match", `"1-0-pending-0-0"`); got.kind() != "stale" {
		t.Errorf("stale: %d %s", got.code, got.text)
	}
	got := g.post(t, "/requests/r/erase", object{"why": "asked to"}, "If-Match", g.tag(t, "r"), "Idempotency-Key", "e")
	if got.code != 200 || !strings.Contains(got.text, `"messages":[{"stream":`) || !strings.Contains(got.text, "backups") {
		t.Fatalf("%d %s", got.code, got.text)
	}
	if again := g.post(t, "/requests/r/erase", object{"why": "asked to"}, "Idempotency-Key", "e"); again.kind() != "key-reused" { // without If-Match it is another
		t.Errorf("%d %s", again.code, again.text)
	}
	if again := g.post(t, "/requests/r/cancel", object{"why": "Ada called"}, "Idempotency-Key", "k"); again.kind() != "interrupted" && again.kind() != "under-way" {
		t.Errorf("the kept answer: %d %s", again.code, again.text)
	}
	one := g.get(t, "/requests/r")
	if one.code != 200 || strings.Contains(one.text, "Ada") || !strings.Contains(one.text, `"erased_at":"`) {
		t.Errorf("%d %s", one.code, one.text)
	}
}

const sidB = "KD" + "000000000000000000000000000000bb"

// close sets what channel Flex shows, and what becomes of a close.
func (f *flexShows) close(kind flex.Kind, status string) {
	f.closes, f.channels = kind, []flex.ChannelState{{SID: "UO0000000000000000000000000000000c", Type: "sms", Status: status}}
}

// TestClose: each way that a close ends is told as what it is.
func TestClose(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	g.add(t, "r", "crm", plain)
	body := object{"why": "a duplicate", "duplicate": sidB}
	if got := g.post(t, "/requests/r/close", body); got.kind() != "not-allowed" {
		t.Errorf("pending: %d %s", got.code, got.text)
	}
	if got := g.post(t, "/requests/r/close", object{"why": "x", "duplicate": "KD12"}); got.kind() != "invalid" {
		t.Errorf("no sid: %d %s", got.code, got.text)
	}
	pgtest.Exec(t, g.pool, `UPDATE outbox SET state = 'created', attempt = 1, due_at = NULL, interaction_sid = $1, resolved_by = 'lookup', settled_at = clock_timestamp()`, sidA)
	if got := g.post(t, "/requests/r/close", object{"why": "x", "duplicate": sidA}); got.kind() != "not-allowed" {
		t.Errorf("the one that is kept: %d %s", got.code, got.text)
	}
	g.flex.fetched = flex.Outcome{Kind: flex.Created, InteractionSID: sidB}
	g.flex.close(flex.Created, "active")
	if got := g.post(t, "/requests/r/close", body); got.kind() != "not-its" || !strings.Contains(got.text, "Flex shows "+sidB) {
		t.Errorf("no key: %d %s", got.code, got.text)
	}
	believed := object{"why": "a duplicate", "duplicate": sidB, "unverified": true}
	for _, tt := range []struct {
		kind   flex.Kind
		status string
		want   string // the kind of problem; "": it is done
	}{
		{flex.Rejected, "active", "not-allowed"},
		{flex.Uncertain, "active", "outcome-unknown"},
		{flex.Created, "closed", "not-allowed"},
		{flex.Created, "active", ""},
	} {
		g.flex.close(tt.kind, tt.status)
		if got := g.post(t, "/requests/r/close", believed); got.kind() != tt.want {
			t.Errorf("%v, %s: %d %s", tt.kind, tt.status, got.code, got.text)
		}
	}
	if got := g.recorded(t); strings.Count(got, "close r by ADMIN_TOKEN") != 3 { // refused, unknown, done
		t.Error(got)
	}
}
