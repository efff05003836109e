package page_test

import (
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
