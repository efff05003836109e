package page

import (
	"errors"
	"net/http"
	"net/url"
	"strconv"

	"flexworker/internal/outbox/operator"
)

// act does an act on one request, as the form showed it.
func (v *visit) act() error {
	name := v.r.PostFormValue("act")
	if v.r.PostFormValue("unverified") == "true" {
		name += "-unverified"
	}
	c, known := changeNamed(name)
	a, err := v.seen(v.r.PostFormValue("why"))
	if err != nil || !known {
		return v.plain(http.StatusBadRequest, "The form is not understood", "Nothing was changed.")
	}
	id := v.r.PostFormValue("id")
	all, err := v.desk.Do(v.ctx(), c.make(), a, operator.Filter{RequestIDs: []string{id}})
	if err != nil {
		return err
	}
	if all.N == 0 && len(all.Locked) == 0 {
		return v.stale(id, name, a)
	}
	v.page.memory.forget()
	if all.N == 0 {
		return v.refuse(id, refusal{notice: notice{"warn", "Nothing was changed", []string{"Another session holds the row of this request. Do it again."}}, Act: name, Why: a.Why})
	}
	n := notice{Tone: "good", Title: c.name + ": done"}
	for what := range all.Of {
		n.Lines = append(n.Lines, operator.Becomes(what))
	}
	n.leave(v.w, v.r)
	to(v.w, "request?id="+url.QueryEscape(id))
	return nil
}

// attemptOn is the attempt that a form speaks of.
func attemptOn(r *http.Request) (*int, error) {
	n, err := strconv.Atoi(r.PostFormValue("attempt"))
	return &n, err
}

// seen is an act that speaks of the request as the form showed it.
func (v *visit) seen(why string) (operator.Act, error) {
	attempt, err := attemptOn(v.r)
	return operator.Act{Why: why, Attempt: attempt, Seen: operator.Tag(v.r.PostFormValue("tag"))}, err
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
