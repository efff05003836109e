package page

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"

	"flexworker/internal/admin/access"
	"flexworker/internal/database"
	"flexworker/internal/outbox/gate"
	"flexworker/internal/outbox/operator"
)

// nothing is at an address that no screen has.
func (v *visit) nothing() error {
	if v.r.Method != http.MethodGet && v.r.Method != http.MethodHead {
		return v.plain(http.StatusMethodNotAllowed, "There is nothing to do here", "The address takes no such request.")
	}
	return v.plain(http.StatusNotFound, "There is no such page", "The address is mistyped, or from another version.")
}

// fault says why somebody gets no answer, or why an act was not done.
func (v *visit) fault(err error) {
	told := errors.Is(err, errTold) // the answer was given
	switch s, away := v.away(); {
	case told:
	case away:
		v.noPostgres(s)
	case errors.Is(err, access.ErrNone):
		v.signIn()
	case errors.Is(err, access.ErrOff):
		_ = v.plain(http.StatusForbidden, "Page and API are off", "This worker has no ADMIN_TOKEN, so nobody can sign in.",
			"Set ADMIN_TOKEN (or ADMIN_TOKEN_FILE, the name of a file that holds it) and start the worker again. ADMIN_READ_TOKEN is for those who may look and not act.",
			"Health is at healthz and readyz, metrics at metrics: they need no token.")
	case errors.Is(err, access.ErrSlowDown):
		_ = v.plain(http.StatusTooManyRequests, "Too many wrong tokens", "The token is wrong, and too many wrong ones came from this address. Wait some seconds, then try again. A right one is taken at once.")
	case errors.Is(err, access.ErrWrong):
		_ = v.plain(http.StatusForbidden, "The credential is wrong", "The token, or what the proxy in front says of you, is none that counts.")
	case errors.Is(err, operator.ErrForbidden):
		_ = v.plain(http.StatusForbidden, "Not permitted", v.caller.Name+" is signed in with a credential that does not permit this. Nothing was changed.",
			"Sign out, and sign in with ADMIN_TOKEN to act, or with ADMIN_READ_TOKEN to look.")
	case errors.Is(err, operator.ErrNoReason):
		_ = v.plain(http.StatusBadRequest, "A reason is wanted", "Each act is recorded with who did it and why. Nothing was changed. Go back, and say why.")
	case errors.Is(err, operator.ErrReason):
		_ = v.plain(http.StatusBadRequest, "This reason cannot be recorded", fmt.Sprintf("A reason may have %s characters. Nothing was changed. Go back, and say it in fewer.", thousands(operator.WhyMost)))
	case errors.Is(err, operator.ErrUnknown):
		_ = v.plain(http.StatusNotFound, "There is no such request", "No request has this id. What could not become a request is listed under Malformed.")
	case errors.Is(err, operator.ErrBusy):
		_ = v.plain(http.StatusServiceUnavailable, "Another act on many is under way", "This worker does one act on many requests at a time. Nothing was changed. Go back, and send it again in a moment.")
	default:
		if s := v.page.Standing(v.ctx()); s.Away {
			v.noPostgres(s)
			return
		}
		if errors.Is(err, operator.ErrTooSlow) || errors.Is(err, context.DeadlineExceeded) {
			_ = v.plain(http.StatusServiceUnavailable, "That took too long", "Postgres took too long, and the question was given up so that the workers are not held up. Try again, or narrow it down.")
			return
		}
		if holders := v.heldBy(err); holders != "" {
			_ = v.plain(http.StatusServiceUnavailable, "Another session holds a lock", "It waited for "+holders+". Ask the owner of that session, or end it. If you did something, look at Acts whether it was done, and try again.")
			return
		}
		v.page.Log.Log(context.Background(), v.level(), "the page could not answer", "path", v.r.URL.Path, "error", err)
		said := []string{"Something went wrong, and the worker's log says what. If you did something, look whether it was done before you do it again: Acts lists it."}
		if s := v.page.Standing(v.ctx()); !s.Word.Ready() {
			said = append(said, "This worker says of itself: "+string(s.Word)+" ("+s.Reason+").")
		}
		_ = v.plain(http.StatusServiceUnavailable, "That did not work", said...)
	}
}

// noPostgres answers with the menu, and why nothing else is there. The page loads itself again.
func (v *visit) noPostgres(s gate.Standing) {
	m, status := v.page.unread(s, awayError{s}), http.StatusServiceUnavailable
	if len(v.wanted()) > 0 { // the script takes the bar
		status = http.StatusOK
	}
	_ = v.showAt(m, status, "Not readable now", "fault", region{name: "no-postgres", title: "Why", of: []string{"gate"}, read: func(context.Context) (any, error) {
		n := noPostgres{Said: awaySaid(s), Do: awayDo, Act: v.came.Method != http.MethodGet}
		return n, nil
	}})
}

type noPostgres struct {
	Said, Do string
	Act      bool // it answers an act
}

// awaySaid says since when the worker has no Postgres.
func awaySaid(s gate.Standing) string {
	said := strings.ToUpper(s.Reason[:min(1, len(s.Reason))]) + s.Reason[min(1, len(s.Reason)):]
	if s.Since.IsZero() {
		return said
	}
	return said + ", since " + newStamp(s.Since).UTC
}

// inSentence is a reason within a sentence.
func inSentence(reason string) string { return cmp.Or(reason, "the worker does not say why") }

// awayDo is what a person does about that.
const awayDo = "See whether Postgres runs, is stopped or has no room left on its disk, and whether this worker reaches it: DATABASE_URL and the network. Sending goes on by itself once Postgres answers."

// level is that of a line about what went wrong: a browser that hung up is no trouble of the worker's.
func (v *visit) level() slog.Level {
	if v.came.Context().Err() != nil {
		return slog.LevelDebug
	}
	return slog.LevelWarn
}

// heldBy are the sessions that kept something waiting for a lock; "": err is not about that, or they cannot be named.
func (v *visit) heldBy(err error) string {
	if v.desk == nil {
		return ""
	}
	if holders := v.desk.WhoHolds(v.ctx(), err); len(holders) > 0 {
		return line(database.Named(holders))
	}
	return ""
}

// errTold is returned where the answer has been given already.
var errTold = errors.New("page: answered")

// signIn sends whoever is not known to the login, and back to where they wanted to go. What the script fetches is only
// refused.
func (v *visit) signIn() {
	switch {
	case strings.HasSuffix(v.r.URL.Path, "/pulse"):
		v.w.WriteHeader(http.StatusUnauthorized)
	case v.r.Method != http.MethodGet:
		to(v.w, "login?lost=act")
	default:
		to(v.w, "login?next="+url.QueryEscape(strings.TrimPrefix(v.r.URL.RequestURI(), "/")))
	}
}

// plain answers with a page for who is not signed in, or gets nothing.
func (v *visit) plain(status int, title string, lines ...string) error {
	type said struct {
		Lines      []string
		Path, Link string
	}
	path, link := "./", "To the first screen"
	if status == http.StatusForbidden && v.caller.Right == operator.MayNothing {
		path = ""
	}
	v.page.plain(v.w, status, title, "fault", said{lines, path, link})
	return nil
}

func (p *Page) plain(w http.ResponseWriter, status int, title, name string, data any) {
	all := struct {
		Title, Screen string
		Away          bool
		Data          any
	}{title, name, false, data}
	var out bytes.Buffer
	p.write(&out, "plain-top", all)
	p.write(&out, name, all)
	p.write(&out, "plain-bottom", all)
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(out.Bytes()) // a browser that hung up needs no answer
}
