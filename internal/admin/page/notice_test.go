package page

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
)

// TestNoticeFits: a browser drops a cookie of more than 4,096 bytes, and then nobody is told what an act came to.
func TestNoticeFits(t *testing.T) {
	t.Parallel()
	short := notice{"bad", "Nothing was changed", []string{"Since then: it is <b>now</b> created", "a second line"}}
	for name, n := range map[string]notice{
		"short":              short,
		"one line":           {"warn", "Title", []string{strings.Repeat("a reason ", 2000)}},
		"escaped in JSON":    {"warn", "Title", []string{strings.Repeat("<&\u2028\x01\"", 2000)}},
		"four bytes a rune":  {"warn", "Title", []string{strings.Repeat("😀", 3000)}},
		"a thousand lines":   {"warn", "Title", slices.Repeat([]string{"Attempt 1 by worker-1"}, 1000)},
		"a thousand empty":   {"warn", "Title", slices.Repeat([]string{""}, 1000)},
		"its title":          {"warn", "Title " + strings.Repeat("x", 9000), []string{"a line"}},
		"the longest id":     {"good", strings.Repeat("i", 256) + " is now created", []string{strings.Repeat("é", 1500)}},
		"exactly as much":    {"good", "Title", []string{strings.Repeat("x", 2860)}},
		"just over the most": {"good", "Title", []string{strings.Repeat("x", 3060)}},
	} {
		w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "https://ops.example/act", nil)
		n.leave(w, r)
		if size := len(w.Header().Get("Set-Cookie")); size > 4096 {
			t.Errorf("%s: the cookie has %d bytes", name, size)
		}
		for _, c := range w.Result().Cookies() {
			r.AddCookie(c)
		}
		got := takeNotice(httptest.NewRecorder(), r)
		switch {
		case got == nil || got.Tone != n.Tone || !strings.HasPrefix(got.Title, strings.TrimSuffix(n.Title, "…")[:5]):
			t.Errorf("%s: it came back as %+.80v", name, got)
		case name == "short" && (got.Title != n.Title || !slices.Equal(got.Lines, n.Lines)):
			t.Errorf("it came back as %+v", got)
		case len(strings.Join(n.Lines, "")) > 3500 && !strings.HasSuffix(got.Lines[len(got.Lines)-1], "…"):
			t.Errorf("%s: what was cut does not say so: %.80v", name, got.Lines)
		}
	}
}
