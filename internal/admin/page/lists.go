package page

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"flexworker/internal/outbox/gate"
	"flexworker/internal/outbox/operator"
	"flexworker/internal/outbox/request"
	"flexworker/internal/terminal"
)

// A paged list is a part of one that goes on.
type paged[T any] struct {
	Rows  []T
	Older string // the address of what is older; "": nothing is
	Paged bool   // it is not the first part
}

func pagedOf[T any](screen, cursor, next string, rows []T) paged[T] {
	p := paged[T]{Rows: rows, Paged: cursor != ""}
	if next != "" {
		p.Older = addressOf(screen, url.Values{"cursor": {next}})
	}
	return p
}

// acts shows what people did, the newest first.
func (v *visit) acts() error {
	cursor := v.query("cursor")
	r := region{name: "acts-list", title: "What people did", read: func(ctx context.Context) (any, error) {
		acts, next, err := v.desk.Acts(ctx, cursor)
		return pagedOf("acts", cursor, next, acts), err
	}}
	if cursor == "" {
		r.of = []string{"acts"}
	}
	return v.show("Acts", "acts", r)
}

// malformed shows what could not become a request: all of it, or one message.
func (v *visit) malformed() error {
	if text := v.query("id"); text != "" {
		id, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return operator.ErrUnknown
		}
		return v.oneMalformed(id, false)
	}
	cursor := v.query("cursor")
	r := region{name: "malformed-list", title: "Malformed messages", read: func(ctx context.Context) (any, error) {
		messages, next, err := v.desk.Malformed(ctx, cursor)
		return pagedOf("malformed", cursor, next, messages), err
	}}
	if cursor == "" {
		r.of = []string{"malformed"}
	}
	return v.show("Malformed", "malformed", r)
}

type message struct {
	operator.MalformedMessage
	Headers []header
	Body    string
	Shown   bool
	Now     string // what the request whose id it has is now
}

type header struct{ Name, Value string }

// oneMalformed shows one message. open: with its bytes.
func (v *visit) oneMalformed(id int64, open bool) error {
	m, err := v.desk.MalformedMessage(v.ctx(), id)
	if err != nil {
		return err
	}
	if open {
		v.page.Log.Info("a malformed message was shown", "who", v.caller.Name, "malformed", id)
	}
	title := fmt.Sprintf("Message %d of %s", m.Sequence, terminal.Line(m.Stream))
	return v.show(title, "malformed", region{name: "malformed-one", title: title, read: func(ctx context.Context) (any, error) {
		one := message{MalformedMessage: m, Shown: open, Body: terminal.Lines(string(m.Raw))}
		if m.RequestID != nil {
			switch d, err := v.desk.Show(ctx, *m.RequestID); {
			case err == nil:
				one.Now = "is " + string(d.State) + " now"
			case errors.Is(err, operator.ErrUnknown):
				one.Now = "was removed since, by its age"
			default:
				return nil, err
			}
		}
		headers := map[string][]string{}
		if err := json.Unmarshal(m.Headers, &headers); err != nil && len(m.Headers) > 0 {
			return nil, err
		}
		for _, name := range slices.Sorted(maps.Keys(headers)) {
			one.Headers = append(one.Headers, header{name, strings.Join(headers[name], ", ")})
		}
		return one, nil
	}})
}

// A standing is a replica as people see it.
type standing struct {
	Name, Version, Word, Tone string
	Means, Do                 string
	Reason                    string
	Since, Started, Seen      time.Time
	Last                      *time.Time
}

func standingOf(r gate.Replica, now time.Time) standing {
	c := causes[r.State]
	s := standing{Name: r.Name, Version: r.Version, Word: string(r.State), Tone: c.Tone, Means: c.Means, Do: c.Do, Since: r.Since, Started: r.StartedAt, Seen: r.SeenAt, Last: r.Last}
	if r.Reason != nil {
		s.Reason = *r.Reason
	}
	if !r.Alive {
		s.Word, s.Tone, s.Reason, s.Since = "gone", "warn", "", r.SeenAt
		s.Means = "It went without a word: it was killed, or its machine or network is lost. What it was sending is looked up when its leases run out."
		if lapsed(r, now) {
			s.Means = "It went without a word: it was killed, or its machine or network is lost. Its leases have run out: what it was sending is looked up by the others."
		}
		s.Do = goneDo
	}
	return s
}

