package page

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"flexworker/internal/outbox/operator"
	"flexworker/internal/outbox/request"
)

// now shows whether anything moves, and if not why; what waits for a person; and what came of the last hour.
func (v *visit) now() error {
	m, err := v.page.memory.at(v.ctx(), v.desk)
	if err != nil {
		return err
	}
	of := func(names ...string) []string { return names }
	regions := []region{
		{name: "verdict", title: "Does anything move?", of: of("gate", "fleet", "backlog", "outcomes"), read: func(context.Context) (any, error) { return v.verdict(m), nil }},
		{name: "attention", title: "Needs attention", of: of("attention"), read: func(context.Context) (any, error) { return attentionOf(m), m.nowErr }},
		{name: "backlog", title: "Not finished", of: of("backlog"), read: func(context.Context) (any, error) { return backlogOf(m), nil }},
		{name: "replicas", title: "Replicas", of: of("fleet", "gate"), read: func(context.Context) (any, error) { return replicasOf(m.now), m.gateErr() }},
		{name: "outcomes", title: "The last 60 minutes", of: of("outcomes"), read: func(context.Context) (any, error) { return outcomesOf(m), m.outcomesErr }},
		{name: "failures", title: "What fails", of: of("failures", "backlog"), read: func(context.Context) (any, error) { return failuresOf(m.now, m.backlog), m.nowErr }},
		{name: "locks", title: "Locks in Postgres", of: of("locks"), bare: len(m.now.Holders) == 0, read: func(context.Context) (any, error) { return m.now.Holders, m.gateErr() }},
	}
	return v.showAt(m, http.StatusOK, "Now", "now", regions...)
}

type waiting struct {
	Rows        []attention
	Count, More string
}

type attention struct {
	What, ID, RequestID, Source, Why string
	Since                            *time.Time
	Path, Arg, Next                  string
}

// attentionShown is how many of those that wait for a person the first screen names.
const attentionShown = 10

func attentionOf(m *moment) (w waiting) {
	w.Count = m.waiting()
	if _, undecided := m.undecided(); undecided != "" {
		w.Count += ", of which " + undecided + " to decide"
	}
	for _, a := range m.now.Attention {
		if len(w.Rows) == attentionShown {
			w.More = "All requests to decide"
			break
		}
		row := attention{What: a.What, ID: a.ID, Source: a.Source, Since: a.Since}
		if a.Why != nil {
			row.Why = *a.Why
		}
		switch a.What {
		case "request":
			row.RequestID, row.Path, row.Arg, row.Next = a.ID, "decide", a.ID, "Decide"
		case "result":
			row.RequestID, row.Path, row.Arg, row.Next = a.ID, "request", a.ID, "Look"
		case "gate":
			row.What, row.ID, row.Path, row.Next = "the gate", "", "./", "Release, above"
		default:
			row.Path, row.Next = "fleet", "The fleet"
		}
		w.Rows = append(w.Rows, row)
	}
	return w
}

type backlog struct {
	Rows    []unfinished
	At      time.Time
	Unknown string
	Stream  string // what waits before the table
	Total   string // how many requests the table has, about; "": nobody knows
}

type unfinished struct {
	State                         string
	Any                           bool
	Requests, Oldest, Means, Path string
}

func backlogOf(m *moment) backlog {
	b := backlog{At: m.counted, Unknown: "There is no count that is new enough: this worker counts every 15 seconds.", Stream: m.stream.whole()}
	if m.standing.Away {
		b.Unknown = "It cannot be counted now: " + inSentence(m.standing.Reason) + "."
	}
	if m.now.Total > 0 {
		b.Total = thousands(m.now.Total)
	}
	for _, s := range []request.State{request.Pending, request.Sending, request.Uncertain, "unpublished"} {
		for _, n := range m.backlog {
			if n.State != string(s) {
				continue
			}
			row := unfinished{State: n.State, Requests: thousands(n.Requests), Any: n.Requests > 0, Means: means[s], Path: "requests?state=" + n.State}
			if n.Requests > 0 {
				row.Oldest = span(n.Oldest)
			}
			if s == "unpublished" {
				row.Path = "requests?age=within-1d"
			}
			b.Rows = append(b.Rows, row)
		}
	}
	return b
}

type failure struct {
	State                          request.State
	Requests, Reason, Status, Path string
	Latest                         time.Time
}

type failures struct {
	Rows      []failure
	Cut       bool
	Uncertain string // how many requests are; "": none is
}

// failuresOf are the failures, each with the address of its list. What is uncertain has not failed yet, and may be all that came of calls.
func failuresOf(n operator.Now, counted []operator.Backlog) failures {
	all := failures{Cut: n.Cut}
	for _, b := range counted {
		if b.State == string(request.Uncertain) && b.Requests > 0 {
			all.Uncertain = requestsSaid(b.Requests)
		}
	}
	for _, f := range n.Failing {
		row := failure{State: f.State, Requests: thousands(int64(f.Requests)), Reason: "no reason", Latest: f.Latest}
		address := url.Values{"state": {string(f.State)}}
		if f.State.Final() {
			address.Set("age", "within-1h")
		}
		if f.ErrorKind != nil {
			row.Reason = *f.ErrorKind
			address.Set("kind", *f.ErrorKind)
		}
		var status []string
		if f.HTTPStatus != nil {
			status = append(status, "HTTP "+strconv.Itoa(*f.HTTPStatus))
			address.Set("status", strconv.Itoa(*f.HTTPStatus))
		}
		if f.TwilioCode != nil {
			status = append(status, "Twilio "+strconv.Itoa(*f.TwilioCode))
			address.Set("code", strconv.Itoa(*f.TwilioCode))
		}
		row.Status, row.Path = strings.Join(status, ", "), addressOf("requests", address)
		all.Rows = append(all.Rows, row)
	}
	return all
}
