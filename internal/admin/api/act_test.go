package api

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"flexworker/internal/testing/pgtest"
)

// TestSecondDecision: two people decide about one uncertain request; the second is told what the first did.
func TestSecondDecision(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	g.add(t, "r", "crm", plain, keyed)
	g.uncertain(t, "r")
	seen := g.tag(t, "r")
	first := g.post(t, "/requests/r/resolve", object{"why": "not in Flex", "absent": true, "unverified": true}, "If-Match", seen)
	first.is(t, http.StatusOK, "")
	second := g.post(t, "/requests/r/resolve", object{"why": "I see it", "created": sidA, "unverified": true}, "If-Match", seen)
	second.is(t, http.StatusPreconditionFailed, "stale")
	second.has(t, "pending", "state")
	second.has(t, first.header.Get("ETag"), "etag")
	if since, _ := second.body["since"].(string); !strings.HasPrefix(since, "resolve absent by ADMIN_TOKEN from 192.0.2.1 at ") || !strings.HasSuffix(since, " (not in Flex); it is pending now") {
		t.Error(second.text)
	}
	// Any act, not a decision alone, and a tag that a proxy has made weak.
	g.post(t, "/requests/r/cancel", object{"why": "x"}, "If-Match", seen).is(t, http.StatusPreconditionFailed, "stale")
	g.post(t, "/requests/r/cancel", object{"why": "x"}, "If-Match", "W/"+first.header.Get("ETag")).is(t, http.StatusOK, "")
	g.post(t, "/requests/r/lookup", object{"why": "x"}, "If-Match", "*").is(t, http.StatusOK, "")
}

// TestRepeats: an act with a key is done once, and each repeat gets the first answer, of any worker.
func TestRepeats(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	other := newRigOn(t, g.pool) // another worker of the fleet
	g.add(t, "r", "crm", plain)
	tag := g.tag(t, "r")
	first := g.post(t, "/requests/r/cancel", object{"why": "a test"}, "Idempotency-Key", "k", "If-Match", tag)
	first.is(t, http.StatusOK, "")
	for _, worker := range []*rig{g, other} {
		again := worker.post(t, "/requests/r/cancel", object{"why": "a test"}, "Idempotency-Key", "k", "If-Match", tag)
		if again.code != first.code || again.text != first.text || !maps.EqualFunc(again.header, first.header, slices.Equal) {
			t.Errorf("%d %s %v, first %d %s %v", again.code, again.text, again.header, first.code, first.text, first.header)
		}
	}
	for name, r := range map[string]*http.Request{
		"another reason":  as(http.MethodPost, "/requests/r/cancel", object{"why": "another"}, "If-Match", tag),
		"another tag":     as(http.MethodPost, "/requests/r/cancel", object{"why": "a test"}),
		"another act":     as(http.MethodPost, "/requests/r/retry", object{"why": "a test"}, "If-Match", tag),
		"another request": as(http.MethodPost, "/requests/q/cancel", object{"why": "a test"}, "If-Match", tag),
	} {
		r.Header.Set("Idempotency-Key", "k")
		r.Header.Set("Authorization", "Bearer "+actToken)
		if got := g.send(t, r); got.kind() != "key-reused" {
			t.Errorf("%s: %s", name, got.text)
		}
	}
	if got := g.recorded(t); got != "cancel r by ADMIN_TOKEN from 192.0.2.1" {
		t.Error(got)
	}
	// What changed nothing leaves the key free.
	g.post(t, "/requests/r/lookup", object{"why": "a test"}, "Idempotency-Key", "l").is(t, http.StatusConflict, "not-allowed")
	pgtest.Exec(t, g.pool, `UPDATE outbox SET published_at = clock_timestamp()`)
	g.post(t, "/requests/r/republish", object{"why": "a test"}, "Idempotency-Key", "l").is(t, http.StatusOK, "")
	g.post(t, "/requests/r/republish", object{"why": "a test"}, "Idempotency-Key", "l").is(t, http.StatusOK, "")
	// And so does what a body says wrong.
	g.post(t, "/requests/r/republish", object{}, "Idempotency-Key", "m").is(t, http.StatusBadRequest, "invalid")
	if keys := pgtest.One[string](t, g.pool, `SELECT string_agg(key, ' ' ORDER BY key) FROM outbox_idempotency_keys`); keys != "k l" {
		t.Error(keys)
	}
}

