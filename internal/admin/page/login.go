package page

import (
	"errors"
	"net/http"
	"regexp"

	"flexworker/internal/admin/access"
)

// ours is an address within the page, as a login may lead to: a screen, and what it shows.
var ours = regexp.MustCompile(`^(\./|(decide|requests|request|acts|malformed|fleet)(\?[^\\#]*)?)$`)

// wanted is where somebody wants to go after the login; the first screen where that is nowhere of ours.
func wanted(next string) string {
	if !ours.MatchString(next) {
		return "./"
	}
	return next
}

type loginData struct{ Fault, Next, Name string }

func (p *Page) loginForm(w http.ResponseWriter, r *http.Request) {
	if _, err := p.Access.Caller(r); errors.Is(err, access.ErrOff) {
		(&visit{page: p, w: w, r: r}).fault(err)
		return
	}
	data := loginData{Next: wanted(r.URL.Query().Get("next"))}
	if r.URL.Query().Has("lost") {
		data.Fault = "You were not signed in any more, so what you sent was not done. Sign in, and do it again."
	}
	p.plain(w, http.StatusOK, "Sign in", "login", data)
}

func (p *Page) login(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, bodyMost)
	data := loginData{Next: wanted(r.PostFormValue("next")), Name: r.PostFormValue("name")}
	status := http.StatusForbidden
	err := p.Access.Login(w, r, r.PostFormValue("token"), data.Name)
	switch {
	case err == nil:
		to(w, data.Next)
		return
	case errors.Is(err, access.ErrOff):
		(&visit{page: p, w: w, r: r}).fault(err)
		return
	case errors.Is(err, access.ErrSlowDown):
		status, data.Fault = http.StatusTooManyRequests, "The token is wrong, and too many wrong ones came from this address. A right one is taken at once."
	case errors.Is(err, access.ErrWrong):
		data.Fault = "This token is neither ADMIN_TOKEN nor ADMIN_READ_TOKEN. Nothing was done."
	default:
		status, data.Fault = http.StatusBadRequest, "A name is wanted, of at most 100 characters that can be printed: it is recorded with each act."
	}
	p.plain(w, status, "Sign in", "login", data)
}

func (p *Page) logout(w http.ResponseWriter, r *http.Request) {
	p.Access.Logout(w, r)
	to(w, "login")
}
