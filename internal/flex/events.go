package flex

import (
	"context"
	"net/url"
	"slices"
	"time"

	"flexworker/internal/rawjson"
)

const (
	fullPage  = 1000 // events; a page of so many may have lost some
	maxEvents = 64   // calls that one Events may make
)

// Events reads from TaskRouter's log, which keeps 30 days, the tasks created
// between from and to that carry one of keys under attribute, as they were then. complete is true
// when every event of that time was seen and had readable attributes: only then
// does it prove absence, as far as the log has caught up. Where a page is full the
// window is halved, down to a second and to 64 calls in all. Of the log no more is
// kept than what it returns. Its error is a *LookupError.
func (c *Client) Events(ctx context.Context, workspaceSID, attribute string, keys []string, from, to time.Time) (tasks []Task, complete bool, err error) {
	whole, err := windowOf(workspaceSID, attribute, keys, from, to)
	if err != nil {
		return nil, false, err
	}
	open := []window{whole}
	seen := make(map[Task]bool)
	complete = true
	for calls := 0; len(open) > 0; calls++ {
		if calls == maxEvents || len(tasks) > fullPage {
			return tasks, false, nil
		}
		w := open[len(open)-1]
		open = open[:len(open)-1]
		found, cut, readable, err := c.eventPage(ctx, workspaceSID, attribute, keys, w)
		if err != nil {
			return nil, false, err
		}
		complete = complete && readable
		for _, task := range found { // windows share their edges
			if !seen[task] {
				seen[task] = true
				tasks = append(tasks, task)
			}
		}
		switch middle := w.from.Add(w.to.Sub(w.from) / 2).Truncate(time.Second); {
		case !cut:
		case middle.After(w.from):
			open = append(open, window{middle, w.to}, window{w.from, middle}) // the earlier one first
		default:
			complete = false
		}
	}
	return tasks, complete, nil
}

// window is a time to look at, in whole seconds, as the log counts.
type window struct{ from, to time.Time }

// windowOf checks what is asked for, and widens it to whole seconds.
func windowOf(workspaceSID, attribute string, keys []string, from, to time.Time) (window, error) {
	w := window{from.UTC().Truncate(time.Second), to.UTC().Add(time.Second - 1).Truncate(time.Second)}
	switch {
	case !attributeName.MatchString(attribute):
		return w, unclear("request", "no lookup attribute, or one of other characters than letters, digits and _")
	case !workspaceForm.MatchString(workspaceSID):
		return w, unclear("request", "not the sid of a workspace")
	case len(keys) == 0 || slices.ContainsFunc(keys, func(key string) bool { return !lookupKey.MatchString(key) }):
		return w, unclear("request", "no lookup key, or one of other characters than letters, digits and _")
	case !w.from.Before(w.to):
		return w, unclear("request", "the time to look at is empty")
	}
	return w, nil
}

// eventPage asks once. cut: there may be more events than were seen. readable: the
// attributes of all of them could be read.
func (c *Client) eventPage(ctx context.Context, workspaceSID, attribute string, keys []string, w window) (tasks []Task, cut, readable bool, err error) {
	query := url.Values{
		"EventType": {"task.created"}, "PageSize": {"1000"},
		"StartDate": {w.from.Format(time.RFC3339)}, "EndDate": {w.to.Format(time.RFC3339)},
	}
	events := 0
	readable = true
	next, err := c.page(ctx, c.taskRouterURL+"/v1/Workspaces/"+workspaceSID+"/Events", query, "events", func(raw []byte) {
		events++
		if kind := textAt(raw, "event_type"); kind != "" && kind != "task.created" {
			return
		}
		task, ok := taskFromEvent(raw, attribute)
		readable = readable && ok
		if slices.Contains(keys, task.Key) {
			tasks = append(tasks, task)
		}
	})
	if err != nil {
		return nil, false, false, err
	}
	return tasks, events >= fullPage || next != "", readable, nil
}

// taskFromEvent reads the task out of its task.created; ok is false when the
// event does not show the attributes. Where they stand is not documented for this
// list: expected is event_data.task_attributes.
func taskFromEvent(raw []byte, attribute string) (task Task, ok bool) {
	data, _ := rawjson.Member(raw, "event_data")
	data = object(data)
	attributes, found := rawjson.Member(data, "task_attributes")
	if !found {
		attributes, _ = rawjson.Member(data, "attributes")
	}
	if attributes = object(attributes); attributes == nil {
		return Task{}, false
	}
	for _, sid := range []string{textAt(data, "task_sid"), textAt(raw, "resource_sid")} {
		if taskSID.MatchString(sid) {
			task.TaskSID = sid
		}
	}
	created, found := rawjson.Member(data, "task_date_created")
	if !found {
		created, _ = rawjson.Member(raw, "event_date")
	}
	task.DateCreated = timeOf(created)
	if status := textAt(data, "task_assignment_status"); len(status) <= 64 {
		task.AssignmentStatus = status
	}
	task.Key, task.InteractionSID = named(attributes, attribute)
	return task, true
}
