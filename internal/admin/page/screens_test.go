package page_test

import (
	"flag"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/chromedp/kb"
)

var screenshots = flag.String("screenshots", "", "the folder into which TestScreens writes a picture of each screen")

// holds fails where the page is wider than its window, as it comes or with all that a summary hides, or where axe-core finds
// something serious.
func (b *browser) holds(name string) {
	b.t.Helper()
	b.fits(name)
	evaluate[bool](b, `[...document.querySelectorAll('details')].forEach(d => { d.open = true }), true`)
	b.fits(name + ", unfolded")
	b.accessible(name)
}

// TestScreens: no screen is wider than its window, axe-core finds nothing serious on any of them, and the console says
// nothing, wide and narrow, light and dark.
func TestScreens(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	r.stage(t)
	for name, s := range map[string]screen{"": desktop, "-dark": {width: 1280, height: 900, dark: true}, "-narrow": phone} {
		t.Run("screens"+name, func(t *testing.T) {
			b := r.open(t, s)
			for _, at := range []struct{ name, address string }{
				{"login", "login"}, {"now", ""}, {"decide", "decide"}, {"requests", "requests"}, {"request", "request?id=crm-4203-reminder"}, {"uncertain", "request?id=crm-4251-order"},
				{"acts", "acts"}, {"malformed", "malformed"}, {"message", "malformed?id=1"}, {"fleet", "fleet"}, {"nothing", "nothing"},
			} {
				b.visit(at.address)
				if *screenshots != "" && (s == desktop || at.name == "now" || at.name == "decide") && at.name != "nothing" {
					b.screenshot(filepath.Join(*screenshots, at.name+name+".png"))
				}
				b.holds(at.name)
				if at.name == "login" {
					b.visit("login")
					b.signIn(actToken, "ada")
				}
			}
		})
	}
}

// TestAnswers: so it is with the answers to forms: a preview, a confirmation, a notice, a refusal.
func TestAnswers(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	r.stage(t)
	b := r.open(t, phone)
	b.signIn("wrong", "ada")
	b.holds("a wrong token")
	b.signIn(actToken, "ada")
	b.visit("requests?state=rejected")
	b.unfold("#act-on-all")
	b.fill("#why-many", "a test")
	b.click("#many form button")
	b.holds("a preview")
	b.visit("decide?id=crm-4251-order")
	sid := r.inFlex(t, "crm-4251-order", "Ada Lovelace")
	b.fill("#sid", sid)
	b.fill("#why-exists", "a test")
	b.click("form[aria-labelledby=exists] button")
	b.holds("a confirmation")
	b.visit("decide?id=billing-4253-reminder")
	b.fill("#sid", sid)
	b.fill("#why-exists", "a test")
	b.click("form[aria-labelledby=exists] button")
	b.holds("a refusal")
	b.visit("decide?id=crm-4251-order&done=crm-4203-reminder")
	b.holds("what was found, and what was decided")
	b.visit("request?id=crm-4203-reminder")
	b.click("#payload button")
	b.holds("a payload")
	b.visit("malformed?id=1")
	b.click("#malformed-one form button")
	b.holds("a message")
	b.visit("")
	b.unfold("#hold-it")
	b.fill("#why-hold", "a test")
	b.click("#hold-it form button")
	b.holds("a notice")
}

// TestKeyboard: somebody without a mouse signs in, skips the navigation and holds the fleet.
func TestKeyboard(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	b := r.open(t, desktop)
	b.visit("")
	b.sees("h1", "Sign in")
	b.reaches(kb.Tab, "#name")
	b.press("ada")
	b.reaches(kb.Tab, "#token")
	b.press(actToken)
	b.enter()
	b.sees("#verdict", "Hold the fleet")
	b.reaches(kb.Tab, ".skip")
	b.reaches(kb.Enter, "#main")
	b.reaches(kb.Tab, "#hold-it > summary")
	if outline := evaluate[string](b, `getComputedStyle(document.activeElement).outline`); !strings.Contains(outline, "solid 2px") {
		t.Errorf("what has the focus is outlined %q", outline)
	}
	b.press(kb.Enter)
	b.is("#hold-it[open]")
	b.reaches(kb.Tab, "#why-hold")
	b.press("too many duplicates")
	b.enter()
	b.told("The fleet is held")
}

