package page

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"flexworker/internal/outbox/operator"
	"flexworker/internal/outbox/request"
)

// The names of what an address, or a form, says of a filter.
var filterNames = []string{"state", "source", "kind", "status", "code", "age", "setup", "person", "request"}

// ages are the values of age, in the order of the form.
var ages = []struct {
	value, name   string
	older, within time.Duration
}{
	{"", "any", 0, 0},
	{"older-5m", "received over 5 minutes ago", 5 * time.Minute, 0},
	{"older-1h", "received over an hour ago", time.Hour, 0},
	{"older-1d", "received over a day ago", 24 * time.Hour, 0},
	{"within-1h", "settled within the hour", 0, time.Hour},
	{"within-1d", "settled within a day", 0, 24 * time.Hour},
}

// filterOf reads a filter. fault says what cannot be read; then there is no filter.
func filterOf(values url.Values) (f operator.Filter, fault string) {
	f = operator.Filter{State: request.State(values.Get("state")), Source: strings.TrimSpace(values.Get("source")),
		ErrorKind: strings.TrimSpace(values.Get("kind")), Setup: operator.SetupFilter(values.Get("setup")), ForPerson: values.Get("person") != "", RequestIDs: only(values)["request"]}
	if f.State != "" && !slices.Contains(request.States[:], f.State) {
		return f, "There is no such state."
	}
	if f.Setup != "" && !slices.Contains(operator.SetupFilters[:], f.Setup) {
		return f, "There is no such word of a set-up."
	}
	for name, into := range map[string]*int{"status": &f.HTTPStatus, "code": &f.TwilioCode} {
		text := strings.TrimSpace(values.Get(name))
		if text == "" {
			continue
		}
		n, err := strconv.ParseInt(text, 10, 32)
		if err != nil || n < 1 {
			return f, "HTTP status and Twilio code are numbers."
		}
		*into = int(n)
	}
	for _, age := range ages {
		if age.value == values.Get("age") {
			f.OlderThan, f.Since = age.older, age.within
			return f, ""
		}
	}
	return f, "There is no such age."
}

// only are the values of a filter, without those that say nothing.
func only(values url.Values) url.Values {
	kept := url.Values{}
	for _, name := range filterNames {
		for _, v := range values[name] {
			if v = strings.TrimSpace(v); v != "" && (name == "request" || !kept.Has(name)) {
				kept.Add(name, v)
			}
		}
	}
	return kept
}

// addressOf is a screen with what it shows.
func addressOf(screen string, values url.Values) string {
	if len(values) == 0 {
		return screen
	}
	return screen + "?" + values.Encode()
}

// requests shows the list, or what the one box finds.
func (v *visit) requests() error {
	values := v.r.URL.Query()
	if find := strings.TrimSpace(values.Get("find")); find != "" {
		return v.find(find, values.Get("cursor"))
	}
	regions := []region{
		{name: "filters", title: "Filters", read: func(context.Context) (any, error) { return filtersOf(values), nil }},
		{name: "list", title: "Requests", read: func(ctx context.Context) (any, error) { return v.list(ctx, values) }},
		{name: "many", title: "Act on all that match", read: func(context.Context) (any, error) { return manyOf(values), nil }},
	}
	if values.Get("cursor") == "" { // what is older stays where somebody reads it
		regions[1].of = []string{"requests"}
	}
	m, err := v.page.memory.at(v.ctx(), v.desk)
	if err != nil {
		return err
	}
	if those := only(values)["request"]; len(those) > 0 { // their list shows what becomes of them
		mark, err := v.page.memory.watch(v.ctx(), v.desk, those[:min(len(those), thoseMost)]...)
		if err != nil {
			return err
		}
		m = m.and("those", mark)
		regions[1].of = append(regions[1].of, "those")
	}
	return v.showAt(m, http.StatusOK, "Requests", "requests", regions...)
}

type option struct {
	Value, Name string
	Selected    bool
}

type filters struct {
	States, Ages, Setups       []option
	Source, Kind, Status, Code string
	Person, Any                bool
}

func filtersOf(values url.Values) filters {
	f := filters{Source: values.Get("source"), Kind: values.Get("kind"), Status: values.Get("status"), Code: values.Get("code"),
		Person: values.Get("person") != "", Any: len(only(values)) > 0}
	for _, s := range request.States {
		f.States = append(f.States, option{string(s), string(s), string(s) == values.Get("state")})
	}
	for _, s := range operator.SetupFilters {
		f.Setups = append(f.Setups, option{string(s), string(s), string(s) == values.Get("setup")})
	}
	for _, a := range ages {
		f.Ages = append(f.Ages, option{a.value, a.name, a.value == values.Get("age")})
	}
	return f
}

type listed struct {
	operator.Row
	Reason, After string
}

type list struct {
	Said, Note, Empty                string
	Rows                             []listed
	Older, OlderSaid, Newest, Export string
}

