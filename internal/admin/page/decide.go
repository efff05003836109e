package page

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"flexworker/internal/outbox/operator"
	"flexworker/internal/outbox/request"
)

// decide shows one uncertain request: that of the address or, where it names none, the one that waits longest.
func (v *visit) decide() error {
	m, err := v.page.memory.at(v.ctx(), v.desk)
	if err != nil {
		return err
	}
	id := v.query("id")
	if id == "" {
		var first string
		if ids, _ := m.undecided(); len(ids) > 0 {
			first = ids[0]
		}
		if first != "" && len(v.wanted()) == 0 {
			to(v.w, "decide?id="+url.QueryEscape(first))
			return nil
		}
		return v.showAt(m, http.StatusOK, "Decide", "decide",
			region{name: "queue", title: "What waits", of: []string{"attention"}, read: func(context.Context) (any, error) { return queue{None: true, Next: first}, m.nowErr }})
	}
	return v.showDecision(m, http.StatusOK, id, decision{})
}

type queue struct {
	ID, Source, Place, Next string
	None                    bool // no request was chosen
}

// A decision is the form, and what was said to the one before it.
type decision struct {
	ID      string
	Attempt int
	Tag     operator.Tag

	Over string // what it is now that it is no longer uncertain; "": it is

	Attribute, Key, Workspace string
	Customer                  []fact // by what the customer is found in Flex; none: the caller may not decide, or nothing names them

	// Said is what Flex or TaskRouter said, or why nothing was changed.
	SaidTitle, SaidTone string
	Said                []string

	// Confirm: it was previewed, and can be saved.
	Confirm     bool
	Means, Save string
	Harm        bool

	Sid, Why    string
	Absent      bool // the form that it does not exist was sent
	Unverified  bool
	OfferAnyway bool   // it may be saved although Flex says otherwise
	AbsentMeans string // what becomes of it when it is said not to exist
	AbsentNeeds string // why that is believed only unverified; "": it is verified
}

// showDecision shows the evidence about a request, and the form.
func (v *visit) showDecision(m *moment, status int, id string, form decision) error {
	mark, err := v.page.memory.watch(v.ctx(), v.desk, id)
	if err != nil {
		return err
	}
	d, err := v.desk.Show(v.ctx(), id)
	if err != nil {
		return err
	}
	if d.State != request.Uncertain && len(v.wanted()) == 0 {
		notice{"warn", "There is nothing to decide about it any more", []string{standsNow(d)}}.leave(v.w, v.r)
		to(v.w, "request?id="+url.QueryEscape(id))
		return nil
	}
	return v.showAt(m.and("request", mark), status, "Decide", "decide",
		region{name: "queue", title: "What waits", of: []string{"attention"}, read: func(context.Context) (any, error) { return queueAt(m, d), nil }},
		region{name: "evidence", title: "The evidence", of: []string{"request"}, read: func(context.Context) (any, error) { return evidenceOf(d), nil }},
		region{name: "decision", title: "The decision", of: []string{"request"}, read: func(ctx context.Context) (any, error) { return v.formOf(ctx, d, form) }})
}

// standsNow says in a sentence what a request is.
func standsNow(d operator.Detail) string {
	said := d.SinceTag("")
	return strings.ToUpper(said[:1]) + said[1:] + "."
}

// queueAt says where among those that wait a request stands, and which is the next.
func queueAt(m *moment, d operator.Detail) queue {
	q := queue{ID: d.RequestID, Source: d.Source, Place: "Lookups go on, and may find out by themselves: it does not wait for a person yet."}
	switch {
	case d.State != request.Uncertain:
		q.Place = standsNow(d)
	case d.WaitsForPerson():
		q.Place = "It waits for a person."
	}
	ids, count := m.undecided()
	if at := slices.Index(ids, d.RequestID); at >= 0 {
		q.Place = fmt.Sprintf("%d of %s that wait for a person, the oldest first.", at+1, count)
		ids = ids[at+1:]
	}
	if len(ids) > 0 {
		q.Next = ids[0]
	}
	return q
}

// formOf adds to the form what the request says.
func (v *visit) formOf(ctx context.Context, d operator.Detail, form decision) (decision, error) {
	form.ID, form.Attempt, form.Tag = d.RequestID, d.Attempt, d.Tag()
	if d.State != request.Uncertain {
		form.Over = standsNow(d)
		return form, nil
	}
	if d.LookupKey != nil && d.LookupAttribute != nil {
		form.Key, form.Attribute = *d.LookupKey, *d.LookupAttribute
	}
	if d.Workspace != nil {
		form.Workspace = *d.Workspace
	} else {
		form.Key = "" // it has no task that carries the key
	}
	if v.mayAct() {
		form.Customer = customerOf(d.Request)
		if len(form.Customer) > 0 && len(v.wanted()) == 0 {
			v.page.Log.Info("a customer was shown", "who", v.caller.Name, "request_id", d.RequestID)
		}
	}
	legal, err := v.desk.Choices(ctx, d.RequestID)
	if err != nil {
		return form, err
	}
	for _, c := range legal {
		if c.Act != "resolve absent" {
			continue
		}
		form.AbsentMeans = c.Becomes
		switch {
		case form.AbsentNeeds != "":
		case c.Unverified && !d.WaitsForPerson():
			form.AbsentNeeds = "Unverified: lookups still go on and may find it, and I know that it does not exist"
		case c.Unverified:
			form.AbsentNeeds = "Unverified: nobody else can be asked, and I have looked in Flex myself"
		}
	}
	return form, nil
}

