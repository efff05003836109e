package operator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"flexworker/internal/flex"
	"flexworker/internal/loop"
	"flexworker/internal/outbox/lookup"
	"flexworker/internal/outbox/request"
	"flexworker/internal/rawjson"
)

// Evidence is what TaskRouter's two witnesses say about a request when a person asks.
type Evidence struct {
	// Found are the tasks that carry its key: its interaction exists.
	Found []flex.Task
	// Absent: a lookup would take what they said now for a proof that it does not exist.
	Absent bool
	// Nothing: all that was asked has answered in full, and no task of the request is among it.
	Nothing bool
	// Said is what was asked and what came of it, a sentence each, and at last why that
	// proves nothing, or what it proves.
	Said []string
}

// AnsweredProvesNothing is why what a lookup does not find may exist all the same, of a request with Detail.Answered.
const AnsweredProvesNothing = "Flex answered with a 2xx, but no sid in it could be read: it may exist although TaskRouter shows no task."

// Ask says what TaskRouter says now about an uncertain request, to who may decide about it. It decides nothing and stores
// nothing, and takes as long as ctx lets it. It fails with ErrCannotAsk.
func (desk *Desk) Ask(ctx context.Context, d Detail) (Evidence, error) {
	if err := desk.MayAct(); err != nil {
		return Evidence{}, err
	}
	finder, settle, err := desk.finder()
	if err != nil {
		return Evidence{}, err
	}
	return desk.ask(ctx, finder, d, settle), nil
}

// finder gives what Flex and TaskRouter are asked by. It fails with ErrCannotAsk.
func (desk *Desk) finder() (Flex, time.Duration, error) {
	if desk.asks == nil {
		return nil, 0, ErrCannotAsk
	}
	f, settle, err := desk.asks()
	if err != nil {
		return nil, 0, fmt.Errorf("%w: %w", ErrCannotAsk, err)
	}
	return f, settle, nil
}

// ask makes a lookup of one uncertain request for a person. It decides nothing and stores nothing. What proves
// absence to a lookup proves it here. settle is LOOKUP_SETTLE of this process.
func (desk *Desk) ask(ctx context.Context, f lookup.Finder, d Detail, settle time.Duration) Evidence {
	if d.LookupKey == nil || d.LookupAttribute == nil || d.Workspace == nil || d.UncertainSince == nil || d.AttemptBeganAt == nil {
		return Evidence{Said: []string{"There is no task to look for: its call carried no lookup key, or named no workspace."}}
	}
	ctx, cancel := context.WithTimeout(ctx, lookup.LookupLimit)
	defer cancel()
	u := lookup.Input{RequestID: d.RequestID, LookupKey: *d.LookupKey, Attempt: d.Attempt, Received: d.ReceivedAt,
		Began: *d.AttemptBeganAt, Since: *d.UncertainSince, Lasted: d.Now.Sub(*d.AttemptBeganAt), Age: d.Now.Sub(*d.UncertainSince)}
	q := lookup.Batch{Workspace: *d.Workspace, Attribute: *d.LookupAttribute, Asked: []lookup.Input{u}}
	if err := desk.pool.QueryRow(ctx, `SELECT `+lookup.LongestSettle("$1"), settle).Scan(&q.Settle); err != nil {
		return Evidence{Said: []string{fmt.Sprintf("The settle times of the fleet could not be read: %v.", err)}}
	}
	q.Later = lookup.LaterCreation(ctx, desk.pool, q)
	w := &witnesses{Finder: f, of: u}
	findings, _ := q.LookUp(ctx, w) // the finding says why
	found := findings[0]
	e := Evidence{Found: w.found, Said: w.said, Nothing: w.answered > 0 && !w.failed && len(w.found) == 0 && !found.Foreign}
	switch {
	case found.Foreign:
		e.Found = nil
	case found.Kind == request.Absent && d.Answered:
		e.Said = append(e.Said, AnsweredProvesNothing)
		return e
	}
	e.Absent = found.Kind == request.Absent
	if found.Why != "" {
		e.Said = append(e.Said, "In short: "+found.Why+".")
	}
	return e
}

// witnesses pass on the questions about one request, and keep the answers in words. A task that is older than the
// request belongs to an earlier request with the same id: the words say so, and the task is left out.
type witnesses struct {
	lookup.Finder
	of    lookup.Input
	found []flex.Task
	said  []string

	answered int
	failed   bool // a question had no answer, or one that is not complete
}

func (w *witnesses) say(format string, args ...any) {
	w.said = append(w.said, fmt.Sprintf(format, args...))
}

// patiently asks again while TaskRouter answers 429, as long as ctx has time for it: the workers' lookups use the same few searches a second.
func patiently(ctx context.Context, ask func() error) error {
	for {
		err := ask()
		var e *flex.LookupError
		if !errors.As(err, &e) || !e.Limited {
			return err
		}
		wait := cmp.Or(e.RetryAfter, time.Second)
		if until, ok := ctx.Deadline(); ok && time.Until(until) < wait {
			return err
		}
		loop.Rest(ctx, wait, nil)
	}
}