// TestDoneAlthoughUnread: an act that is committed is answered as done, also where its request cannot be read again. Its
// key is not given back.
func TestDoneAlthoughUnread(t *testing.T) {
	t.Parallel()
	for act, body := range map[string]object{
		"resolve": {"why": "a test", "absent": true, "unverified": true}, "erase": {"why": "a test"}, "cancel": {"why": "a test"},
	} {
		t.Run(act, func(t *testing.T) {
			t.Parallel()
			g := newRig(t)
			g.add(t, "r", "crm", plain, keyed)
			switch act {
			case "erase":
				g.abandoned(t, "r")
			default:
				g.uncertain(t, "r")
			}
			tag := g.tag(t, "r")
			blind := g.blind(t)
			for range 2 {
				got := blind.post(t, "/requests/r/"+act, body, "Idempotency-Key", "k", "If-Match", tag)
				got.is(t, http.StatusOK, "")
				if got.header.Get("ETag") != "" {
					t.Errorf("an ETag of what was not read: %v", got.header)
				}
			}
			if got := g.recorded(t); strings.Count(got, act) != 1 || strings.Contains(got, ";") {
				t.Error(got)
			}
		})
	}
}

// TestOutcomeUnknownIsKept: what may have been done is not done again under its key.
func TestOutcomeUnknownIsKept(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	pgtest.Exec(t, g.pool, `ALTER TABLE outbox_gate RENAME COLUMN reason TO reasons`) // which ends each act on the gate with an error of Postgres
	for range 2 {
		g.post(t, "/gate/hold", object{"why": "a test"}, "Idempotency-Key", "k").is(t, http.StatusInternalServerError, "outcome-unknown")
		pgtest.Exec(t, g.pool, `DO $$ BEGIN ALTER TABLE outbox_gate RENAME COLUMN reasons TO reason; EXCEPTION WHEN undefined_column THEN NULL; END $$`)
	}
	if got := g.recorded(t); got != "" {
		t.Error(got)
	}
	g.post(t, "/gate/hold", object{"why": "a test"}, "Idempotency-Key", "l").is(t, http.StatusOK, "")
}

// TestRepeatsAtOnce: of the same request, sent by many at the same moment, one acts.
func TestRepeatsAtOnce(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	var all sync.WaitGroup
	for range 6 {
		all.Go(func() {
			got := g.post(t, "/gate/hold", object{"why": "a test"}, "Idempotency-Key", "k")
			if got.code != http.StatusOK && got.kind() != "under-way" {
				t.Error(got.text)
			}
		})
	}
	all.Wait()
	if got := g.recorded(t); got != "hold by ADMIN_TOKEN from 192.0.2.1" {
		t.Error(got)
	}
}

// TestActOnManyTakesWhatWasShown: what has come since the preview is not taken, and an act without one is refused.
func TestActOnManyTakesWhatWasShown(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	g.add(t, "shown", "crm", plain)
	many := object{"act": "cancel", "filter": object{"state": "pending", "older_than": "1ns"}}
	preview := g.post(t, "/acts:preview", many)
	preview.has(t, "[shown]", "first")
	preview.has(t, 1, "becomes", "cancelled")
	g.add(t, "later", "crm", plain)
	many["why"], many["token"] = "a test", preview.body["token"]
	g.post(t, "/acts", object{"why": "a test", "act": "cancel", "filter": object{"state": "pending"}, "token": preview.body["token"]}).is(t, http.StatusConflict, "other-preview")
	g.post(t, "/acts", object{"why": "a test", "act": "cancel", "filter": many["filter"]}).is(t, http.StatusBadRequest, "invalid")
	g.post(t, "/acts", many).has(t, "[shown]", "first")
	if g.state(t, "later") != "pending" {
		t.Error("what nobody was shown was taken")
	}
}

