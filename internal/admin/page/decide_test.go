package page_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"flexworker/internal/testing/pgtest"
)

// TestItExists: the sid is pasted, the worker reads it and shows the customer, and only then it is saved.
func TestItExists(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	r.add(t, "crm", "crm-1", "Ada Lovelace", 1)
	r.uncertain(t, "crm-1", true)
	sid := r.inFlex(t, "crm-1", "Ada Lovelace")
	b := r.open(t, desktop)
	b.signIn(actToken, "ada")
	b.click(`nav a[href="decide"]`)
	b.sees("#evidence", "Could have been under way until")
	b.sees("#decision", "Ada Lovelace")
	b.sees("#decision", "+15550100")
	b.sees("#decision", pgtest.One[string](t, r.pool, `SELECT lookup_key FROM outbox`))
	b.fill("#sid", sid)
	b.fill("#why-exists", "found it in Flex")
	b.click("form[aria-labelledby=exists] button")
	b.sees("#said", "customerName Ada Lovelace")
	b.sees("#said", "channel sms")
	if got := r.state(t, "crm-1"); got != "uncertain" {
		t.Fatalf("before it is saved it is %s", got)
	}
	b.click("#decision button[name=save]")
	b.sees(".note", "crm-1 is now created")
	b.sees("#queue", "Nothing waits for a decision")
	if got, want := r.state(t, "crm-1"), "created "+sid+" operator"; got != want {
		t.Errorf("it is %s, want %s", got, want)
	}
	if got, want := r.acts(t), "ada resolve created crm-1 1 found it in Flex"; got != want {
		t.Errorf("recorded: %s, want %s", got, want)
	}
}

// TestItIsAnothers: an interaction of somebody else is not saved, and the page says whose it is.
func TestItIsAnothers(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	r.add(t, "crm", "crm-1", "Ada Lovelace", 1)
	r.uncertain(t, "crm-1", true)
	sid := r.inFlex(t, "crm-2", "Grace Hopper")
	p := r.signIn(t, actToken, "ada")
	text, status := p.post("decide", "id", "crm-1", "attempt", "1", "created", sid, "why", "found it")
	if status != 409 || !strings.Contains(text, "was created for another request") || !strings.Contains(text, "Nothing was changed") {
		t.Errorf("%d\n%s", status, text)
	}
	if got := r.state(t, "crm-1") + r.acts(t); got != "uncertain" {
		t.Errorf("it is %s", got)
	}
}

// TestItDoesNotExist: TaskRouter is asked first. Where it finds the task the decision is refused and the task shown; where it proves
// absence the request is sent again.
func TestItDoesNotExist(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	for n, id := range []string{"there", "absent"} {
		r.add(t, "crm", id, "Ada Lovelace", uint64(n+1))
		r.uncertain(t, id, true)
	}
	sid := r.inFlex(t, "there", "Ada Lovelace")
	// While a task that has ended is still listed, the search counts as well as the log.
	pgtest.Exec(t, r.pool, `UPDATE outbox SET attempt_began_at = now() - interval '60 seconds', uncertain_since = now() - interval '40 seconds'`)
	b := r.open(t, desktop)
	b.signIn(actToken, "ada")
	b.visit("decide?id=there")
	b.sees("form[aria-labelledby=absent]", "a person is called twice")
	b.fill("#why-absent", "not in Flex")
	b.click("form[aria-labelledby=absent] button")
	b.sees("#said", "It exists. Nothing was changed")
	if value := evaluate[string](b, `document.querySelector('#sid').value`); value != sid {
		t.Errorf("the form offers %q, want %s", value, sid)
	}
	b.visit("decide?id=absent")
	b.fill("#why-absent", "not in Flex")
	b.click("form[aria-labelledby=absent] button")
	b.sees("#decision", "TaskRouter says. Nothing is saved yet")
	b.sees("#decision", "a person is called twice")
	if got := r.state(t, "absent"); got != "uncertain" {
		t.Fatalf("before it is saved it is %s", got)
	}
	b.click("#decision button[name=save]")
	b.sees(".note", "absent is now pending")
	if got := r.state(t, "there") + " " + r.state(t, "absent"); got != "uncertain pending" {
		t.Errorf("they are %s", got)
	}
	if got, want := r.acts(t), "ada resolve absent absent 1 not in Flex"; got != want {
		t.Errorf("recorded: %s, want %s", got, want)
	}
}

