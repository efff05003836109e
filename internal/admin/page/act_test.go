package page_test

import (
	"strings"
	"testing"

	"flexworker/internal/testing/pgtest"
)

// state is where a request stands, and its interaction.
func (r *rig) state(t testing.TB, id string) string {
	t.Helper()
	return pgtest.One[string](t, r.pool, `SELECT concat_ws(' ', state, interaction_sid, resolved_by) FROM outbox WHERE request_id = $1`, id)
}

// acts are what is recorded of people, the oldest first.
func (r *rig) acts(t testing.TB) string {
	t.Helper()
	return pgtest.One[string](t, r.pool, `SELECT coalesce(string_agg(concat_ws(' ', who, act, request_id, attempt, why), '; ' ORDER BY id), '') FROM outbox_acts`)
}

// TestFindRequest: somebody who has an id, the sid of an interaction or an attribute finds the request, and reads why it is where it is.
func TestFindRequest(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	r.stage(t)
	b := r.open(t, desktop)
	b.signIn(lookToken, "grace")
	sid := pgtest.One[string](t, r.pool, `SELECT interaction_sid FROM outbox WHERE request_id = 'crm-4203-reminder'`)
	for _, text := range []string{"crm-4203-reminder", sid} {
		b.visit("")
		b.fill(".find input", text)
		b.click(".find button")
		b.sees("h1", "crm-4203-reminder")
		b.sees("#explanation", "It is created as "+sid)
		b.sees("#timeline", "Attempt 1: created")
	}
	b.fill(".find input", "customerName=Ada Lovelace")
	b.click(".find button")
	b.sees("#list", "Found for")
	b.sees("#list tbody", "crm-4206-order")
}

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

// TestRetryMany: an act on all that match is shown first, with its count and five of them, and takes nothing that came after that.
func TestRetryMany(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	r.stage(t)
	b := r.open(t, desktop)
	b.signIn(actToken, "ada")
	b.visit("")
	b.clickText("#failures a", "5 requests: http_400")
	b.sees("#list tbody", "http_400")
	b.unfold("#act-on-all")
	b.fill("#why-many", "the numbers are put right")
	b.click("#many form button")
	b.sees("#preview h2", "It would take 5 requests. Nothing is done yet")
	b.sees("#preview", "5: sent again")
	if n := evaluate[int](b, `document.querySelectorAll('#preview a.id').length`); n != 5 {
		t.Errorf("%d are shown", n)
	}
	if got := r.acts(t); strings.Contains(got, "put right") {
		t.Fatalf("before it is confirmed: %s", got)
	}
	pgtest.Exec(t, r.pool, `UPDATE outbox SET state = 'rejected', error_kind = 'http_400', http_status = 400, twilio_code = 21211, attempt = 1, due_at = NULL, settled_at = clock_timestamp(), published_at = clock_timestamp()
		 WHERE request_id = 'crm-4257-refund' OR request_id = 'shop-4258-reminder'`)
	b.click("#preview form button")
	b.sees(".note", "Retry: 5 requests")
	if n := pgtest.One[int](t, r.pool, `SELECT count(*) FROM outbox_acts WHERE act = 'retry' AND who = 'ada' AND why = 'the numbers are put right'`); n != 5 {
		t.Errorf("%d were retried", n)
	}
	if n := pgtest.One[int](t, r.pool, `SELECT count(*) FROM outbox WHERE error_kind = 'http_400' AND state = 'rejected'`); n != 2 {
		t.Errorf("%d are still rejected, want the two that came after the preview", n)
	}
}

// TestHold: the gate is shut and opened again, and every screen says so.
func TestHold(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	r.replicas(t)
	b := r.open(t, desktop)
	b.signIn(actToken, "ada")
	b.sees(".gate-word", "gate: open")
	b.unfold("#hold-it")
	b.fill("#why-hold", "too many duplicates in Flex")
	b.click("#hold-it form button")
	b.sees(".note", "The fleet is held")
	b.sees("#verdict h2", "Nothing is sent: the fleet is held")
	b.sees("#verdict", "too many duplicates in Flex")
	b.sees("#verdict", "by ada")
	b.sees("#verdict", "No. Somebody has to release it")
	b.visit("fleet")
	b.sees(".gate-word", "gate: held")
	b.visit("")
	b.fill("#why-release", "Flex is right again")
	b.click("#release button")
	b.sees(".note", "The gate is open")
	b.sees(".gate-word", "gate: open")
	if got, want := r.acts(t), "ada hold too many duplicates in Flex; ada release Flex is right again"; got != want {
		t.Errorf("recorded: %s, want %s", got, want)
	}
}

