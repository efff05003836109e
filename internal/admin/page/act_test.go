package page_test

import (
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"flexworker/internal/testing/expect"
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
	b.visit("request?id=shop-4204-survey")
	b.sees("#explanation", "Its channel was not set up")
	b.sees("#timeline", "Set-up: setup failed")
	b.visit("request?id=crm-4233-reminder")
	b.sees("#explanation", "Twilio's code 45004")
	b.fill(".find input", "customerName=Ada Lovelace")
	b.click(".find button")
	b.sees("#list", "Found for")
	b.sees("#list tbody", "crm-4206-order")
}

// TestRetryMany: an act on all that match is shown first, with its count and five of them, and takes nothing that came after that.
func TestRetryMany(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	r.stage(t)
	b := r.open(t, desktop)
	b.signIn(actToken, "ada")
	expect.Eventually(t, func() error { // a busy Postgres may have no time to count what is left out
		b.visit("")
		b.clickText("#failures a", "5 requests: http_400")
		b.sees("#list tbody", "http_400")
		b.unfold("#act-on-all")
		b.fill("#why-many", "the numbers are put right")
		b.click("#many form button")
		return counted(b.text("#preview"))
	})
	b.sees("#preview h2", "Retry takes 5 of 5 requests that match. Nothing is done yet")
	b.sees("#preview", "5: sent again")
	if n := evaluate[int](b, `document.querySelectorAll('#preview a.id').length`); n != 5 {
		t.Errorf("%d are shown", n)
	}
	if got := r.acts(t); strings.Contains(got, "put right") {
		t.Fatalf("before it is confirmed: %s", got)
	}
	pgtest.Exec(t, r.pool, `UPDATE outbox SET state = 'rejected', error_kind = 'http_400', http_status = 400, twilio_code = 45004, attempt = 1, due_at = NULL, settled_at = clock_timestamp(), published_at = clock_timestamp()
		 WHERE request_id = 'crm-4257-refund' OR request_id = 'shop-4258-reminder'`)
	b.click("#preview form button")
	b.told("Retry: 5 requests")
	if n := evaluate[int](b, `document.querySelectorAll('#list a.id').length`); n != 5 {
		t.Errorf("%d of those that were retried are listed", n)
	}
	pgtest.Exec(t, r.pool, `UPDATE outbox SET state = 'rejected', error_kind = 'http_409', http_status = 409, attempt = 2, due_at = NULL, settled_at = clock_timestamp(), published_at = clock_timestamp() WHERE request_id = 'shop-4231-order'`)
	b.sees("#list", "http_409") // the list follows them
	if n := pgtest.One[int](t, r.pool, `SELECT count(*) FROM outbox_acts WHERE act = 'retry' AND who = 'ada' AND why = 'the numbers are put right'`); n != 5 {
		t.Errorf("%d were retried", n)
	}
	if n := pgtest.One[int](t, r.pool, `SELECT count(*) FROM outbox WHERE error_kind = 'http_400' AND state = 'rejected'`); n != 2 {
		t.Errorf("%d are still rejected, want the two that came after the preview", n)
	}
}

// counted is an error where a preview does not say what it leaves out, since Postgres may take half a second for that and no longer.
func counted(preview string) error {
	if strings.Contains(preview, "was not counted") {
		return errors.New(preview)
	}
	return nil
}

// TestLeftOut: a preview says how many match, and why it leaves some of them.
func TestLeftOut(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	r.add(t, "crm", "refused", "Ada Lovelace", 1)
	r.add(t, "crm", "faulty", "Ada Lovelace", 2)
	pgtest.Exec(t, r.pool, `UPDATE outbox SET state = 'rejected', error_kind = 'http_400', attempt = 1, due_at = NULL, settled_at = now(), published_at = now()`)
	pgtest.Exec(t, r.pool, `UPDATE outbox SET error_kind = 'invalid', attempt = 0, faults = '[{"path": "channel", "problem": "is no channel"}]' WHERE request_id = 'faulty'`)
	p := r.signIn(t, actToken, "ada")
	preview := func(act string) (page string) {
		t.Helper()
		expect.Eventually(t, func() error {
			page, _ = p.post("requests", "state", "rejected", "act", act, "why", "a test")
			return counted(page)
		})
		return page
	}
	page := preview("retry")
	for _, want := range []string{"Retry takes 1 of 2 requests that match. Nothing is done yet", "<li>1: sent again</li>", "Left as they are:", "<li>1: refused by the check before Flex, and would be again</li>"} {
		if !strings.Contains(page, want) {
			t.Errorf("%q is not in\n%s", want, page)
		}
	}
	if page = preview("cancel"); !strings.Contains(page, "Cancel takes 0 of 2 requests that match") || !strings.Contains(page, "<li>2: settled: rejected</li>") {
		t.Errorf("none:\n%s", page)
	}
}

