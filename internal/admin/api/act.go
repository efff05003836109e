package api

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"strings"
	"unicode"

	"flexworker/internal/database"
	"flexworker/internal/outbox/operator"
)

// An action is what an act does once its body was found good.
type action func(c *call) (any, error)

// act is a route that changes something. read takes from the body what the act needs; it asks the database nothing.
//
// With an Idempotency-Key the act is done at most once: its answer is kept and given to each repeat. An act that has
// changed nothing for sure keeps no answer, so that the same key may be tried again.
func (a *api) act(read func(c *call, f fields) action) func(*call) (any, error) {
	return func(c *call) (any, error) {
		if err := c.desk.MayAct(); err != nil { // nobody else's body is read
			return nil, err
		}
		text, f, err := body(c.w, c.Request)
		if err != nil {
			return nil, err
		}
		do := read(c, f)
		key := c.Header.Get("Idempotency-Key")
		if len(key) > 255 || strings.IndexFunc(key, func(r rune) bool { return r > unicode.MaxASCII || !unicode.IsPrint(r) }) >= 0 {
			f.wrong("Idempotency-Key", "may have 255 characters of printable ASCII")
		}
		f.done()
		if err := f.fault(); err != nil {
			return nil, err
		}
		defer c.takes(actLimit)()
		if key == "" {
			answer, err := do(c)
			return answer, a.acted(c, err)
		}
		asked := operator.Asked{RequestID: c.id(),
			Digest: sha256.Sum256([]byte(c.Method + " " + c.URL.EscapedPath() + "\n" + c.Header.Get("If-Match") + "\n" + string(text)))}
		kept, err := c.desk.Once(c.Context(), key, asked, func() ([]byte, bool) {
			answer, err := do(c)
			var r *reply
			if err = a.acted(c, err); err != nil {
				p, _ := problemOf(err)
				r = replyOf(p, "")
			} else {
				r = replyOf(answer, c.tag)
			}
			text, _ := json.Marshal(r) // of text, numbers and JSON
			return text, err == nil || maybeDone(err)
		})
		switch {
		case kept == nil:
			return nil, err
		case err != nil:
			a.Log.Warn("the answer to an act cannot be kept: a repeat with its key will be told that it was interrupted", "error", err)
		}
		var r reply
		if err := json.Unmarshal(kept, &r); err != nil {
			return nil, newProblem("internal", "The kept answer cannot be read.")
		}
		return &r, nil
	}
}

// acted is the error of an act. One that Postgres gave may have come after the act was committed: it is logged, and the
// caller is told that nobody knows.
func (a *api) acted(c *call, err error) error {
	if err == nil {
		return nil
	}
	if _, known := problemOf(err); known {
		return err
	}
	if database.WaitedForLock(err) {
		p := newProblem("locked", "It was waited for and not done. Do it again when the lock is gone.")
		p.Holders = c.desk.WhoHolds(c.Context(), err)
		return p
	}
	a.Log.Warn("the outcome of an act over the API is unknown", "route", c.Pattern, "error", err)
	return newProblem("outcome-unknown", "Postgres did not answer as it should. GET /acts tells whether it was done; the worker's log says why.")
}

// maybeDone says whether an act that failed may have been done, in part at least.
func maybeDone(err error) bool {
	var p *problem
	return errors.Is(err, operator.ErrLeftOut) || errors.As(err, &p) && p.Type == problemType+"outcome-unknown"
}

// why is the reason of an act.
func (f fields) why() operator.Act { return operator.Act{Why: f.required("why", operator.WhyMost)} }

// seen is the tag in If-Match; "": there is none, or any will do.
func (c *call) seen(f fields) operator.Tag {
	match := strings.TrimPrefix(strings.TrimSpace(c.Header.Get("If-Match")), "W/") // which a proxy that compresses adds
	if match == "" || match == "*" {
		return ""
	}
	tag, quoted := strings.CutPrefix(match, `"`)
	tag, ended := strings.CutSuffix(tag, `"`)
	if !quoted || !ended || tag == "" || strings.ContainsAny(tag, `",`) {
		f.wrong("If-Match", "must be one ETag")
	}
	return operator.Tag(tag)
}

// readGate is an act on the gate.
func readGate(act func(*operator.Desk, context.Context, operator.Act) (operator.GateChange, error)) func(*call, fields) action {
	return func(c *call, f fields) action {
		a := f.why()
		a.Seen = c.seen(f)
		return func(c *call) (any, error) {
			changed, err := act(c.desk, c.Context(), a)
			if errors.Is(err, operator.ErrStale) {
				p := newProblem("stale", "Nothing was changed. Look at the gate again.")
				p.ETag = quoted(operator.GateTag(changed.Before))
				p.Since, _ = c.desk.GateSince(c.Context(), a.Seen) // GET /gate and /acts say it, too
				return nil, p
			}
			if err != nil {
				return nil, err
			}
			c.tag = operator.GateTag(changed.After)
			return map[string]any{"before": changed.Before, "after": changed.After}, nil
		}
	}
}

