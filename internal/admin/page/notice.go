package page

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"sort"
	"strings"

	"flexworker/internal/admin/access"
)

// A notice says what an act came to. It waits in a cookie for the page that the act redirects to, which shows it once: a page
// that is loaded again does nothing twice, and no address can put words into our mouth.
type notice struct {
	Tone  string   `json:"tone"` // good, warn or bad
	Title string   `json:"title"`
	Lines []string `json:"lines"`
}

const noticeCookie = "flexworker-notice"

// noticeMost bounds the value of the cookie: a browser drops a cookie that has more than 4,096 bytes, with its name and attributes.
const noticeMost = 3900

// leave leaves a notice for the next page: as much of the text as the cookie holds. The cookie has no path: the browser takes that of the
// page, whatever a proxy has put before it.
func (n notice) leave(w http.ResponseWriter, r *http.Request) {
	text := strings.Join(append([]string{n.Title}, n.Lines...), "\n")
	cut := sort.Search(len(text), func(cut int) bool { return len(n.saying(short(text, len(text)-cut)).value()) <= noticeMost })
	setNotice(w, r, n.saying(short(text, len(text)-cut)).value(), 60)
}

// saying is the notice with another text: the title, and a line each.
func (n notice) saying(text string) notice {
	n.Title, text, _ = strings.Cut(text, "\n")
	n.Lines = nil
	if text != "" {
		n.Lines = strings.Split(text, "\n")
	}
	return n
}

// value is the notice as the cookie has it.
func (n notice) value() string {
	text, _ := json.Marshal(n) // a struct of text
	return base64.RawURLEncoding.EncodeToString(text)
}

func setNotice(w http.ResponseWriter, r *http.Request, value string, maxAge int) {
	//nolint:gosec // Secure, but where the browser would refuse it
	http.SetCookie(w, &http.Cookie{Name: noticeCookie, Value: value, MaxAge: maxAge, HttpOnly: true, SameSite: http.SameSiteStrictMode, Secure: !access.OnLoopback(r)})
}

// takeNotice is the notice that waits, and removes it; nil: there is none.
func takeNotice(w http.ResponseWriter, r *http.Request) *notice {
	c, err := r.Cookie(noticeCookie)
	if err != nil {
		return nil
	}
	setNotice(w, r, "", -1)
	text, err := base64.RawURLEncoding.DecodeString(c.Value)
	if err != nil {
		return nil
	}
	var n notice
	if json.Unmarshal(text, &n) != nil {
		return nil
	}
	return &n
}