// TestPaging: a list goes on behind its last row, in an address of its own, and keeps its filter.
func TestPaging(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	for n := range 130 {
		r.add(t, []string{"crm", "shop"}[n%10/9], fmt.Sprintf("r-%03d", n), "Ada Lovelace", uint64(n+1))
	}
	p := r.signIn(t, lookToken, "grace")
	page, _ := p.get("requests?source=crm")
	if n := strings.Count(page, `<a class="id"`); n != 100 || !strings.Contains(page, "r-128<") || strings.Contains(page, "r-129<") {
		t.Errorf("the first page has %d", n)
	}
	_, rest, _ := strings.Cut(page, `<a class="button" href="`)
	older, _, _ := strings.Cut(rest, `"`)
	older = strings.ReplaceAll(older, "&amp;", "&")
	if !strings.Contains(older, "source=crm") {
		t.Fatalf("what is older is at %q", older)
	}
	page, status := p.get(older)
	if n := strings.Count(page, `<a class="id"`); n != 17 || status != http.StatusOK || !strings.Contains(page, "r-000<") || !strings.Contains(page, "Back to the newest") {
		t.Errorf("the second page has %d:\n%s", n, page)
	}
	if page, status := p.get("requests?cursor=nonsense"); status != http.StatusOK || !strings.Contains(page, "This address is not understood") {
		t.Errorf("a cursor that is none: %d\n%s", status, page)
	}
	text, _ := p.get("export?source=shop")
	if n := strings.Count(text, "\n"); n != 13 || !strings.HasPrefix(text, `{"request_id":"r-129","source":"shop"`) {
		t.Errorf("exported are %d:\n%s", n, text)
	}
}

// TestFilter: what is wrong with a filter is said, and what it says stays in the form.
func TestFilter(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	r.stage(t)
	p := r.signIn(t, lookToken, "grace")
	for query, want := range map[string]string{
		"state=rejected&kind=http_404":          "crm-4221-order",
		"status=400&code=45004":                 "crm-4233-reminder",
		"age=within-1h&state=abandoned":         "shop-4240-callback",
		"age=older-5m&state=uncertain":          "crm-4251-order",
		"setup=failed":                          "shop-4204-survey",
		"setup=nonsense":                        "There is no such word",
		"person=true":                           "crm-4251-order",
		"source=nobody":                         "No request matches",
		"state=nonsense":                        "There is no such state",
		"status=abc":                            "HTTP status and Twilio code are numbers",
		"code=99999999999":                      "HTTP status and Twilio code are numbers",
		"age=nonsense":                          "There is no such age",
		"find=there+is+none":                    "a lookup key, Twilio&#39;s request id",
		"find=customerName%3DKatherine+Johnson": "crm-4233-reminder",
	} {
		if page, status := p.get("requests?" + query); status != http.StatusOK || !strings.Contains(page, want) {
			t.Errorf("%s: %d, without %q\n%s", query, status, want, page)
		}
	}
	if _, status := p.get("export?state=nonsense"); status != http.StatusBadRequest {
		t.Errorf("the export of a filter that is none: %d", status)
	}
}

// TestShownInPlace: what somebody asks to see is where they look then, with and without JavaScript.
func TestShownInPlace(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	r.stage(t)
	for name, s := range map[string]screen{"with": desktop, "without": {width: 400, height: 860, noScript: true}} {
		t.Run(name, func(t *testing.T) {
			b := r.open(t, s)
			b.signIn(actToken, "ada")
			for address, at := range map[string][2]string{"request?id=crm-4203-reminder": {"#payload button", "payload"}, "malformed?id=1": {"#malformed-one form button", "bytes"}} {
				b.visit(address)
				b.click(at[0])
				b.becomes(at[1]+" is shown in place", `document.querySelector(':target')?.id === `+quoted(at[1]))
			}
		})
	}
}

// TestFitsInOneRow: the head of a page is no higher for who may look, and a short word is not broken.
func TestFitsInOneRow(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	r.stage(t)
	b := r.open(t, desktop)
	height := `document.querySelector('#bar').offsetHeight`
	b.signIn(actToken, "Eve")
	b.visit("")
	acts := evaluate[int](b, height)
	b.click(".who button")
	b.signIn(lookToken, "Eve")
	b.visit("")
	if looks := evaluate[int](b, height); looks != acts {
		t.Errorf("the head is %d high for who may look, %d for who may act", looks, acts)
	}
	b.visit("malformed")
	if n := evaluate[int](b, `(r => (r.selectNodeContents(document.querySelector('td.whole')), r.getClientRects().length))(document.createRange())`); n != 1 {
		t.Errorf("the kind of a message stands on %d lines", n)
	}
}