// SearchTasks is the first witness.
func (w *witnesses) SearchTasks(ctx context.Context, workspace, attribute string, keys []string) (tasks []flex.Task, err error) {
	err = patiently(ctx, func() error {
		tasks, err = w.Finder.SearchTasks(ctx, workspace, attribute, keys)
		return err
	})
	if err != nil {
		w.failed = true
		w.say("TaskRouter's tasks could not be searched: %v.", err)
		return nil, err
	}
	w.answered++
	w.say("TaskRouter's search in %s for %s = %s finds %s.", workspace, attribute, w.of.LookupKey, tasksSaid(w.its(tasks)))
	return w.younger(tasks), nil
}

// Events is the second witness.
func (w *witnesses) Events(ctx context.Context, workspace, attribute string, keys []string, from, to time.Time) (tasks []flex.Task, complete bool, err error) {
	err = patiently(ctx, func() error {
		tasks, complete, err = w.Finder.Events(ctx, workspace, attribute, keys, from, to)
		return err
	})
	w.answered++
	w.failed = w.failed || err != nil || !complete
	switch {
	case err != nil:
		w.say("TaskRouter's event log could not be asked: %v.", err)
	case keys[0] == w.of.LookupKey:
		w.say("TaskRouter's event log from %s to %s shows %s.", request.ShowTime(from), request.ShowTime(to), tasksSaid(w.its(tasks)))
	}
	return w.younger(tasks), complete, err
}

// its are the tasks that carry the request's key.
func (w *witnesses) its(tasks []flex.Task) (its []flex.Task) {
	for _, t := range tasks {
		if t.Key == w.of.LookupKey {
			its = append(its, t)
		}
	}
	return its
}

// younger are the tasks without those of an earlier request with this id.
func (w *witnesses) younger(tasks []flex.Task) (younger []flex.Task) {
	for _, t := range tasks {
		switch {
		case t.Key != w.of.LookupKey:
		case lookup.Older(t.DateCreated, w.of.Received):
			w.say("But %s.", lookup.ForeignTask(t, w.of.Received).Why)
			continue
		default:
			w.found = append(w.found, t)
		}
		younger = append(younger, t)
	}
	return younger
}

// notOf says why an interaction that Flex shows is not that of a request: its task carries the key of another
// request, or it was created before the request was received, for an earlier one with the same id. It is "" where
// nothing shows that.
func notOf(d Detail, sid string, seen flex.Outcome) string {
	attribute := d.attribute()
	if key := flex.KeyIn(seen.Response, attribute); key != "" && key != flex.LookupKey(d.RequestID) {
		return fmt.Sprintf("%s was created for another request, by the %s of its task", sid, attribute)
	}
	created := lookup.ShownCreated(seen)
	if !lookup.Older(created, d.ReceivedAt) {
		return ""
	}
	return lookup.ForeignTask(flex.Task{TaskSID: seen.TaskSID, InteractionSID: seen.InteractionSID, DateCreated: created}, d.ReceivedAt).Why
}

// kinship says by what an interaction that Flex shows is that of a request, or what a person has to compare.
func kinship(d Detail, seen flex.Outcome) string {
	if flex.KeyIn(seen.Response, d.attribute()) == "" {
		return fmt.Sprintf("Its task shows no %s: compare customer and channel.", d.attribute())
	}
	return fmt.Sprintf("The %s of its task is that of this request.", d.attribute())
}

// attribute is the task attribute in which the request's key stands.
func (d Detail) attribute() string {
	if d.LookupAttribute == nil {
		return "interaction_request"
	}
	return *d.LookupAttribute
}

func tasksSaid(tasks []flex.Task) string {
	if len(tasks) == 0 {
		return "nothing"
	}
	said := make([]string, len(tasks))
	for i, t := range tasks {
		said[i] = fmt.Sprintf("task %s of interaction %s, created at %s", t.TaskSID, orNone(t.InteractionSID), request.ShowTime(t.DateCreated))
	}
	return strings.Join(said, "; ")
}

func orNone(s string) string {
	if s == "" {
		return "(not named)"
	}
	return s
}

// customers are the task attributes in which Flex, and those who route, name the customer.
var customers = []string{"customerName", "name", "customerAddress", "from", "identity"}

// portrait is what Flex shows of an interaction, in words by which a person can tell
// whether it is the one that they mean: its channel, its task and its customer.
func portrait(sid string, seen flex.Outcome) string {
	said := []string{"Flex shows " + sid}
	add := func(name string, value *string) {
		if value != nil {
			said = append(said, name+" "+*value)
		}
	}
	channel, routing := flex.Describe(seen.Response)
	if channel != nil {
		add("channel", channel.Type)
		add("channel sid", channel.SID)
	}
	if seen.TaskSID != "" {
		said = append(said, "task "+seen.TaskSID)
	}
	if routing != nil {
		add("task status", routing.AssignmentStatus)
		add("workflow", routing.WorkflowName)
		add("created", routing.DateCreated)
	}
	raw, _ := rawjson.Member(seen.Response, "routing", "properties", "attributes")
	if held, ok := rawjson.Text(raw); ok {
		raw = held
	}
	for _, name := range customers {
		if value, ok := rawjson.Member(raw, name); ok {
			if text, ok := rawjson.Text(value); ok {
				said = append(said, name+" "+string(text))
			}
		}
	}
	return strings.Join(said, ", ")
}