// lapsed says whether the leases of a replica that is gone have run out.
func lapsed(r gate.Replica, now time.Time) bool {
	return !r.Alive && now.Sub(r.SeenAt) > r.Settings.FlexTimeout+request.LeaseMargin
}

// goneDo is what a person does about a replica that went without a word.
const goneDo = "Where nobody stopped it and none took its place, start it again, and see its log. It is shown for an hour after it was last seen."

type replicas struct {
	Rows        []standing
	Differences []string
	Said, Rate  string
}

func replicasOf(now operator.Now) replicas {
	f := now.Fleet
	r := replicas{Rate: "The fleet's rate: " + rateSaid(f) + "."}
	alive, moving, gone := 0, 0, 0
	for _, one := range f.Replicas {
		r.Rows = append(r.Rows, standingOf(one, f.Now))
		if one.Alive {
			alive++
			if one.State.Ready() && one.State != gate.WordFailing {
				moving++
			}
		} else {
			gone++
		}
	}
	r.Said = fmt.Sprintf("%d alive, %d of them can work", alive, moving)
	switch now.Gate.State {
	case gate.Held:
		r.Said = fmt.Sprintf("%d alive; none sends while the fleet is held", alive)
	case gate.Paused:
		r.Said = fmt.Sprintf("%d alive; none sends until the pause is over", alive)
	case gate.Open, gate.Limited:
	}
	if gone > 0 {
		r.Said += fmt.Sprintf(", %d gone", gone)
	}
	for _, d := range f.Differences {
		r.Differences = append(r.Differences, d.String())
	}
	return r
}

type setting struct {
	Name   string
	Values []settingValue
}

type settingValue struct{ Value, Of string }

// rateSaid is the rate in force, and who set it.
func rateSaid(f gate.Fleet) string {
	switch {
	case f.Rate == 0:
		return "no limit"
	case f.RateBy != nil:
		return fmt.Sprintf("%v a second, set by %s", f.Rate, line(f.RateBy))
	default:
		return fmt.Sprintf("%v a second, by FLEX_RATE", f.Rate)
	}
}

// settingsOf are the settings that should be equal, with who has which where they are not.
func settingsOf(f gate.Fleet) (all []setting) {
	for _, r := range f.Replicas {
		if !r.Alive {
			continue
		}
		for i, s := range r.Settings.Named() {
			if i == len(all) {
				all = append(all, setting{Name: s.Name})
			}
			value := s.Value
			if value == "" {
				value = "(empty)"
			}
			at := slices.IndexFunc(all[i].Values, func(v settingValue) bool { return v.Value == value })
			if at < 0 {
				all[i].Values = append(all[i].Values, settingValue{value, r.Name})
			} else {
				all[i].Values[at].Of += ", " + r.Name
			}
		}
	}
	for i := range all {
		if len(all[i].Values) == 1 {
			all[i].Values[0].Of = ""
		}
	}
	return all
}

// fleet shows the replicas and their settings.
func (v *visit) fleet() error {
	m, err := v.page.memory.at(v.ctx(), v.desk)
	if err != nil {
		return err
	}
	return v.showAt(m, http.StatusOK, "Fleet", "fleet",
		region{name: "fleet-replicas", title: "Replicas", of: []string{"fleet", "gate"}, read: func(context.Context) (any, error) { return replicasOf(m.now), m.gateErr() }},
		region{name: "fleet-settings", title: "Settings", of: []string{"fleet"}, read: func(context.Context) (any, error) { return settingsOf(m.now.Fleet), m.gateErr() }})
}