// readRetry is an act on one request that may be unverified.
func readRetry(c *call, f fields) action {
	unverified := f.flag("unverified")
	return readChange(func() operator.Change { return operator.ToRetry(unverified) })(c, f)
}

// A changed is what an act on one request has done.
type changed struct {
	Act     string        `json:"act"`
	Becomes string        `json:"becomes"`
	Request *operator.Row `json:"request"` // as it is now; null: it could not be read again
	Said    []string      `json:"said"`    // what Flex and TaskRouter said to a decision
}

// readChange is an act on one request.
func readChange(to func() operator.Change) func(*call, fields) action {
	return func(c *call, f fields) action {
		a, change := f.why(), to()
		a.Seen = c.seen(f)
		return func(c *call) (any, error) {
			all, err := c.desk.Do(c.Context(), change, a, operator.Filter{RequestIDs: []string{c.id()}})
			if err != nil {
				return nil, err
			}
			if len(all.Locked) > 0 {
				p := newProblem("locked", "Another session holds the request's row.")
				p.Holders = c.desk.WhoHolds(c.Context(), operator.ErrLeftOut)
				return nil, p
			}
			d, err := c.desk.Show(c.Context(), c.id())
			if all.N == 0 {
				return nil, notDone(change, a, d, err)
			}
			done := changed{Act: change.Name, Said: []string{}}
			for what := range all.Of {
				done.Becomes = what
			}
			if err == nil {
				done.Request, c.tag = &d.Row, d.Tag()
			}
			return done, nil
		}
	}
}

// notDone says why a change has not taken a request, which Show gave with err.
func notDone(change operator.Change, a operator.Act, d operator.Detail, err error) error {
	switch {
	case err != nil:
		return err
	case a.Seen != "" && a.Seen != d.Tag():
		return stale(a, d)
	default:
		return standing("not-allowed", change.Name+" takes "+change.Takes+", and the request is "+string(d.State)+".", d)
	}
}

// stale tells what has happened to a request since the caller saw it.
func stale(a operator.Act, d operator.Detail) error {
	p := standing("stale", "Nothing was changed. Look at the request again.", d)
	p.Since = d.SinceTag(a.Seen)
	return p
}

// quoted is a tag as headers have it.
func quoted(tag operator.Tag) string { return `"` + string(tag) + `"` }

// standing is a problem with where the request stands now.
func standing(kind, detail string, d operator.Detail) *problem {
	p := newProblem(kind, detail)
	p.State, p.ETag = string(d.State), quoted(d.Tag())
	return p
}

// readResolve is a decision about an uncertain request.
func readResolve(c *call, f fields) action {
	a := f.why()
	a.Seen = c.seen(f)
	decision := operator.Decision{Created: f.text("created", 256), Absent: f.flag("absent"), Unverified: f.flag("unverified")}
	switch {
	case decision.Absent == (decision.Created != ""):
		f.wrong("", `says either "created" with the sid of the interaction, or "absent": true`)
	case !decision.Absent && !operator.IsSID(decision.Created):
		f.wrong("created", "must be KD and 32 hexadecimal digits")
	}
	return func(c *call) (any, error) {
		if a.Seen == "" {
			return nil, newProblem("tag-wanted", "A decision names the request as you have seen it: send the ETag of GET /requests/{id} as If-Match.")
		}
		r, err := c.desk.Resolve(c.Context(), a, c.id(), decision)
		if err != nil {
			return nil, notResolved(err, a, r)
		}
		done := changed{Act: "resolve", Becomes: string(r.Became), Said: append([]string{}, r.Said...)}
		if r.Unread == nil {
			done.Request, c.tag = &r.Request.Row, r.Request.Tag()
		}
		return done, nil
	}
}

// notResolved is the error of a decision with what is known of the request.
func notResolved(err error, a operator.Act, r operator.Resolution) error {
	p, known := problemOf(err)
	switch {
	case !known || r.Request.RequestID == "":
		return err
	case p.Type == problemType+"stale":
		return stale(a, r.Request)
	}
	with := standing(strings.TrimPrefix(p.Type, problemType), p.Detail, r.Request)
	with.Said, with.Found = r.Said, r.Found
	return with
}