// TestReleaseLeavesOut: where another session holds a row, the gate is open, and the answer says what is not due yet.
func TestReleaseLeavesOut(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	g.add(t, "r", "crm", plain)
	pgtest.Exec(t, g.pool, `UPDATE outbox SET attempt = 1, http_status = 429, due_at = now() + interval '1 hour', error_kind = 'http_429'`)
	g.post(t, "/gate/hold", object{"why": "a test"}).is(t, http.StatusOK, "")
	tx, err := g.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(t.Context()) }()
	pgtest.Exec(t, tx, `SELECT FROM outbox FOR UPDATE`)
	for range 2 { // the repeat does not release again
		got := g.post(t, "/gate/release", object{"why": "a test"}, "Idempotency-Key", "k")
		got.is(t, http.StatusConflict, "locked")
		if detail, _ := got.body["detail"].(string); !strings.HasPrefix(detail, "the gate is open, but 1 of the requests") {
			t.Error(got.text)
		}
	}
	g.get(t, "/gate").has(t, "ok", "state")
	if got := g.recorded(t); strings.Count(got, "release") != 1 {
		t.Error(got)
	}
}

// TestReleaseOfAnotherHold: a release with the ETag of a hold opens no later one, and says what happened since.
func TestReleaseOfAnotherHold(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	held := g.post(t, "/gate/hold", object{"why": "a flood"})
	seen := g.get(t, "/gate").header.Get("ETag")
	if seen == "" || seen != held.header.Get("ETag") {
		t.Errorf("the ETag is %s, and was %s in the answer to the hold", seen, held.header.Get("ETag"))
	}
	g.post(t, "/gate/release", object{"why": "over"}, "If-Match", seen).is(t, http.StatusOK, "")
	now := g.post(t, "/gate/hold", object{"why": "wrong numbers"})
	late := g.post(t, "/gate/release", object{"why": "over"}, "If-Match", seen, "Idempotency-Key", "k")
	late.is(t, http.StatusPreconditionFailed, "stale")
	late.has(t, now.header.Get("ETag"), "etag")
	since, _ := late.body["since"].(string)
	if !strings.HasPrefix(since, "release by ADMIN_TOKEN from 192.0.2.1 at ") || !strings.HasSuffix(since, " (wrong numbers)") {
		t.Error(late.text)
	}
	g.get(t, "/gate").has(t, "held", "state")
	g.post(t, "/gate/release", object{"why": "over"}, "If-Match", now.header.Get("ETag"), "Idempotency-Key", "k").is(t, http.StatusOK, "")
	g.get(t, "/gate").has(t, "ok", "state")
}

// TestLockedIsNamed: an act that waited for another session says whose it is.
func TestLockedIsNamed(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	tx, err := g.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(t.Context()) }()
	pgtest.Exec(t, tx, `SELECT FROM outbox_gate FOR UPDATE`)
	pgtest.Exec(t, tx, `SELECT set_config('application_name', 'a forgotten psql', false)`)
	g.add(t, "r", "crm", plain)
	held := g.otherwise(t, func(config *pgxpool.Config) { config.ConnConfig.RuntimeParams["lock_timeout"] = "300ms" })
	for _, act := range []string{"/gate/hold", "/gate/release"} {
		held.post(t, act, object{"why": "a test"}).is(t, http.StatusConflict, "locked")
	}
	pgtest.Exec(t, tx, `LOCK TABLE outbox_acts IN ACCESS EXCLUSIVE MODE`)
	got := held.post(t, "/requests/r/cancel", object{"why": "a test"})
	got.is(t, http.StatusConflict, "locked")
	if !strings.Contains(got.text, `"application_name":"a forgotten psql"`) {
		t.Error(got.text)
	}
	if g.state(t, "r") != "pending" {
		t.Error("it was done")
	}
}
