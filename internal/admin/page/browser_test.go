package page_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"flexworker/internal/testing/expect"
)

// chromium is the browser of the tests. scripts/chromium.sh looks at the same places, and installs it. The shell without windows
// comes first, because it needs half as much processor time. Its path is Debian's. The script /usr/bin/chromium-headless-shell starts the
// same program, but the program stays behind when that script is killed.
func chromium() (path string, err error) {
	if path := os.Getenv("FLEXWORKER_CHROMIUM"); path != "" {
		return path, nil
	}
	for _, name := range []string{"/usr/lib/chromium/chromium-headless-shell", "chrome-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"} {
		if path, err = exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", errors.New("there is no Chromium: scripts/chromium.sh installs it, or says how")
}

// A browser is Chromium in front of the page, with nobody signed in and nothing kept from before. What its console says, and every
// violation of the content security policy, fails the test.
type browser struct {
	t      testing.TB
	ctx    context.Context
	base   string
	screen screen

	faults []string // what its console said; read once it has ended
}

// A screen is how wide, how high and how dark a browser is.
type screen struct {
	width, height int64
	dark          bool
	noScript      bool
}

var (
	desktop = screen{width: 1280, height: 900}
	phone   = screen{width: 400, height: 860}
)

// A process is the one Chromium of all tests. Each test has a context of its own in it, which shares nothing with the others. To start
// one for each took as long as most tests.
type process struct {
	first context.Context // of its first tab, which stays empty
	end   func()
}

var (
	running atomic.Pointer[process] // nil: no test has started it
	started = sync.OnceValues(func() (*process, error) {
		path, err := chromium()
		if err != nil {
			return nil, err
		}
		flags := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.DisableGPU, chromedp.NoFirstRun,
			chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-background-networking", true),
			chromedp.Flag("disable-sync", true), chromedp.Flag("hide-scrollbars", true), chromedp.Flag("force-color-profile", "srgb"),
			// By the last two a site has no process of its own, and no process waits for the next tab: the tests have one site and few tabs.
			chromedp.Flag("disable-features", "Translate,BlinkGenPropertyTrees,SpareRendererForSitePerProcess,site-per-process"),
			chromedp.Env("TZ="+anotherDay(time.Now())), chromedp.WSURLReadTimeout(expect.Patience))
		if os.Geteuid() == 0 {
			flags = append(flags, chromedp.NoSandbox) // root has none
		}
		allocator, free := chromedp.NewExecAllocator(context.Background(), flags...)
		first, closeFirst := chromedp.NewContext(allocator)
		p := &process{first: first, end: func() {
			_ = chromedp.Cancel(first) // it waits for the process
			closeFirst()
			free()
		}}
		running.Store(p)
		return p, chromedp.Do(first) // the first call starts it
	})
)

// anotherDay is a time zone where it is another day than in UTC, so that each time of the browser's own comes with its day. A page
// that is short and narrow enough there is so at every hour.
func anotherDay(now time.Time) string {
	if now.UTC().Hour() < 10 {
		return "Pacific/Honolulu" // ten hours behind UTC
	}
	return "Pacific/Kiritimati" // fourteen hours ahead of UTC
}

// endProcess ends the browser, where a test has started it.
func endProcess() {
	if p := running.Load(); p != nil {
		p.end()
	}
}

// noticed keeps what the notice of a page said when the page came. The script takes the notice away, from when a pulse has no answer for
// three seconds, as on a busy machine.
const noticed = `addEventListener('DOMContentLoaded', () => { window.noticed = document.querySelector('main > .note')?.innerText ?? '' })`

// open opens a browser that knows nothing of the others.
func (r *rig) open(t testing.TB, s screen) *browser {
	t.Helper()
	p, err := started()
	if err != nil {
		t.Fatal(err)
	}
	tab, closeTab := chromedp.NewContext(p.first, chromedp.WithNewBrowserContext())
	b := &browser{t: t, ctx: tab, base: r.url, screen: s}
	if err := chromedp.Do(tab); err != nil { // the first call opens it
		t.Fatal(err)
	}
	said := chromedp.Console(tab)
	var listening sync.WaitGroup
	listening.Go(func() {
		for m, err := range said {
			if err != nil {
				return
			}
			b.hear(m)
		}
	})
	t.Cleanup(func() {
		closeTab()
		listening.Wait()
		for _, fault := range b.faults {
			t.Errorf("the browser says: %s", fault)
		}
	})
	scheme := "light"
	if s.dark {
		scheme = "dark"
	}
	b.resize(s.width, s.height)
	b.do(chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: s.noScript})
		if err == nil { // as if it were in front: others are open beside it
			_, err = cdp.Call(ctx, t, emulation.SetFocusEmulationEnabled, emulation.SetFocusEmulationEnabledParams{Enabled: true})
		}
		if err == nil {
			_, err = cdp.Call(ctx, t, page.AddScriptToEvaluateOnNewDocument, page.AddScriptToEvaluateOnNewDocumentParams{Source: noticed})
		}
		if err == nil {
			_, err = cdp.Call(ctx, t, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
				Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}, {Name: "prefers-reduced-motion", Value: "reduce"}}})
		}
		return err
	}))
	return b
}