// resolve shows what a decision rests on and, once that was seen, carries it out.
func (v *visit) resolve() error {
	defer v.takes(actLimit)()
	id, why := v.r.PostFormValue("id"), v.r.PostFormValue("why")
	said := operator.Decision{Created: strings.TrimSpace(v.r.PostFormValue("created")), Absent: v.r.PostFormValue("absent") == "true",
		Unverified: v.r.PostFormValue("unverified") == "true"}
	act, err := v.seen(why)
	if err != nil {
		return err
	}
	form := decision{Sid: said.Created, Absent: said.Absent, Why: why, Unverified: said.Unverified}
	if v.r.PostFormValue("save") == "" {
		r, err := v.desk.Preview(v.ctx(), act, id, said)
		if err != nil {
			return v.notDecided(r, err, id, act, form)
		}
		return v.confirm(r, id, said, form)
	}
	r, err := v.desk.Resolve(v.ctx(), act, id, said)
	if err != nil {
		return v.notDecided(r, err, id, act, form)
	}
	v.page.memory.forget()
	notice{"good", id + " is now " + string(r.Became), r.Said}.leave(v.w, v.r)
	to(v.w, "decide")
	return nil
}

// seen is an act that speaks of the request as the form showed it.
func (v *visit) seen(why string) (operator.Act, error) {
	attempt, err := attemptOn(v.r)
	return operator.Act{Why: why, Attempt: attempt, Seen: operator.Tag(v.r.PostFormValue("tag"))}, err
}

// confirm shows what a decision rests on, and the button that saves it.
func (v *visit) confirm(r operator.Resolution, id string, said operator.Decision, form decision) error {
	m, err := v.page.memory.at(v.ctx(), v.desk)
	if err != nil {
		return err
	}
	form.Confirm, form.Said, form.SaidTitle = true, r.Said, "Flex says. Nothing is saved yet"
	switch {
	case said.Absent:
		form.SaidTitle = "TaskRouter says. Nothing is saved yet"
		form.Save, form.Harm = "It does not exist", true
	default:
		form.Save, form.Means = "This is its interaction", "It is created as "+said.Created+", and its sender is told so."
	}
	if said.Unverified {
		form.SaidTitle, form.SaidTone, form.Said = "You are believed. Nothing is saved yet", "warn", []string{"Whatever Flex and TaskRouter say, this is saved as you say it, and that it is unverified is recorded with your name."}
	} else if !said.Absent {
		form.Means += " Compare customer and channel first."
	}
	if said.Absent {
		choices, err := v.desk.Choices(v.ctx(), id)
		if err != nil {
			return err
		}
		for _, c := range choices {
			if c.Act == "resolve absent" {
				form.Means = c.Becomes
			}
		}
	}
	return v.showDecision(m, http.StatusOK, id, form)
}

// notDecided says why a decision changed nothing, and what would.
func (v *visit) notDecided(r operator.Resolution, err error, id string, act operator.Act, form decision) error {
	form.Said, form.SaidTitle, form.SaidTone = r.Said, "Nothing was changed", "warn"
	also := func(line string) { form.Said = append(form.Said, line) }
	switch {
	case isStale(err):
		v.page.memory.forget()
		d, err := v.desk.Show(v.ctx(), id)
		if err != nil {
			return err
		}
		if d.State != request.Uncertain {
			return v.stale(id, "", act)
		}
		form.SaidTitle, form.SaidTone = noLonger, "bad"
		also(since(d, act))
	case errors.Is(err, operator.ErrLookedUp):
		also("Lookups still go on, and may find it. Wait until it waits for a person, or say that you know it from elsewhere.")
		form.AbsentNeeds = "Unverified: lookups still go on and may find it, and I know that it does not exist"
	case errors.Is(err, operator.ErrExists):
		form.SaidTitle = "It exists. Nothing was changed"
		also("A lookup adopts it by itself. Or read it from Flex below, and save it.")
		form.Sid = r.Found[0]
	case errors.Is(err, operator.ErrUnproved):
		form.SaidTitle = "That it does not exist is not proved. Nothing was changed"
		form.AbsentNeeds = "Unverified: what TaskRouter says is no proof, and I know that it does not exist"
	case errors.Is(err, operator.ErrNotShown), errors.Is(err, operator.ErrNotIts), errors.Is(err, operator.ErrCannotAsk), errors.Is(err, operator.ErrRefused):
		also(strings.TrimPrefix(err.Error(), "outbox: ") + ".")
		form.OfferAnyway = !errors.Is(err, operator.ErrRefused)
		if errors.Is(err, operator.ErrCannotAsk) {
			form.AbsentNeeds = "Unverified: nobody can be asked from here, and I have looked in Flex myself"
		}
	default:
		return err
	}
	m, err := v.page.memory.at(v.ctx(), v.desk)
	if err != nil {
		return err
	}
	return v.showDecision(m, http.StatusConflict, id, form)
}

// isStale says whether an act was refused because the screen was old.
func isStale(err error) bool {
	return errors.Is(err, operator.ErrStale) || errors.Is(err, operator.ErrOtherAttempt) || errors.Is(err, operator.ErrNotUncertain)
}

// stale tells who acted on an old screen what has happened since it was shown, and shows the request as it is now.
func (v *visit) stale(id, form string, act operator.Act) error {
	v.page.memory.forget()
	d, err := v.desk.Show(v.ctx(), id)
	if err != nil {
		return err
	}
	return v.refuse(id, refusal{notice: notice{"bad", noLonger, []string{since(d, act)}}, Act: form, Why: act.Why})
}

const noLonger = "Nothing was changed: this request is no longer as you saw it"

// since says in a sentence what has happened to a request since the person who acts saw it.
func since(d operator.Detail, act operator.Act) string {
	return "Since then: " + d.SinceTag(act.Seen) + "."
}

// refuse shows a request to who has tried an act on it that changed nothing.
func (v *visit) refuse(id string, why refusal) error {
	v.refused = &why
	return v.showRequest(id, false)
}
