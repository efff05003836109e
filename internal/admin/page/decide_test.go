package page_test

import (
	"fmt"
	"html"
	"net/http"
	"strings"
	"testing"

	"flexworker/internal/testing/flextest"
	"flexworker/internal/testing/pgtest"
)

// TestItExists: the sid is pasted, the worker reads it and shows the customer, and only then it is saved. Then the screen says what
// becomes of it.
func TestItExists(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	r.add(t, "crm", "crm-1", "Ada Lovelace", 1)
	r.uncertain(t, "crm-1", true)
	b := r.open(t, desktop)
	b.signIn(actToken, "ada")
	b.click(`nav a[href="decide"]`)
	b.sees("#evidence", "Lookups: 9, none found it")
	b.sees("#decision", "SMS")
	b.sees("#decision", "Ada Lovelace")
	b.sees("#decision", "+15550100")
	sid := r.inFlex(t, "crm-1", "Ada Lovelace")
	b.fill("#sid", sid)
	b.fill("#why-exists", "found it in Flex")
	b.click("form[aria-labelledby=exists] button")
	b.sees("#said", "customerName Ada Lovelace")
	b.sees("#said", "channel sms")
	b.sees("#said", "The interaction_request of its task is that of this request.")
	b.sees("#decision", "+15550100")
	if got := r.state(t, "crm-1"); got != "uncertain" {
		t.Fatalf("before it is saved it is %s", got)
	}
	b.click("#decision button[name=save]")
	b.sees("#decided", "It is created now as "+sid)
	b.sees("#decided", "ada said at ")
	b.sees("#decided", "that it exists (found it in Flex).")
	b.sees("#queue", "Nothing waits for a decision")
	if got, want := r.state(t, "crm-1"), "created "+sid+" operator"; got != want {
		t.Errorf("it is %s, want %s", got, want)
	}
	if got, want := r.acts(t), "ada resolve created crm-1 1 found it in Flex"; got != want {
		t.Errorf("recorded: %s, want %s", got, want)
	}
	b.click("#decided a.id")
	b.sees("h1", "crm-1")
}

// TestItIsAnothers: an interaction of somebody else is not saved. What Flex shows of it stands beside the button that saves it all the
// same, and that it is unverified is recorded.
func TestItIsAnothers(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	r.add(t, "crm", "crm-1", "Ada Lovelace", 1)
	r.uncertain(t, "crm-1", true)
	sid := r.inFlex(t, "crm-2", "Grace Hopper")
	b := r.open(t, desktop)
	b.signIn(actToken, "ada")
	b.visit("decide?id=crm-1")
	b.fill("#sid", sid)
	b.fill("#why-exists", "found it")
	b.click("form[aria-labelledby=exists] button")
	b.sees("#said", "Nothing was changed")
	b.sees("#said", "was created for another request")
	b.sees("#said", "customerName Grace Hopper")
	b.sees("form[aria-labelledby=anyway]", "I know it, although Flex does not show it")
	p := r.signIn(t, actToken, "ada")
	if text, status := p.post("decide", "id", "crm-1", "attempt", "1", "created", sid, "why", "found it", "save", "true"); status != 409 || !strings.Contains(text, "was created for another request") {
		t.Errorf("%d\n%s", status, text)
	}
	if text, status := p.post("decide", "id", "crm-1", "attempt", "1", "created", sid, "why", "found it", "unverified", "true"); status != 409 || !strings.Contains(text, "was created for another request") {
		t.Errorf("unverified, not yet saved: %d\n%s", status, text)
	}
	if got := r.state(t, "crm-1") + r.acts(t); got != "uncertain" {
		t.Errorf("it is %s", got)
	}
	b.tick("form[aria-labelledby=anyway] input[type=checkbox]")
	b.click("form[aria-labelledby=anyway] button")
	b.sees("#decided", "that it exists, unverified (found it).")
	if got, want := r.state(t, "crm-1"), "created "+sid+" operator"; got != want {
		t.Errorf("it is %s, want %s", got, want)
	}
}

