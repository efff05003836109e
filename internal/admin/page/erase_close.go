package page

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"flexworker/internal/outbox/operator"
	"flexworker/internal/outbox/request"
)

const (
	closeMeans = "At Twilio the channels of that interaction are closed and its conversation becomes read-only: whoever talks there is cut off. " +
		"The interaction that is kept stays as it is. Flex is asked first, and you see what it shows before anything is closed."
	eraseMeans = "What may be personal is blanked for good: the request, the answer of Flex, the reasons of failures and of acts. " +
		"Id, source, sids, states and times stay, and so does your reason: name nobody in it. An erased request is never sent again."
)

// endings are the acts on a request that has settled, beside those of operator.Choices: none of them changes where it stands.
func endings(d operator.Detail) (acts []doable) {
	if d.State.Final() && d.Attempt > 0 {
		acts = append(acts, doable{Name: "close", Form: "close", Verb: "Close a duplicate", Means: closeMeans, Harm: true, Duplicate: duplicateOf(d)})
	}
	if d.State.Final() && d.PublishedAt != nil {
		acts = append(acts, doable{Name: "erase", Form: "erase", Verb: "Erase", Means: eraseMeans, Harm: true})
	}
	return acts
}

var sids = regexp.MustCompile(`\bKD[0-9a-fA-F]{32}\b`)

// duplicateOf is the sid of a duplicate that a lookup has found of a request; "": it has named none.
func duplicateOf(d operator.Detail) string {
	if d.ErrorMessage == nil || d.State != request.Created {
		return ""
	}
	found := sids.FindAllString(*d.ErrorMessage, -1)
	i := slices.IndexFunc(found, func(sid string) bool { return d.InteractionSID == nil || sid != *d.InteractionSID })
	if i < 0 {
		return ""
	}
	return found[i]
}

// A closing is what a close would do, before it is done.
type closing struct {
	ID, Duplicate, Why string
	Attempt            int
	Tag                operator.Tag
	Unverified         bool
	Said, Channels     []string
}

// close shows what closing a duplicate would close and, once that was seen, closes it.
func (v *visit) close() error {
	defer v.takes(actLimit)()
	id := v.r.PostFormValue("id")
	a, err := v.seen(v.r.PostFormValue("why"))
	if err != nil {
		return v.plain(http.StatusBadRequest, "The form is not understood", "Nothing was changed.")
	}
	said := operator.Closing{Duplicate: strings.TrimSpace(v.r.PostFormValue("duplicate")), Unverified: v.r.PostFormValue("unverified") == "true"}
	if v.r.PostFormValue("save") == "" {
		c, err := v.desk.PreviewClose(v.ctx(), a, id, said)
		if err != nil {
			return v.notClosed(c, err, id, a, said)
		}
		preview := closing{ID: id, Duplicate: said.Duplicate, Why: a.Why, Attempt: *a.Attempt, Tag: a.Seen, Unverified: said.Unverified, Said: c.Said}
		for _, channel := range c.Channels {
			preview.Channels = append(preview.Channels, channel.SID+" ("+channel.Status+")")
		}
		return v.show("Close a duplicate", "request", region{name: "closing", title: "What would be closed", read: func(context.Context) (any, error) { return preview, nil }})
	}
	c, err := v.desk.Close(v.ctx(), a, id, said)
	switch {
	case errors.Is(err, operator.ErrMayBeClosed):
		notice{"warn", "It may be closed", []string{outOf(err), "Look at it in Flex, or close it again: that does no harm."}}.leave(v.w, v.r)
	case err != nil:
		return v.notClosed(c, err, id, a, said)
	default:
		notice{"good", "Closed: " + said.Duplicate, c.Said}.leave(v.w, v.r)
	}
	v.page.memory.forget()
	to(v.w, "request?id="+url.QueryEscape(id))
	return nil
}

// notClosed says why nothing was closed, and shows the request again.
func (v *visit) notClosed(c operator.Closure, err error, id string, a operator.Act, said operator.Closing) error {
	why := refusal{notice{"warn", "Nothing was closed", append(c.Said, outOf(err))}, "close", a.Why, said.Duplicate, false}
	switch {
	case isStale(err):
		return v.stale(id, "close", a)
	case errors.Is(err, operator.ErrNotIts), errors.Is(err, operator.ErrShared):
		why.Anyway = !said.Unverified
	case errors.Is(err, operator.ErrKept), errors.Is(err, operator.ErrClosed), errors.Is(err, operator.ErrNotShown), errors.Is(err, operator.ErrNotClosed),
		errors.Is(err, operator.ErrCannotAsk), errors.Is(err, operator.ErrNotSettled), errors.Is(err, operator.ErrRefused):
	default:
		return err
	}
	v.page.memory.forget() // a close that Flex refused is recorded
	return v.refuse(id, why)
}

// outOf is an error of the Desk as a sentence.
func outOf(err error) string {
	said := strings.TrimPrefix(err.Error(), "outbox: ")
	return strings.ToUpper(said[:1]) + strings.TrimSuffix(said[1:], ".") + "."
}

// erase blanks what is personal of a request.
func (v *visit) erase() error {
	id := v.r.PostFormValue("id")
	a, err := v.seen(v.r.PostFormValue("why"))
	if err != nil {
		return v.plain(http.StatusBadRequest, "The form is not understood", "Nothing was changed.")
	}
	e, err := v.desk.Erase(v.ctx(), a, id)
	switch {
	case isStale(err):
		return v.stale(id, "erase", a)
	case errors.Is(err, operator.ErrNotSettled), errors.Is(err, operator.ErrUnanswered):
		return v.refuse(id, refusal{notice: notice{"warn", "Nothing was erased", []string{outOf(err)}}, Act: "erase", Why: a.Why})
	case err != nil:
		return err
	}
	v.page.memory.forget()
	notice{"good", "Erased. What these tables cannot reach may still be there", e.Unreached()}.leave(v.w, v.r)
	to(v.w, "request?id="+url.QueryEscape(id))
	return nil
}

// nothingToDo is why a person can do nothing with a request now.
func nothingToDo(d operator.Detail) string {
	if d.State == request.Sending {
		return "it is being sent, and no act takes a request while a call may be under way."
	}
	return fmt.Sprintf("it is %s, and its result is published until the result stream has it.", d.State)
}
