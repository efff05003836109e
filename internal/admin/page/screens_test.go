package page_test

import (
	"flag"
	"path/filepath"
	"testing"
)

var screenshots = flag.String("screenshots", "", "the folder into which TestScreens writes a picture of each screen")

// TestScreens: no screen is wider than its window, axe-core finds nothing serious on any of them, and the console says nothing, wide and
// narrow, light and dark.
func TestScreens(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	r.stage(t)
	for name, s := range map[string]screen{"light": desktop, "dark": {width: 1280, height: 900, dark: true}, "narrow": phone} {
		t.Run(name, func(t *testing.T) {
			b := r.open(t, s)
			for _, at := range []struct{ name, address string }{
				{"login", "login"}, {"now", ""}, {"decide", "decide"}, {"requests", "requests"}, {"request", "request?id=crm-4203-reminder"}, {"uncertain", "request?id=crm-4251-order"},
				{"acts", "acts"}, {"malformed", "malformed"}, {"malformed-one", "malformed?id=1"}, {"fleet", "fleet"},
			} {
				r.replicas(t)
				b.visit(at.address)
				b.fits(at.name)
				b.accessible(at.name)
				if *screenshots != "" {
					b.screenshot(filepath.Join(*screenshots, at.name+"-"+name+".png"))
				}
				if at.name == "login" {
					b.signIn(actToken, "ada")
				}
			}
		})
	}
}
