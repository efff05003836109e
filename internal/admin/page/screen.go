package page

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"flexworker/internal/outbox/operator"
)

// A region is a part of a screen: read, shown and fetched anew by itself.
type region struct {
	name  string // of its template, and its id in the document
	title string // said in its place when it cannot be read
	// of are the marks of pulse that say when it is no longer true. None: it stays as it is until the page is loaded
	// anew.
	of []string
	// bare: it is no card with a border of its own.
	bare bool
	read func(context.Context) (any, error)
}

// shown is a region as its template has it.
type shown struct {
	*view
	Name, Title, Class string
	Of, Mark           string
	Data               any
	Unread             string // why there is no Data
}

// A view is what all templates know.
type view struct {
	Title, Screen string
	Nav           []place
	Gate          gateWord
	Caller        operator.Caller
	MayAct        bool
	Worker        string
	Version       string
	Now           time.Time // by Postgres's clock, or ours where it does not answer
	Notice        *notice
	Refused       refusal // the act that was refused, if this answers one: its form is open, and the reason stands in all forms
	Live          bool    // the script may fetch regions anew
	Away          bool    // the worker has no Postgres: the page loads itself again until it has
	BarMark       string
}

// place is an entry of the navigation.
type place struct {
	Path, Name string
	Current    bool
	Count      string
}

func (v *visit) view(title, screen string, m *moment) *view {
	_, undecided := m.undecided()
	places := []place{
		{"./", "Now", screen == "now", ""}, {"decide", "Decide", screen == "decide", undecided}, {"requests", "Requests", screen == "requests" || screen == "request", ""},
		{"acts", "Acts", screen == "acts", ""}, {"malformed", "Malformed", screen == "malformed", ""}, {"fleet", "Fleet", screen == "fleet", ""},
	}
	return &view{Title: title, Screen: screen, Nav: places, Gate: m.word(), Caller: v.caller, MayAct: v.mayAct(),
		Worker: v.page.Worker, Version: v.page.Version, Now: m.clock(), Live: v.came.Method == http.MethodGet, Away: m.standing.Away && v.came.Method == http.MethodGet, BarMark: m.markOf("gate", "attention")}
}

// wanted are the regions that the script fetches anew; none: a person loads the whole screen. What the script fetches is no redirect,
// which it would take for a lost login, and takes no notice: both are for the person.
func (v *visit) wanted() []string { return v.r.URL.Query()["region"] }

// show answers with a screen, or with those of its regions that the script names.
func (v *visit) show(title, name string, regions ...region) error {
	m, err := v.page.memory.at(v.ctx(), v.desk)
	if err != nil {
		return err
	}
	return v.showAt(m, http.StatusOK, title, name, regions...)
}

// showAt is show for a moment that is known already. The marks of the regions are those of that moment, which was before they are
// read: what changes meanwhile is fetched once more, and never missed.
func (v *visit) showAt(m *moment, status int, title, name string, regions ...region) error {
	all := v.view(title, name, m)
	wanted := v.wanted()
	var out bytes.Buffer
	switch {
	case len(wanted) > 0:
	case v.refused != nil:
		status, all.Notice, all.Refused = http.StatusConflict, &v.refused.notice, *v.refused
	default:
		all.Notice = takeNotice(v.w, v.r)
	}
	if len(wanted) == 0 {
		v.page.write(&out, "top", all)
	} else if slices.Contains(wanted, "bar") {
		v.page.write(&out, "bar", all)
	}
	for _, r := range regions {
		if len(wanted) > 0 && !slices.Contains(wanted, r.name) {
			continue
		}
		v.region(&out, all, m, r)
	}
	if len(wanted) == 0 {
		v.page.write(&out, "bottom", all)
	}
	v.w.Header().Set("Content-Type", "text/html; charset=utf-8")
	v.w.WriteHeader(status)
	_, _ = v.w.Write(out.Bytes()) // a browser that hung up needs no answer
	return nil
}

// region reads and writes one region.
func (v *visit) region(out *bytes.Buffer, all *view, m *moment, r region) {
	s := shown{view: all, Name: r.name, Title: r.title, Class: "card", Mark: m.markOf(r.of...)}
	if all.Live {
		s.Of = strings.Join(r.of, " ")
	}
	if r.bare {
		s.Class = ""
	}
	var err error
	if s.Data, err = r.read(v.ctx()); err != nil {
		s.Unread = v.unread(m, all.Screen, err)
	}
	if d, ok := s.Data.(verdict); ok {
		s.Class += " tone-" + d.Tone
	}
	v.page.write(out, "open", s)
	if s.Unread != "" {
		v.page.write(out, "unread", s)
	} else {
		v.page.write(out, r.name, s)
	}
	v.page.write(out, "close", s)
}

// unread says why a region of a screen has nothing to show.
func (v *visit) unread(m *moment, screen string, err error) string {
	s, away := v.away()
	if !away && errors.As(err, new(awayError)) {
		s, away = m.standing, true
	}
	switch {
	case away:
		return "It cannot be read now: " + inSentence(s.Reason) + "."
	case errors.Is(err, operator.ErrTooSlow), errors.Is(err, context.DeadlineExceeded):
		said := "This took too long to read and was given up, so that the workers are not held up."
		if screen == "requests" {
			said += " Narrow it down, or try again."
		}
		return said
	case errors.Is(err, operator.ErrCursor):
		return "This address is not understood: it was cut, or is from another version. Begin again with the newest."
	case errors.Is(err, operator.ErrForbidden):
		return "Your credential does not let you see this."
	}
	if holders := v.heldBy(err); holders != "" {
		return "This could not be read: it waited for " + holders + "."
	}
	v.page.Log.Log(context.Background(), v.level(), "a part of the page could not be read", "error", err)
	if s = m.standing; s.Word == "" {
		s = v.page.Standing(v.ctx())
	}
	if !s.Word.Ready() {
		return "It cannot be read now: " + inSentence(s.Reason) + "."
	}
	return "This could not be read. The worker's log says why."
}
