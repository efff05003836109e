package outbox

import (
	"context"
	"fmt"
	"strings"
	"time"

	"flexworker/internal/flex"
	"flexworker/internal/rawjson"
)

// Evidence is what TaskRouter's two witnesses say about a request when a person asks.
type Evidence struct {
	// Found are the tasks that carry its key: its interaction exists.
	Found []flex.Task
	// Asked: both witnesses have answered, for all of the attempt's time.
	Asked bool
	// Said is what was asked and what came of it, a sentence each.
	Said []string
}

// askedLog is the longest time of the event log that a person's question reads.
const askedLog = 24 * time.Hour

// Ask asks the task search and the event log about a request, as a lookup does. It decides
// nothing: that nothing is found proves absence only as lookups conclude it.
func Ask(ctx context.Context, f finder, d Detail) Evidence {
	var e Evidence
	say := func(format string, args ...any) { e.Said = append(e.Said, fmt.Sprintf(format, args...)) }
	if d.LookupKey == nil || d.LookupAttribute == nil || d.Workspace == nil || d.UncertainSince == nil {
		say("There is no task to look for: its call carried no lookup key, or named no workspace.")
		return e
	}
	keys := []string{*d.LookupKey}
	tasks, err := f.SearchTasks(ctx, *d.Workspace, *d.LookupAttribute, keys)
	if err != nil {
		say("TaskRouter's tasks could not be searched: %v.", err)
		return e
	}
	say("TaskRouter's search in %s for %s = %s finds %s.", *d.Workspace, *d.LookupAttribute, *d.LookupKey, tasksSaid(tasks))
	if e.Found = tasks; len(tasks) > 0 {
		return e
	}
	from, to := d.UncertainSince.Add(-time.Minute), d.UncertainSince.Add(2*time.Minute)
	if d.AttemptBeganAt != nil && d.AttemptBeganAt.Before(from) {
		from = *d.AttemptBeganAt
	}
	from = from.Add(-clockSlack)
	if to.After(d.Now) {
		to = d.Now
	}
	if to.Sub(from) > askedLog {
		say("Its attempt may have been made at any moment from %s to %s: that is more of the event log than is read here.", clock(from), clock(to))
		return e
	}
	logged, complete, err := f.Events(ctx, *d.Workspace, *d.LookupAttribute, keys, from, to)
	if err != nil {
		say("TaskRouter's event log could not be asked: %v.", err)
		return e
	}
	say("TaskRouter's event log from %s to %s shows %s.", clock(from), clock(to), tasksSaid(logged))
	if !complete {
		say("But it could not be read for all of that time.")
	}
	e.Found, e.Asked = logged, complete
	return e
}

func tasksSaid(tasks []flex.Task) string {
	if len(tasks) == 0 {
		return "nothing"
	}
	said := make([]string, len(tasks))
	for i, t := range tasks {
		said[i] = fmt.Sprintf("task %s of interaction %s, created at %s", t.TaskSID, orNone(t.InteractionSID), clock(t.DateCreated))
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

// Portrait is what Flex shows of an interaction, in words by which a person can tell
// whether it is the one that they mean: its channel, its task and its customer.
func Portrait(sid string, seen flex.Outcome) string {
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