// TestManyAreListed: an address names no more requests than fit into one; of the others the notice says where they are.
func TestManyAreListed(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	for n := range 30 {
		r.add(t, "crm", fmt.Sprint("r-", n), "Ada Lovelace", uint64(n+1))
	}
	p := r.signIn(t, actToken, "ada")
	page, _ := p.post("requests", "state", "pending", "act", "cancel", "why", "a test")
	_, rest, _ := strings.Cut(page, `name="token" value="`)
	token, _, _ := strings.Cut(rest, `"`)
	page, _ = p.post("requests", "state", "pending", "act", "cancel", "why", "a test", "token", token)
	if n := strings.Count(page, `<a class="id"`); n != 20 || !strings.Contains(page, "The first 20 are listed, Acts has all.") || !strings.Contains(page, "Cancel: 30 requests") {
		t.Errorf("%d are listed:\n%s", n, page)
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
	b.told("The fleet is held")
	b.sees("#verdict h2", "Nothing is sent: the fleet is held")
	b.sees("#verdict", "too many duplicates in Flex")
	b.sees("#verdict", "by ada")
	b.sees("#verdict", "No. Somebody has to release it")
	b.visit("fleet")
	b.sees(".gate-word", "gate: held")
	b.visit("")
	b.fill("#why-release", "Flex is right again")
	b.click("#release button")
	b.told("The gate is open")
	b.sees(".gate-word", "gate: open")
	pgtest.Exec(t, r.pool, `UPDATE outbox_gate SET held_since = now(), reason = 'a test', changed_by = 'grace'`)
	b.sees("#verdict h2", "Nothing is sent: the fleet is held")
	b.becomes("the notice of the release is gone", `!document.querySelector('main > .note')`)
	if got, want := r.acts(t), "ada hold too many duplicates in Flex; ada release Flex is right again"; got != want {
		t.Errorf("recorded: %s, want %s", got, want)
	}
}

// TestReleaseOfAnotherHold: two people read why the fleet is held. One releases it and a third holds it anew: the second's
// release changes nothing, and tells what happened.
func TestReleaseOfAnotherHold(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	r.replicas(t)
	ada, bob, carl := r.signIn(t, actToken, "ada"), r.signIn(t, actToken, "bob"), r.signIn(t, actToken, "carl")
	tag := func(p *person) string {
		text, _ := p.get("")
		found := regexp.MustCompile(`(?s)action="release".*?name="tag" value="([^"]+)"`).FindStringSubmatch(text)
		if found == nil {
			t.Fatal(text)
		}
		return found[1]
	}
	ada.post("hold", "why", "a flood")
	seenByAda, seenByBob := tag(ada), tag(bob)
	if text, _ := ada.post("release", "why", "it is over", "tag", seenByAda); !strings.Contains(text, "The gate is open") {
		t.Error(text)
	}
	carl.post("hold", "why", "wrong numbers")
	text, status := bob.post("release", "why", "over, I read", "tag", seenByBob)
	if status != http.StatusConflict {
		t.Error(status)
	}
	for _, want := range []string{`id="why-release" name="why" value="over, I read"`, "Nothing was changed: the gate is no longer as you saw it", "release by ada at ", "(it is over); hold by carl at ", "(wrong numbers). It is held now."} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
	if got, want := r.acts(t), "ada hold a flood; ada release it is over; carl hold wrong numbers"; got != want {
		t.Errorf("recorded: %s, want %s", got, want)
	}
	bob.post("release", "why", "now I know", "tag", tag(bob))
	if got := r.acts(t); !strings.HasSuffix(got, "; bob release now I know") {
		t.Errorf("recorded: %s", got)
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
	b.told("Cancel: done")
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
	b.told("Cancel: done")
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
	r.uncertain(t, "crm-1", true)
	if page, _ = p.get("decide?id=crm-1"); strings.Contains(page, "Lovelace") || strings.Contains(page, "15550100") {
		t.Errorf("who may look is shown the customer:\n%s", page)
	}
	r.signIn(t, actToken, "ada").get("decide?id=crm-1")
	if text := r.log.String(); !strings.Contains(text, "a customer was shown") || !strings.Contains(text, "who=ada") {
		t.Errorf("the log does not say who was shown the customer: %s", text)
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
	b := r.open(t, desktop)
	b.signIn(actToken, "ada")
	b.sees("#attention", "Nothing needs a person")
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