// TestItDoesNotExist: TaskRouter is asked when the screen is opened. Where it shows the task the sid is filled in and nobody can say
// that there is none; where it proves absence one button sends the request again, and the screen follows what becomes of it.
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
	b.sees("form[aria-labelledby=absent]", "It exists: read it from Flex above.")
	b.holdsText("#sid", sid)
	if n := evaluate[int](b, `document.querySelectorAll('form[aria-labelledby=absent] button').length`); n != 0 {
		t.Error("it can be said that it does not exist")
	}
	p := r.signIn(t, actToken, "ada")
	if page, status := p.post("decide", "id", "there", "attempt", "1", "absent", "true", "why", "not in Flex", "save", "true"); status != 409 || !strings.Contains(page, "It exists. Nothing was changed") {
		t.Errorf("%d\n%s", status, page)
	}
	b.visit("decide?id=absent")
	b.sees("form[aria-labelledby=absent]", "TaskRouter, asked now: neither TaskRouter's tasks nor its event log know its key.")
	b.sees("form[aria-labelledby=absent]", "its customer is contacted twice, by SMS.")
	if n := evaluate[int](b, `document.querySelectorAll('form[aria-labelledby=absent] input[type=checkbox]').length`); n != 0 {
		t.Error("what is proved has to be known as well")
	}
	b.fill("#why-absent", "not in Flex")
	if got := r.state(t, "absent"); got != "uncertain" {
		t.Fatalf("before it is saved it is %s", got)
	}
	b.click("form[aria-labelledby=absent] button")
	b.sees("#decided", "absent")
	b.sees("#decided", "It is being sent again.")
	b.sees("#decided", "that it does not exist (not in Flex).")
	b.sees("#queue", "there") // the next
	if got := r.state(t, "there") + " " + r.state(t, "absent"); got != "uncertain pending" {
		t.Errorf("they are %s", got)
	}
	if got, want := r.acts(t), "ada resolve absent absent 1 not in Flex"; got != want {
		t.Errorf("recorded: %s, want %s", got, want)
	}
	pgtest.Exec(t, r.pool, `UPDATE outbox_gate SET held_since = now(), reason = 'a test', changed_by = 'grace'`)
	b.sees("#decided", "It is sent again once the gate is open")
	pgtest.Exec(t, r.pool, `UPDATE outbox SET state = 'created', interaction_sid = 'KD00000000000000000000000000000001', resolved_by = 'response', due_at = NULL, settled_at = now(), attempt = 2, error_kind = NULL, error_message = NULL WHERE request_id = 'absent'`)
	b.sees("#decided", "It is created now as KD00000000000000000000000000000001")
}

// TestItIsKnown: what TaskRouter does not prove is decided on the screen that says so, by who says how they know it: a tick, the answer
// that they were given, one button.
func TestItIsKnown(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	r.add(t, "crm", "crm-1", "Ada Lovelace", 1)
	r.uncertain(t, "crm-1", true)
	pgtest.Exec(t, r.pool, `UPDATE outbox_attempts SET twilio_request_id = 'RQ00000000000000000000000000000001' WHERE kind = 'attempt'`)
	b := r.open(t, phone)
	b.signIn(actToken, "ada")
	b.visit("decide")
	b.sees("form[aria-labelledby=absent]", "TaskRouter, asked now, finds nothing.")
	b.sees("form[aria-labelledby=absent]", "Ask Twilio's support about RQ00000000000000000000000000000001, or the customer, or look for conversations in Flex since")
	b.unfold("#asked")
	b.sees("#asked", "alone proves nothing")
	p := r.signIn(t, actToken, "ada")
	page, status := p.post("decide", "id", "crm-1", "attempt", "1", "absent", "true", "why", "not in Flex", "save", "true")
	if status != 409 || !strings.Contains(page, "is not proved. Nothing was changed") || !strings.Contains(page, `name="unverified" value="true" required`) || r.state(t, "crm-1") != "uncertain" {
		t.Errorf("without the tick: %d\n%s", status, page)
	}
	b.tick("form[aria-labelledby=absent] input[type=checkbox]")
	b.fill("#why-absent", "Twilio's support: RQ…01 created nothing")
	b.click("form[aria-labelledby=absent] button")
	b.sees("#decided", "It is being sent again.")
	b.sees("#decided", "that it does not exist, unverified (Twilio's support: RQ…01 created nothing).")
	if got := r.state(t, "crm-1"); got != "pending" {
		t.Errorf("it is %s", got)
	}
}