// hear keeps what must not be said. What the tests make the server refuse is no fault of the page.
func (b *browser) hear(m chromedp.ConsoleMessage) {
	bad := []chromedp.ConsoleType{chromedp.ConsoleError, chromedp.ConsoleException, chromedp.ConsoleWarning, "assert"}
	if slices.Contains(bad, m.Type) && m.Source != "network" {
		b.faults = append(b.faults, m.String())
	}
}

func (b *browser) do(actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, expect.Patience)
	defer cancel()
	if err := chromedp.Do(ctx, actions...); err != nil {
		b.t.Fatal(err)
	}
}

// evaluate is what a script says.
func evaluate[T any](b *browser, script string) T {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, expect.Patience)
	defer cancel()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](script, chromedp.EvalAwaitPromise))
	if err != nil {
		b.t.Fatal(err)
	}
	return v
}

// visit opens an address of the page and waits until it is there.
func (b *browser) visit(address string) {
	b.t.Helper()
	b.do(chromedp.Navigate(b.base + address))
}

// signIn fills in the login.
func (b *browser) signIn(token, name string) {
	b.t.Helper()
	b.visit("login")
	b.fill("#token", token)
	b.fill("#name", name)
	b.click("form button.main")
}

// fill types a text into a field that is empty.
func (b *browser) fill(selector, text string) {
	b.t.Helper()
	b.focus(selector)
	b.press(text)
	b.holdsText(selector, text)
}

// tick ticks a box.
func (b *browser) tick(selector string) {
	b.t.Helper()
	b.focus(selector)
	b.press(" ")
	b.is(selector + ":checked")
}

// unfold opens what a summary hides.
func (b *browser) unfold(selector string) {
	b.t.Helper()
	b.focus(selector + " > summary")
	b.press(kb.Enter)
	b.is(selector + "[open]")
}

// click presses what leads to another page, and waits until that has loaded.
func (b *browser) click(selector string) {
	b.t.Helper()
	b.focus(selector)
	b.enter()
}

// enter presses Enter on what leads to another page, and waits until that has loaded. Before that it may not have its stylesheet, and a
// browser without it moves the focus later than the key that asks for that.
func (b *browser) enter() {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, expect.Patience)
	defer cancel()
	if _, err := chromedp.RunResponse(ctx, chromedp.KeyEvent(kb.Enter)); err != nil {
		b.t.Fatalf("Enter on %s: %v", evaluate[string](b, `document.activeElement.outerHTML.slice(0, 120)`), err)
	}
}

// focus gives the focus to what is there and can be seen. From then on the script leaves its region as it is.
func (b *browser) focus(selector string) {
	b.t.Helper()
	b.becomes(selector+" has the focus", `(e => e && (e.focus(), document.activeElement === e))(document.querySelector(`+quoted(selector)+`))`)
}

// reaches presses a key, and waits until the focus has come to what the key leads to.
func (b *browser) reaches(keys, selector string) {
	b.t.Helper()
	b.press(keys)
	b.becomes(selector+" has the focus", `document.activeElement.matches(`+quoted(selector)+`)`)
}

// is waits until that is there.
func (b *browser) is(selector string) {
	b.t.Helper()
	b.becomes(selector+" is there", `document.querySelector(`+quoted(selector)+`) !== null`)
}

// holdsText waits until a field has that text.
func (b *browser) holdsText(selector, text string) {
	b.t.Helper()
	b.becomes(selector+" says "+text, `document.querySelector(`+quoted(selector)+`)?.value === `+quoted(text))
}

// becomes waits until a script says true.
func (b *browser) becomes(what, script string) {
	b.t.Helper()
	expect.Eventually(b.t, func() error {
		if !evaluate[bool](b, `Boolean(`+script+`)`) {
			return fmt.Errorf("not yet: %s; the focus has %s", what, evaluate[string](b, `document.activeElement.outerHTML.slice(0, 120)`))
		}
		return nil
	})
}

