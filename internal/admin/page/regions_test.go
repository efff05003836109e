package page_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"flexworker/internal/testing/pgtest"
)

// fetched are regions that the script fetches anew on screens that lead a person elsewhere meanwhile: a request has come to wait for a
// decision, one has been decided, one is found.
var fetched = map[string]string{
	"decide?region=queue":                    "crm-2",
	"decide?id=crm-1&region=queue":           "crm-1",
	"decide?id=crm-1&region=decision":        "There is nothing to decide about it any more",
	"decide?id=crm-1&region=evidence":        "It is created now as KD00000000000000000000000000000001. ada said at",
	"decide?done=crm-1&region=decided":       "It is created now as KD",
	"requests?find=crm-1&region=bar":         "gate:",
	"requests?region=list&region=bar":        "gate:",
	"request?id=crm-1&region=explanation":    "created",
	"?region=verdict&region=bar":             "gate:",
	"acts?region=acts-list":                  "a test",
	"malformed?region=malformed-list":        "There is none",
	"fleet?region=fleet-settings&region=bar": "gate:",
}

// TestFetchedRegions: what the script fetches is never a redirect, which the script takes for a lost login, and takes no notice away that
// waits for the next page.
func TestFetchedRegions(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	for n, id := range []string{"crm-1", "crm-2"} {
		r.add(t, "crm", id, "Ada Lovelace", uint64(n+1))
		r.uncertain(t, id, true)
	}
	p := r.signIn(t, actToken, "ada")
	if status, _ := p.raw("decide", url.Values{"id": {"crm-1"}, "attempt": {"1"}, "created": {"KD00000000000000000000000000000001"}, "unverified": {"true"}, "why": {"a test"}, "save": {"true"}}, [2]string{}); status != http.StatusSeeOther {
		t.Fatal(status)
	}
	if status, _ := p.raw("hold", url.Values{"why": {"a test"}}, [2]string{}); status != http.StatusSeeOther {
		t.Fatal(status)
	}
	client := *p.client
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	p.client = &client
	if page, _ := p.get("decide?id=crm-1&region=evidence"); strings.Contains(page, "no lookup can tell") || strings.Contains(page, "Next lookup") {
		t.Errorf("the evidence of what is decided:\n%s", page)
	}
	for address, want := range fetched {
		page, status := p.get(address)
		if status != http.StatusOK || !strings.Contains(page, want) || strings.Contains(page, "<html") {
			t.Errorf("%s: %d, want %q and no whole page\n%s", address, status, want, page)
		}
	}
	if page, _ := p.get("acts"); !strings.Contains(page, "The fleet is held") {
		t.Errorf("the notice is gone:\n%s", page)
	}
}

// TestDecidedMeanwhile: who looks at a request that a lookup adopts meanwhile is told so in place of the form.
func TestDecidedMeanwhile(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	r.add(t, "crm", "crm-1", "Ada Lovelace", 1)
	r.uncertain(t, "crm-1", true)
	b := r.open(t, desktop)
	b.signIn(actToken, "ada")
	b.visit("decide")
	b.sees("#decision", "It exists")
	pgtest.Exec(t, r.pool, `UPDATE outbox SET state = 'created', interaction_sid = 'KD00000000000000000000000000000001', resolved_by = 'lookup', due_at = NULL, for_person_since = NULL, settled_at = now(), error_kind = NULL, error_message = NULL`)
	b.sees("#decision", "There is nothing to decide about it any more")
	b.sees("#evidence", "It is created now as KD00000000000000000000000000000001")
	// That somebody is signed out stays there; that there is no answer goes with the next pulse.
	b.becomes("the strip is empty", `document.querySelector('#lost').innerText === ''`)
	b.click("#decision a")
	b.sees("#explanation", "a lookup found it")
}

// TestAnswersStay: the answer to a form has no address of its own, so nothing of it is fetched anew.
func TestAnswersStay(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	r.add(t, "crm", "crm-1", "Ada Lovelace", 1)
	p := r.signIn(t, actToken, "ada")
	for name, fields := range map[string][]string{"payload": {"id", "crm-1"}, "requests": {"act", "cancel", "why", "a test"}} {
		if page, status := p.post(name, fields...); status != http.StatusOK || strings.Contains(page, "data-region") || !strings.Contains(page, `id="bar"`) {
			t.Errorf("%s: %d\n%s", name, status, page)
		}
	}
}