// TestTaskRouterIsSlow: a screen does not wait for TaskRouter. What it has not said by then it is asked again before anything is saved.
func TestTaskRouterIsSlow(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	r.page.AskFor(0)
	r.add(t, "crm", "crm-1", "Ada Lovelace", 1)
	r.uncertain(t, "crm-1", true)
	pgtest.Exec(t, r.pool, `UPDATE outbox SET attempt_began_at = now() - interval '60 seconds', uncertain_since = now() - interval '40 seconds'`)
	p := r.signIn(t, actToken, "ada")
	page, status := p.get("decide?id=crm-1")
	if status != 200 || !strings.Contains(page, "TaskRouter has not answered yet") || !strings.Contains(page, "Ask TaskRouter, and save it if it is proved") || strings.Contains(page, `name="unverified"`) {
		t.Errorf("%d\n%s", status, page)
	}
	p.post("decide", "id", "crm-1", "attempt", "1", "absent", "true", "why", "a test", "save", "true")
	if got := r.state(t, "crm-1"); got != "pending" {
		t.Errorf("it is %s", got)
	}
}

// TestStandsAtTheAnswer: after a step the browser stands at what it has brought, also where the screen is small and there is no script.
func TestStandsAtTheAnswer(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	r.add(t, "crm", "crm-1", "Ada Lovelace", 1)
	r.uncertain(t, "crm-1", true)
	sid := r.inFlex(t, "crm-2", "Grace Hopper")
	for name, s := range map[string]screen{"with the script": phone, "without it": {width: 400, height: 860, noScript: true}} {
		b := r.open(t, s)
		b.signIn(actToken, "ada")
		stands := func(at string) {
			t.Helper()
			b.becomes(name+": "+at+" is in sight", `(at => at && at.top >= 0 && at.top < `+fmt.Sprint(s.height)+`)(document.querySelector(`+quoted(at)+`)?.getBoundingClientRect())`)
		}
		b.visit("decide?id=crm-1")
		b.fill("#sid", sid)
		b.fill("#why-exists", "a test")
		b.click("form[aria-labelledby=exists] button")
		stands("#said")
		b.visit("request?id=crm-1")
		b.click("#payload button")
		stands("#payload")
	}
}