// TestWhileLookupsGoOn: what lookups may still find is said to be absent only by who says "unverified".
func TestWhileLookupsGoOn(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	r.add(t, "crm", "crm-1", "Ada Lovelace", 1)
	r.uncertain(t, "crm-1", false)
	p := r.signIn(t, actToken, "ada")
	page, _ := p.get("decide?id=crm-1")
	if !strings.Contains(page, "lookups still go on and may find it") {
		t.Errorf("the form does not want it:\n%s", page)
	}
	page, status := p.post("decide", "id", "crm-1", "attempt", "1", "absent", "true", "why", "I know")
	if status != 409 || !strings.Contains(page, "Lookups still go on") || r.state(t, "crm-1") != "uncertain" {
		t.Errorf("without it: %d, %s\n%s", status, r.state(t, "crm-1"), page)
	}
	p.post("decide", "id", "crm-1", "attempt", "1", "absent", "true", "why", "I know", "unverified", "true", "save", "true")
	if got := r.state(t, "crm-1"); got != "pending" {
		t.Errorf("with it: %s", got)
	}
}

// TestTwoPeople: of two browsers on one uncertain request the second decides nothing, and is told what the first did.
func TestTwoPeople(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	r.add(t, "crm", "crm-1", "Ada Lovelace", 1)
	r.uncertain(t, "crm-1", true)
	sid := r.inFlex(t, "crm-1", "Ada Lovelace")
	first, second := r.open(t, desktop), r.open(t, desktop)
	first.signIn(actToken, "ada")
	second.signIn(actToken, "grace")
	for _, b := range []*browser{first, second} {
		b.visit("decide?id=crm-1")
		b.fill("#sid", sid)
		b.fill("#why-exists", "I have seen it")
		b.click("form[aria-labelledby=exists] button")
		b.sees("#said", "customerName Ada Lovelace")
	}
	first.click("#decision button[name=save]")
	first.sees(".note", "is now created")
	second.click("#decision button[name=save]")
	second.sees(".note", "Nothing was changed: this request is no longer as you saw it")
	second.sees(".note", "resolve created by ada")
	second.sees(".note", "I have seen it")
	second.sees("#explanation", "It is created as "+sid)
	if got, want := r.acts(t), "ada resolve created crm-1 1 I have seen it"; got != want {
		t.Errorf("recorded: %s, want %s", got, want)
	}
}

// TestStaleAct: an act on a screen that is old changes nothing, and says what came since.
func TestStaleAct(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	r.add(t, "crm", "crm-1", "Ada Lovelace", 1)
	p := r.signIn(t, actToken, "ada")
	seen := tagIn(t, p, "crm-1")
	r.uncertain(t, "crm-1", true)
	page, _ := p.post("act", "id", "crm-1", "act", "cancel", "attempt", "0", "tag", seen, "why", "they asked for it")
	if !strings.Contains(page, "Nothing was changed") || !strings.Contains(page, "attempt 1 by worker-2") || r.acts(t) != "" {
		t.Errorf("%s\n%s", r.acts(t), page)
	}
}