func (v *visit) list(ctx context.Context, values url.Values) (list, error) {
	f, fault := filterOf(values)
	if fault != "" {
		return list{Said: "No requests", Note: fault, Empty: "Put the filter right."}, nil
	}
	p, err := v.desk.Requests(ctx, operator.Query{Filter: f, Cursor: values.Get("cursor")})
	if err != nil {
		return list{}, err
	}
	l := listOf(p)
	kept := only(values)
	l.Export = addressOf("export", kept)
	if values.Get("cursor") != "" {
		l.Newest = addressOf("requests", kept)
	}
	if p.Next != "" {
		kept.Set("cursor", p.Next)
		l.Older = addressOf("requests", kept)
	}
	return l, nil
}

// listOf is a page of requests in words.
func listOf(p operator.Page) list {
	l := list{Said: "The newest first", Empty: "No request matches.", OlderSaid: "Older"}
	if p.BySettled {
		l.Said = "What settled last, first"
	}
	for _, row := range p.Rows {
		one := listed{Row: row, Reason: reasonOf(row)}
		if row.SettledAt != nil {
			one.After = span(row.SettledAt.Sub(row.ReceivedAt))
		}
		l.Rows = append(l.Rows, one)
	}
	if p.SearchedTo != nil {
		l.Note = fmt.Sprintf("No index answers this, so the newest %s requests were looked at, back to %s. What is older was not searched yet.", thousands(int64(p.Searched)), newStamp(*p.SearchedTo).UTC)
		l.OlderSaid, l.Empty = "Search older", "None of them matches."
	}
	return l
}

// reasonOf is why there is no interaction, in a line.
func reasonOf(row operator.Row) string {
	var parts []string
	for _, s := range []*string{row.ErrorKind, row.ErrorMessage} {
		if s != nil && *s != "" {
			parts = append(parts, *s)
		}
	}
	return short(strings.Join(parts, ": "), 160)
}

// short is the beginning of a text.
func short(text string, most int) string {
	runes := []rune(text)
	if len(runes) <= most {
		return text
	}
	return string(runes[:most-1]) + "…"
}

// thousands is a number as people read it.
func thousands(n int64) string {
	text := strconv.FormatInt(n, 10)
	for at := len(text) - 3; at > 0; at -= 3 {
		text = text[:at] + "," + text[at:]
	}
	return text
}

// find shows what the one box finds: of an id, the request itself.
func (v *visit) find(text, cursor string) error {
	p, err := v.desk.Find(v.ctx(), text, cursor)
	if err == nil && cursor == "" && len(v.wanted()) == 0 && len(p.Rows) == 1 && p.Next == "" {
		to(v.w, "request?id="+url.QueryEscape(p.Rows[0].RequestID))
		return nil
	}
	return v.show("Find", "requests", region{name: "list", title: "What was found", read: func(context.Context) (any, error) {
		if err != nil {
			return nil, err
		}
		l := listOf(p.Page)
		l.Said = "Found for " + line(text)
		if len(p.Rows) == 0 && p.SearchedTo == nil {
			l.Empty = "Nothing. A message that was just sent may still wait in the request stream, where it cannot be searched. " + v.page.waits() +
				" The box knows a request's id, the sid of an interaction (KD...) or of a task (WT...), a lookup key, Twilio's request id of a latest attempt (RQ...), and name=value of a task attribute."
		}
		if p.Next != "" {
			l.Older = addressOf("requests", url.Values{"find": {text}, "cursor": {p.Next}})
		}
		return l, nil
	}})
}

// waits says how many messages wait in the request stream.
func (p *Page) waits() string {
	var s stream
	s.Messages, s.Known = p.Stream()
	return s.whole()
}

// exportLimit is how long an export may take. It is cut off then, and the browser is told that it is not whole.
const exportLimit = 10 * time.Minute

// export gives all requests that a filter chooses, a line of JSON each, the newest first.
func (v *visit) export() error {
	f, fault := filterOf(v.r.URL.Query())
	if fault != "" {
		return v.plain(http.StatusBadRequest, "The filter is not understood", fault)
	}
	if !v.page.exporting.TryLock() { // the other connection for reads is for those who look
		return v.plain(http.StatusServiceUnavailable, "Another export is under way", "This worker makes one at a time. Try again when it has ended, or narrow it down.")
	}
	defer v.page.exporting.Unlock()
	defer v.takes(exportLimit)()
	f.Limit = operator.ListLimit
	q := operator.Query{Filter: f}
	out := json.NewEncoder(v.w)
	answer := http.NewResponseController(v.w)
	for first := true; ; first = false {
		p, err := v.desk.Requests(v.ctx(), q)
		switch {
		case err != nil && first:
			return err
		case err != nil: // what was sent already is not all: the connection is cut, so that nobody takes it for that
			v.page.Log.Log(context.Background(), v.level(), "an export was cut off", "error", err)
			panic(http.ErrAbortHandler)
		}
		if first {
			v.w.Header().Set("Content-Type", "application/x-ndjson")
			v.w.Header().Set("Content-Disposition", `attachment; filename="requests.ndjson"`)
		}
		_ = answer.SetWriteDeadline(time.Now().Add(limit)) // for each page anew; a browser that does not read is let go
		for _, row := range p.Rows {
			if out.Encode(row) != nil {
				return errTold
			}
		}
		if _ = answer.Flush(); p.Next == "" {
			return nil
		}
		q.Cursor = p.Next
	}
}
