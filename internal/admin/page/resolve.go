package page

import (
	"errors"
	"net/http"
	"net/url"
	"strings"

	"flexworker/internal/outbox/operator"
	"flexworker/internal/outbox/request"
)

// resolve carries out a decision. Of an interaction that exists it shows first what Flex says of it.
func (v *visit) resolve() error {
	defer v.takes(actLimit)()
	id, why := v.r.PostFormValue("id"), v.r.PostFormValue("why")
	said := operator.Decision{Created: strings.TrimSpace(v.r.PostFormValue("created")), Absent: v.r.PostFormValue("absent") == "true",
		Unverified: v.r.PostFormValue("unverified") == "true"}
	act, err := v.seen(why)
	if err != nil {
		return err
	}
	form := decision{Sid: said.Created, Sent: said.Absent, Why: why}
	if v.r.PostFormValue("save") == "" {
		said.Unverified = false // it is looked at first
		r, err := v.desk.Preview(v.ctx(), act, id, said)
		if err != nil {
			return v.notDecided(r, err, id, act, form)
		}
		m, err := v.page.memory.at(v.ctx(), v.desk)
		if err != nil {
			return err
		}
		form.Confirm, form.Said, form.SaidTitle = !said.Absent, r.Said, "Flex shows it. Nothing is saved yet"
		if said.Absent {
			form.Absent, form.Said = absenceOf(form.Absent, operator.Evidence{Said: r.Said, Absent: true}), nil
		}
		return v.showDecision(m, http.StatusOK, id, form)
	}
	r, err := v.desk.Resolve(v.ctx(), act, id, said)
	if err != nil {
		return v.notDecided(r, err, id, act, form)
	}
	v.page.memory.forget()
	to(v.w, "decide?done="+url.QueryEscape(id)+"#decided")
	return nil
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
	case errors.Is(err, operator.ErrExists):
		form.SaidTitle, form.Sid = "It exists. Nothing was changed", r.Found[0]
		form.Absent = absence{Known: true, Exists: true}
	case errors.Is(err, operator.ErrUnproved):
		form.SaidTitle = "That it does not exist is not proved. Nothing was changed"
		form.Absent = absence{Known: true, Unproved: true}
	case errors.Is(err, operator.ErrNotShown), errors.Is(err, operator.ErrNotIts), errors.Is(err, operator.ErrCannotAsk), errors.Is(err, operator.ErrRefused):
		also(outOf(err))
		form.Anyway = !form.Sent && !errors.Is(err, operator.ErrRefused)
		if form.Sent && errors.Is(err, operator.ErrCannotAsk) {
			form.Absent = absence{Known: true, Unproved: true}
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