// TestWithoutScript: everything works without JavaScript.
func TestWithoutScript(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	r.stage(t)
	b := r.open(t, screen{width: 1280, height: 900, noScript: true})
	b.signIn(actToken, "ada")
	b.sees("#verdict h2", "1 of 3 replicas cannot work")
	b.unfold("#hold-it")
	b.fill("#why-hold", "a test")
	b.click("#hold-it form button")
	b.sees(".gate-word", "gate: held")
	b.fill(".find input", "crm-4251-order")
	b.click(".find button")
	b.unfold("#do-cancel")
	b.fill("#why-cancel", "they called us")
	b.click("#do-cancel form button")
	b.sees(".note", "Cancel: done")
	b.click(`nav a[href="acts"]`)
	b.sees("#acts-list tbody", "they called us")
	b.click(".who button")
	b.sees("h1", "Sign in")
	b.visit("acts")
	b.sees("h1", "Sign in")
}

// TestBehindAProxy: a proxy may put a path before the page's own: links, forms, redirects, notices and the pulse keep to it.
func TestBehindAProxy(t *testing.T) {
	t.Parallel()
	r := newRig(t, "/ops/flex")
	r.stage(t)
	b := r.open(t, desktop)
	b.visit("request?id=crm-4251-order")
	b.sees("h1", "Sign in")
	b.fill("#token", actToken)
	b.fill("#name", "ada")
	b.click("form button.main")
	b.sees("h1", "crm-4251-order") // where they wanted to go
	b.unfold("#do-cancel")
	b.fill("#why-cancel", "a test")
	b.click("#do-cancel form button")
	b.sees(".note", "Cancel: done")
	for _, link := range []string{"decide", "requests", "acts", "malformed", "fleet", "./"} {
		b.click(`nav a[href="` + link + `"]`)
		if at := evaluate[string](b, `location.pathname`); !strings.HasPrefix(at, "/ops/flex/") {
			t.Errorf("%s leads to %s", link, at)
		}
		b.sees("nav a[aria-current]", b.text("h1"))
	}
	evaluate[int](b, `fetch('pulse').then(r => r.status)`)
	b.click(".who button")
	b.sees("h1", "Sign in")
}

// TestPayload: it is masked until somebody shows it, and the log says who did.
func TestPayload(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	r.add(t, "crm", "crm-1", "Ada Lovelace", 1)
	p := r.signIn(t, lookToken, "grace")
	page, _ := p.get("request?id=crm-1")
	if strings.Contains(page, "Lovelace") || strings.Contains(page, "15550100") || strings.Contains(page, "4711") || !strings.Contains(page, "customerName") {
		t.Errorf("it is not masked:\n%s", page)
	}
	if strings.Contains(r.log.String(), "payload") {
		t.Error("the log says that it was shown")
	}
	page, _ = p.post("payload", "id", "crm-1")
	if !strings.Contains(page, "Ada Lovelace") || !strings.Contains(page, "15550100") {
		t.Errorf("it is not shown:\n%s", page)
	}
	if text := r.log.String(); !strings.Contains(text, "a payload was shown") || !strings.Contains(text, "who=grace") || !strings.Contains(text, "request_id=crm-1") {
		t.Errorf("the log does not say who looked: %s", text)
	}
}

// TestRegions: what has changed is fetched anew, but for what somebody is at work in.
func TestRegions(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	r.replicas(t)
	b := r.open(t, desktop)
	b.signIn(actToken, "ada")
	b.sees("#attention", "Nothing waits for a person")
	b.unfold("#hold-it")
	b.fill("#why-hold", "half a reas")
	pgtest.Exec(t, r.pool, `UPDATE outbox_gate SET held_since = now(), reason = 'by grace', changed_by = 'grace'`)
	b.sees(".gate-word", "gate: held")
	b.sees("#attention", "the gate")
	if got := evaluate[string](b, `document.querySelector('#why-hold').value`); got != "half a reas" {
		t.Errorf("what was typed became %q", got)
	}
	evaluate[bool](b, `(document.querySelector('#why-hold').value = '', document.activeElement.blur(), true)`)
	b.sees("#verdict h2", "Nothing is sent: the fleet is held")
}