// TestReasonKept: who was too late, or met a row that another session holds, finds the reason that they typed in the form again.
func TestReasonKept(t *testing.T) {
	t.Parallel()
	const why = `they asked for "it"`
	const kept = `value="they asked for &#34;it&#34;"`
	r := newRig(t, "")
	for n, id := range []string{"cancelled", "found", "decided", "locked"} {
		r.add(t, "crm", id, "Ada Lovelace", uint64(n+1))
	}
	p := r.signIn(t, actToken, "ada")
	seen := map[string]string{"cancelled": tagIn(t, p, "cancelled"), "locked": tagIn(t, p, "locked")}
	for _, id := range []string{"found", "decided"} {
		r.uncertain(t, id, true)
		seen[id] = tagIn(t, p, id)
	}
	act := func(form, id, attempt string, more ...string) (string, int) {
		return p.post(form, append([]string{"id", id, "attempt", attempt, "tag", seen[id], "why", why}, more...)...)
	}

	r.uncertain(t, "cancelled", true)
	page, status := act("act", "cancelled", "0", "act", "cancel")
	if status != http.StatusConflict || !strings.Contains(page, "Nothing was changed") || !strings.Contains(page, `<details class="act" id="do-cancel" open>`) || !strings.Contains(page, kept) {
		t.Errorf("an act: %d\n%s", status, page)
	}
	pgtest.Exec(t, r.pool, `INSERT INTO outbox_attempts (outbox_id, kind, number, worker, started_at, outcome, error, applied) SELECT id, 'lookup', 10, 'worker-1', now(), 'unclear', 'a task carries its key', true FROM outbox WHERE request_id = 'found'`)
	page, status = act("decide", "found", "1", "absent", "true")
	if status != http.StatusConflict || !strings.Contains(page, "a task carries its key") || !strings.Contains(page, `id="why-absent" name="why" `+kept) || strings.Contains(page, `value="`+seen["found"]+`"`) {
		t.Errorf("a decision about what has new evidence: %d\n%s", status, page)
	}
	pgtest.Exec(t, r.pool, `UPDATE outbox SET state = 'abandoned', due_at = NULL, for_person_since = NULL, settled_at = now(), published_at = now() WHERE request_id = 'decided'`)
	page, status = act("decide", "decided", "1", "absent", "true", "save", "true")
	if status != http.StatusConflict || !strings.Contains(page, "it is abandoned now") || !strings.Contains(page, `id="why-retry" name="why" `+kept) {
		t.Errorf("a decision about what has settled: %d\n%s", status, page)
	}
	tx, err := r.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `SELECT FROM outbox WHERE request_id = 'locked' FOR UPDATE`); err != nil {
		t.Fatal(err)
	}
	page, status = act("act", "locked", "0", "act", "cancel")
	if status != http.StatusConflict || !strings.Contains(page, "Another session holds the row") || !strings.Contains(page, kept) {
		t.Errorf("an act on a row that is locked: %d\n%s", status, page)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := r.acts(t); got != "" {
		t.Errorf("recorded: %s", got)
	}
}

// tagIn is the tag that the forms of a request carry.
func tagIn(t testing.TB, p *person, id string) string {
	t.Helper()
	page, _ := p.get("request?id=" + id)
	_, rest, found := strings.Cut(page, `name="tag" value="`)
	tag, _, _ := strings.Cut(rest, `"`)
	if !found || tag == "" {
		t.Fatalf("there is no form:\n%s", page)
	}
	return tag
}

// TestDecideBehindResults: requests that wait for a person are found, however many results wait to be published before them.
func TestDecideBehindResults(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	for n := range 30 {
		r.add(t, "crm", fmt.Sprint("result-", n), "Ada Lovelace", uint64(n+1))
	}
	pgtest.Exec(t, r.pool, `UPDATE outbox SET state = 'expired', due_at = NULL, error_kind = 'expired', settled_at = now() - interval '1 hour'`)
	for n := range 3 {
		id := fmt.Sprint("uncertain-", n)
		r.add(t, "crm", id, "Ada Lovelace", uint64(100+n))
		r.uncertain(t, id, true)
	}
	p := r.signIn(t, lookToken, "grace")
	page, _ := p.get("decide")
	for _, want := range []string{"uncertain-0", "1 of 3 that wait for a person", `href="decide?id=uncertain-1"`} {
		if !strings.Contains(page, want) {
			t.Errorf("it does not say %q:\n%s", want, page)
		}
	}
	if page, _ = p.get("decide?id=uncertain-2"); !strings.Contains(page, "3 of 3 that wait for a person") || strings.Contains(page, "The next one") {
		t.Errorf("the last:\n%s", page)
	}
}