// text is what a person reads there.
func (b *browser) text(selector string) string {
	b.t.Helper()
	return evaluate[string](b, `document.querySelector(`+quoted(selector)+`)?.innerText ?? ""`)
}

// sees waits until a person reads that there.
func (b *browser) sees(selector, want string) {
	b.t.Helper()
	expect.Eventually(b.t, func() error {
		if text := b.text(selector); !strings.Contains(text, want) {
			return fmt.Errorf("%s says %q, want %q", selector, text, want)
		}
		return nil
	})
}

// told says whether a person was told that by the notice with which the page came.
func (b *browser) told(want string) {
	b.t.Helper()
	// Without JavaScript nobody has kept it, and it stays.
	if text := evaluate[string](b, `window.noticed ?? document.querySelector('main > .note')?.innerText ?? ""`); !strings.Contains(text, want) {
		b.t.Errorf("the notice says %q, want %q", text, want)
	}
}

// comes is sees on a page that loads itself again meanwhile: a question in the middle of that has no answer.
func (b *browser) comes(selector, want string) {
	b.t.Helper()
	expect.Eventually(b.t, func() error {
		ctx, cancel := context.WithTimeout(b.ctx, expect.Patience)
		defer cancel()
		text, err := chromedp.Run(ctx, chromedp.Evaluate[string](`document.querySelector(`+quoted(selector)+`)?.innerText ?? ""`))
		if err == nil && !strings.Contains(text, want) {
			err = fmt.Errorf("%s says %q, want %q", selector, text, want)
		}
		return err
	})
}

func quoted(text string) string {
	js, _ := json.Marshal(text) // a text
	return string(js)
}

// fits fails where the page is wider than the screen.
func (b *browser) fits(name string) {
	b.t.Helper()
	// A phone widens its window with the page: what counts is the width that it was given.
	over := evaluate[[]string](b, fmt.Sprintf(`document.documentElement.scrollWidth <= %[1]d ? [] :
		[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > %[1]d + 1).slice(0, 5).map(e => e.outerHTML.slice(0, 120))`, b.screen.width))
	if len(over) > 0 {
		b.t.Errorf("%s is wider than the screen: %s", name, strings.Join(over, "\n"))
	}
}

// accessible holds the page against axe-core: nothing that it calls serious or critical may be found.
func (b *browser) accessible(name string) {
	b.t.Helper()
	script, err := os.ReadFile("testdata/axe/node_modules/axe-core/axe.min.js")
	if err != nil {
		b.t.Fatalf("axe-core is not there: scripts/chromium.sh installs it (%v)", err)
	}
	for _, v := range evaluate[[]string](b, string(script)+`; axe.run().then(r => r.violations.filter(v => v.impact === 'serious' || v.impact === 'critical')
		.map(v => v.id + ': ' + v.help + ': ' + v.nodes.map(n => n.html.slice(0, 160) + ' ' + n.failureSummary).join(' | ')))`) {
		b.t.Errorf("%s: %s", name, v)
	}
}

// tallest is how much of a long page a picture shows.
const tallest = 1500

// screenshot writes a picture of the page as a PNG.
func (b *browser) screenshot(path string) {
	b.t.Helper()
	height := min(evaluate[int64](b, `document.documentElement.scrollHeight`), tallest)
	b.resize(b.screen.width, height)
	// The second frame begins when the first has been drawn, and nobody is idle before what is seen of it is painted.
	evaluate[bool](b, `new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => requestIdleCallback(() => done(true)))))`)
	png, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
	if err := errors.Join(err, os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, png, 0o644)); err != nil {
		b.t.Fatal(err)
	}
	b.resize(b.screen.width, b.screen.height)
}

func (b *browser) resize(width, height int64) {
	b.t.Helper()
	b.do(chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: width, Height: height, DeviceScaleFactor: 1, Mobile: width < 600})
		return err
	}))
}

// press presses keys: a text, or one of the keys of package kb.
func (b *browser) press(keys string) {
	b.t.Helper()
	b.do(chromedp.KeyEvent(keys))
}

// clickText presses the element that says this.
func (b *browser) clickText(selector, text string) {
	b.t.Helper()
	b.becomes(text+" has the focus", `(e => e && (e.focus(), document.activeElement === e))([...document.querySelectorAll(`+quoted(selector)+`)].find(e => e.textContent.includes(`+quoted(text)+`)))`)
	b.enter()
}
