package api

import (
	"flexworker/internal/outbox/operator"
)

// shownMost is how many of the requests that an act on many has changed are named. outbox_acts has all.
const shownMost = 100

// readChoice reads which change an act on many makes, and of what.
func readChoice(f fields) (operator.Change, operator.Filter) {
	unverified := f.flag("unverified")
	changes := map[string]operator.Change{
		"retry": operator.ToRetry(unverified), "cancel": operator.ToCancel(), "lookup": operator.ToLookUp(), "republish": operator.ToRepublish(),
	}
	name := f.oneOf("act", "retry", "cancel", "lookup", "republish")
	switch {
	case name == "":
		f.wrong("act", "is required")
	case unverified && name != "retry":
		f.wrong("unverified", "is for a retry alone")
	}
	in := f.object("filter")
	filter := readFilter(in)
	in.done()
	return changes[name], filter
}

// preview says what an act on many would take. Its token belongs to the act.
func (a *api) preview(c *call) (any, error) {
	if err := c.desk.MayLook(); err != nil { // nobody else's body is read
		return nil, err
	}
	_, f, err := body(c.w, c.Request)
	if err != nil {
		return nil, err
	}
	change, filter := readChoice(f)
	f.done()
	if err := f.fault(); err != nil {
		return nil, err
	}
	all, err := c.desk.Matching(c.Context(), change, nil, filter)
	return struct {
		Act     string         `json:"act"`
		Would   int            `json:"would_change"`
		First   []string       `json:"first"`
		Becomes map[string]int `json:"becomes"`
		Token   string         `json:"token"`
	}{change.Name, all.N, append([]string{}, all.IDs...), all.Of, all.Token}, err
}

// readMany is an act on all that a preview has shown.
func readMany(_ *call, f fields) action {
	act := f.why()
	change, filter := readChoice(f)
	filter.Preview = f.required("token", 4096)
	return func(c *call) (any, error) {
		all, err := c.desk.Do(c.Context(), change, act, filter)
		return struct {
			Act     string         `json:"act"`
			Changed int            `json:"changed"`
			First   []string       `json:"first"`
			Becomes map[string]int `json:"becomes"`
			Locked  []string       `json:"locked"`
		}{change.Name, all.N, first(all.IDs), all.Of, first(all.Locked)}, err
	}
}

// first are the first of ids.
func first(ids []string) []string { return append([]string{}, ids[:min(len(ids), shownMost)]...) }
