package flextest

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxTimeout is the longest a task may wait, in seconds: two weeks.
const maxTimeout = 1209600

// readRouting checks Routing by the table of twilio.md §4.
func (s *Server) readRouting(q *wish) *refusal {
	routing, ok := object(q.routing)
	if !ok {
		return invalid("Routing is not a JSON object")
	}
	text, _ := find(routing, "properties")
	if text == "" || text[0] != '{' {
		return invalid("Routing.properties is not an object")
	}
	properties := members(text, 1)
	if refused := q.readSIDs(properties); refused != nil {
		return refused
	}
	if refused := q.readNumbers(properties); refused != nil {
		return refused
	}
	if refused := s.readAttributes(q, properties); refused != nil {
		return refused
	}
	if s.cfg.Workspaces != nil && !slices.Contains(s.cfg.Workspaces, q.workspace) {
		return &refusal{http.StatusNotFound, 20404, "The workspace " + q.workspace + " was not found"}
	}
	return nil
}

// readSIDs checks where the task is to go.
func (q *wish) readSIDs(properties []member) *refusal {
	agent := q.initiatedBy == "agent"
	var worker, channelSID string
	for _, p := range [...]struct {
		name, prefix string
		required     bool
		to           *string
	}{
		{"workspace_sid", "WS", true, &q.workspace},
		{"workflow_sid", "WW", false, &q.workflow},
		{"queue_sid", "WQ", agent, &q.queue},
		{"worker_sid", "WK", agent, &worker},
		{"task_channel_sid", "TC", false, &channelSID},
	} {
		_, given := find(properties, p.name)
		if !given && p.required {
			return invalid("Missing required Routing.properties.%s", p.name)
		}
		if *p.to, _ = findText(properties, p.name); given && !isSID(p.prefix, *p.to) {
			return invalid("Invalid Routing.properties.%s: %q", p.name, *p.to)
		}
	}
	if _, given := find(properties, "task_channel_unique_name"); given {
		if q.taskChannel, _ = findText(properties, "task_channel_unique_name"); q.taskChannel == "" {
			return invalid("Invalid Routing.properties.task_channel_unique_name")
		}
	}
	return nil
}

// readNumbers checks priority and timeout, which are kept as they were written.
func (q *wish) readNumbers(properties []member) *refusal {
	for _, p := range [...]struct {
		name     string
		min, max int
		to       *string
	}{
		{"priority", 0, 1<<31 - 1, &q.priority},
		{"timeout", 1, maxTimeout, &q.timeout},
	} {
		text, given := find(properties, p.name)
		if !given {
			continue
		}
		if n, err := strconv.Atoi(text); err != nil || n < p.min || n > p.max {
			return invalid("Invalid Routing.properties.%s: %s", p.name, text)
		}
		*p.to = text
	}
	return nil
}

// readAttributes checks the task's attributes and takes from them the values by
// which tests and lookups recognise the call.
func (s *Server) readAttributes(q *wish, properties []member) *refusal {
	text, given := find(properties, "attributes")
	if !given {
		return nil
	}
	var list []member
	ok := text[0] == '{'
	if ok {
		list = members(text, 1)
	} else if text[0] == '"' {
		text = unquote(text)
		list, ok = object(text)
	}
	if !ok {
		return invalid("Routing.properties.attributes is not an object, nor a text that holds one")
	}
	if n := utf8.RuneCountInString(text); n > maxAttributes {
		return invalid("Routing.properties.attributes has %d characters, more than %d", n, maxAttributes)
	}
	q.attributes = text
	q.key, _ = findText(list, s.cfg.KeyAttribute)
	q.testID, _ = findText(list, s.cfg.TestAttribute)
	// What is kept for ever must not keep the whole body with it.
	q.key, q.testID = strings.Clone(q.key), strings.Clone(q.testID)
	return nil
}
