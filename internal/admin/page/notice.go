package page

import (
	"encoding/base64"
	"encoding/json"
	"net/http"

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

// noticeMost bounds the lines: a browser keeps 4 KiB a cookie.
const noticeMost = 2400

// leave leaves a notice for the next page. The cookie has no path: the browser takes that of the page, whatever a proxy
// has put before it.
func (n notice) leave(w http.ResponseWriter, r *http.Request) {
	room := noticeMost
	for i, line := range n.Lines {
		if room -= len(line); room < 0 {
			n.Lines = append(n.Lines[:i:i], "…")
			break
		}
	}
	text, _ := json.Marshal(n) // a struct of text
	setNotice(w, r, base64.RawURLEncoding.EncodeToString(text), 60)
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