// TestToSearchWith: a person is given the query to paste, without secrets, and it is escaped for where it is pasted.
func TestToSearchWith(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	r.add(t, "crm", "crm-1", "Ada Lovelace", 1)
	r.uncertain(t, "crm-1", true)
	key := pgtest.One[string](t, r.pool, `SELECT lookup_key FROM outbox`)
	p := r.signIn(t, actToken, "ada")
	page, _ := p.get("decide?id=crm-1")
	for _, want := range []string{`interaction_request == "` + key + `"`,
		`curl -G -u "$TWILIO_API_KEY:$TWILIO_API_SECRET" --data-urlencode 'EvaluateTaskAttributes=interaction_request == "` + key + `"' https://taskrouter.twilio.com/v1/Workspaces/` + flextest.WorkspaceSID + `/Tasks`} {
		if !strings.Contains(html.UnescapeString(page), want) {
			t.Errorf("%s is not in\n%s", want, page)
		}
	}
	pgtest.Exec(t, r.pool, `UPDATE outbox SET lookup_key = NULL, lookup_attribute = NULL`)
	r.page.Forget()
	if page, _ = p.get("decide?id=crm-1"); strings.Contains(page, "curl") || !strings.Contains(page, "TaskRouter cannot be searched for it") || !strings.Contains(page, "TaskRouter cannot be asked") {
		t.Errorf("without a key:\n%s", page)
	}
	page, _ = r.signIn(t, lookToken, "eve").get("decide?id=crm-1")
	if !strings.Contains(page, `The customer stands in <a href="request?id=crm-1#payload">its payload</a>`) || !strings.Contains(page, "SMS") {
		t.Errorf("who may look:\n%s", page)
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
	if !strings.Contains(page, "Lookups still go on, and may find it") || !strings.Contains(page, `name="unverified" value="true" required`) {
		t.Errorf("the form does not want it:\n%s", page)
	}
	page, status := p.post("decide", "id", "crm-1", "attempt", "1", "absent", "true", "why", "I know", "save", "true")
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
	first, second := r.open(t, desktop), r.open(t, desktop)
	first.signIn(actToken, "ada")
	second.signIn(actToken, "grace")
	for _, b := range []*browser{first, second} {
		b.visit("decide?id=crm-1")
	}
	sid := r.inFlex(t, "crm-1", "Ada Lovelace")
	for _, b := range []*browser{first, second} {
		b.fill("#sid", sid)
		b.fill("#why-exists", "I have seen it")
		b.click("form[aria-labelledby=exists] button")
		b.sees("#said", "customerName Ada Lovelace")
	}
	first.click("#decision button[name=save]")
	first.sees("#decided", "It is created now as")
	second.click("#decision button[name=save]")
	second.told("Nothing was changed: this request is no longer as you saw it")
	second.told("resolve created by ada")
	second.told("I have seen it")
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
	page, status = act("decide", "found", "1", "absent", "true", "save", "true")
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
	for _, want := range []string{"uncertain-0", "1 of 3, the oldest first", `href="decide?id=uncertain-1"`} {
		if !strings.Contains(page, want) {
			t.Errorf("it does not say %q:\n%s", want, page)
		}
	}
	if page, _ = p.get("decide?id=uncertain-2"); !strings.Contains(page, "3 of 3, the oldest first") || strings.Contains(page, "The next one") {
		t.Errorf("the last:\n%s", page)
	}
}

// wordsToDecide counts the words that a person reads from the headline to the button that says that it does not exist.
func wordsToDecide(b *browser) int {
	return evaluate[int](b, `(() => {
		const walk = document.createTreeWalker(document.querySelector('main'), NodeFilter.SHOW_TEXT);
		const first = document.querySelector('h1'), last = document.querySelector('form[aria-labelledby=absent] button');
		let words = 0;
		for (let text = walk.nextNode(); text && !last.contains(text); text = walk.nextNode()) {
			if (!(first.compareDocumentPosition(text) & Node.DOCUMENT_POSITION_FOLLOWING) || first.contains(text)) continue;
			if (text.parentElement.closest('button, noscript') || !text.parentElement.checkVisibility()) continue;
			words += text.data.split(/\s+/).filter(Boolean).length;
		}
		return words;
	})()`)
}

// TestFewWords: who is woken up reads in a minute what it takes to say that a request does not exist, where nothing proves it. What
// TaskRouter answered is said in one line, and lists are folded.
func TestFewWords(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	r.add(t, "crm", "crm-1", "Ada Lovelace", 1)
	r.uncertain(t, "crm-1", true)
	pgtest.Exec(t, r.pool, `UPDATE outbox_attempts SET twilio_request_id = 'RQ00000000000000000000000000000001', http_status = 200, error = 'a 2xx without a sid' WHERE kind = 'attempt'`)
	b := r.open(t, desktop)
	b.signIn(actToken, "ada")
	b.visit("decide?id=crm-1")
	if n := wordsToDecide(b); n > 150 {
		t.Errorf("%d words, at most 150 are wanted:\n%s\n%s", n, b.text("#evidence"), b.text("#decision"))
	}
}

// TestDecidedWhileTyping: who has begun to type when somebody else decides keeps what they typed, is told so beside the buttons, and can
// press none.
func TestDecidedWhileTyping(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	r.add(t, "crm", "crm-1", "Ada Lovelace", 1)
	r.uncertain(t, "crm-1", true)
	b := r.open(t, desktop)
	b.signIn(actToken, "grace")
	b.visit("decide?id=crm-1")
	b.fill("#why-absent", "Twilio's support")
	p := r.signIn(t, actToken, "ada")
	p.post("decide", "id", "crm-1", "attempt", "1", "absent", "true", "why", "the customer says so", "unverified", "true", "save", "true")
	b.sees("form[aria-labelledby=absent]", "Decided meanwhile: It is pending")
	b.sees("form[aria-labelledby=absent]", "ada said at")
	b.is("form[aria-labelledby=absent] button[name=save]:disabled")
	b.is("form[aria-labelledby=exists] button.main:disabled")
	b.holdsText("#why-absent", "Twilio's support")
}

// TestTimeOfTheAttempt: of a request that was decided and sent again the evidence shows the time of the attempt that it names.
func TestTimeOfTheAttempt(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	r.add(t, "crm", "crm-1", "Ada Lovelace", 1)
	r.uncertain(t, "crm-1", true)
	p := r.signIn(t, actToken, "ada")
	p.post("decide", "id", "crm-1", "attempt", "1", "absent", "true", "why", "a test", "unverified", "true", "save", "true")
	pgtest.Exec(t, r.pool, `UPDATE outbox SET attempt = 2`)
	pgtest.Exec(t, r.pool, `INSERT INTO outbox_attempts (outbox_id, kind, number, worker, started_at, took, outcome, applied)
		SELECT id, 'attempt', 2, 'worker-3', '2026-11-22 12:00:00Z', interval '1 second', 'created', true FROM outbox`)
	page, _ := p.get("decide?id=crm-1&region=evidence")
	if !strings.Contains(page, "2026-11-22 12:00:00 UTC") || !strings.Contains(page, "Attempt 2") || strings.Contains(page, "at the latest") {
		t.Errorf("of attempt 2:\n%s", page)
	}
}
