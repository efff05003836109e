package consumer

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"flexworker/internal/flex"
	"flexworker/internal/outbox"
	"flexworker/internal/rawjson"
)

// fields are all that a request may have.
var fields = []string{"request_id", "channel", "routing", "interaction_context_sid", "webhook_ttid",
	"priority", "not_before", "expires_at", "metadata"}

// maxAttributes is what TaskRouter takes of a task's attributes, in characters.
// https://www.twilio.com/docs/taskrouter/limits.md
const maxAttributes = 4096

// A checker collects the faults of one request, each with its path.
type checker struct {
	faults []rawjson.Fault
}

func (c *checker) fault(path, format string, args ...any) {
	c.faults = append(c.faults, rawjson.Fault{Path: path, Problem: fmt.Sprintf(format, args...)})
}

// check fills the event from its request and collects what Flex would surely
// refuse. It asks no more than that: what Flex may take is Flex's to decide.
func check(e *outbox.Event, lookupAttribute string) {
	var c checker
	object, ok := members(e.Request)
	if !ok {
		c.fault("", "a request must be a JSON object")
		e.Faults = c.faults
		return
	}
	c.known(object)
	attached := c.channel(object)
	workspace := c.routing(object, attached)
	c.sid(object, "interaction_context_sid", "interaction_context_sid", "HQ")
	c.text(object, "webhook_ttid", "webhook_ttid")
	e.Priority = c.priority(object)
	e.NotBefore = c.instant(object, "not_before")
	e.ExpiresAt = c.instant(object, "expires_at")
	if !e.NotBefore.IsZero() && !e.ExpiresAt.IsZero() && !e.NotBefore.Before(e.ExpiresAt) {
		c.fault("expires_at", "is not after not_before: the request could never be sent")
	}
	if workspace && lookupAttribute != "" {
		e.LookupKey = flex.LookupKey(e.RequestID)
	}
	c.attributes(object, lookupAttribute, e.LookupKey)
	e.Faults = c.faults
}

// known faults every field that is not a request's: a mistyped expires_at must
// not be obeyed by silence.
func (c *checker) known(object map[string]json.RawMessage) {
	names := make([]string, 0, len(object))
	for name := range object {
		if !slices.Contains(fields, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for n, name := range names {
		if n == maxUnknown {
			c.fault("", "and %d more fields that a request does not have", len(names)-n)
			return
		}
		c.fault(shown(name), "is not a field of a request; the fields are %s", strings.Join(fields, ", "))
	}
}

// maxUnknown is how many unknown fields are named, of at most maxShown bytes.
const (
	maxUnknown = 20
	maxShown   = 64
)

var plainName = regexp.MustCompile(`^[a-zA-Z0-9_-]{1,64}$`)

// shown is a name that a sender chose as it can stand in a path.
func shown(name string) string {
	if plainName.MatchString(name) {
		return name
	}
	if len(name) > maxShown {
		name = strings.ToValidUTF8(name[:maxShown], "") + "…"
	}
	return fmt.Sprintf("[%q]", name)
}

// channel checks what Flex requires of it and says whether it names an existing
// one, to which the interaction is attached.
func (c *checker) channel(object map[string]json.RawMessage) (attached bool) {
	if object["channel"] == nil {
		c.fault("channel", "missing")
		return false
	}
	channel, ok := members(object["channel"])
	if !ok {
		c.fault("channel", "must be an object")
		return false
	}
	for _, name := range []string{"type", "initiated_by"} {
		if channel[name] == nil {
			c.fault("channel."+name, "missing")
			continue
		}
		c.text(channel, name, "channel."+name)
	}
	c.sid(channel, "sid", "channel.sid", "UO")
	if properties, ok := c.object(channel, "properties", "channel.properties"); ok {
		c.sid(properties, "media_channel_sid", "channel.properties.media_channel_sid", "CH")
	}
	return channel["sid"] != nil
}

// routing checks the sids and says whether there is a workspace, and so a task.
func (c *checker) routing(object map[string]json.RawMessage, attached bool) (workspace bool) {
	routing, ok := c.object(object, "routing", "routing")
	if !ok {
		if object["routing"] == nil && !attached {
			c.fault("routing", "missing; only a request with channel.sid can do without")
		}
		return false
	}
	properties, ok := c.object(routing, "properties", "routing.properties")
	if !ok {
		if routing["properties"] == nil && !attached {
			c.fault("routing.properties", "missing; only a request with channel.sid can do without")
		}
		return false
	}
	if properties["workspace_sid"] == nil && !attached {
		c.fault("routing.properties.workspace_sid", "missing; only a request with channel.sid can do without")
	}
	for _, s := range [...][2]string{{"workspace_sid", "WS"}, {"workflow_sid", "WW"}, {"queue_sid", "WQ"},
		{"worker_sid", "WK"}, {"task_channel_sid", "TC"}} {
		c.sid(properties, s[0], "routing.properties."+s[0], s[1])
	}
	return properties["workspace_sid"] != nil
}

// attributes checks that they are what TaskRouter takes, with our key in them.
func (c *checker) attributes(object map[string]json.RawMessage, attribute, key string) {
	const path = "routing.properties.attributes"
	raw, ok := rawjson.Member(object["routing"], "properties", "attributes")
	if !ok || isNull(raw) {
		return
	}
	var inner string
	if json.Unmarshal(raw, &inner) == nil {
		raw = []byte(inner)
		if inner == "" {
			c.fault(path, "the string must hold a JSON object: it is empty")
			return
		}
		if faults := rawjson.Check(raw); len(faults) > 0 {
			for _, f := range faults {
				c.fault(path, "the string must hold a JSON object: %s", f)
			}
			return
		}
	}
	if _, ok := members(raw); !ok {
		c.fault(path, "must be an object, or a string that holds one")
		return
	}
	if _, there := rawjson.Member(raw, attribute); there && attribute != "" { // also when it is null
		c.fault(path+"."+attribute, "is the worker's own key; choose another name")
		return
	}
	characters := utf8.RuneCount(raw)
	if key != "" {
		characters += len(`"":"",`) + len(attribute) + len(key)
	}
	if characters > maxAttributes {
		c.fault(path, "has %d characters with the worker's key, TaskRouter takes at most %d", characters, maxAttributes)
	}
}

var sids = func() map[string]*regexp.Regexp {
	m := map[string]*regexp.Regexp{}
	for _, prefix := range []string{"CH", "HQ", "TC", "UO", "WK", "WQ", "WS", "WW"} {
		m[prefix] = regexp.MustCompile("^" + prefix + "[0-9a-fA-F]{32}$")
	}
	return m
}()

// sid checks the form of a sid that may be left out.
func (c *checker) sid(object map[string]json.RawMessage, name, path, prefix string) {
	s, ok := c.text(object, name, path)
	if ok && !sids[prefix].MatchString(s) {
		c.fault(path, "is not a sid: %s and 32 hexadecimal digits", prefix)
	}
}

// text reads a string that may be left out.
func (c *checker) text(object map[string]json.RawMessage, name, path string) (s string, ok bool) {
	raw := object[name]
	if raw == nil {
		return "", false
	}
	if json.Unmarshal(raw, &s) != nil {
		c.fault(path, "must be a string")
		return "", false
	}
	if s == "" {
		c.fault(path, "must not be empty")
		return "", false
	}
	return s, true
}

// object reads an object that may be left out.
func (c *checker) object(in map[string]json.RawMessage, name, path string) (map[string]json.RawMessage, bool) {
	raw := in[name]
	if raw == nil {
		return nil, false
	}
	object, ok := members(raw)
	if !ok {
		c.fault(path, "must be an object")
	}
	return object, ok
}

func (c *checker) priority(object map[string]json.RawMessage) int {
	raw := object["priority"]
	if raw == nil {
		return 0
	}
	n, err := strconv.Atoi(string(raw))
	if err != nil || n < 0 || n > 9 {
		c.fault("priority", "must be a whole number from 0 to 9")
		return 0
	}
	return n
}

func (c *checker) instant(object map[string]json.RawMessage, name string) time.Time {
	s, ok := c.text(object, name, name)
	if !ok {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		c.fault(name, "must be a time by RFC 3339, such as 2026-11-22T09:00:00Z")
		return time.Time{}
	}
	if t.Unix() < 0 { // the zero time means that there is none
		c.fault(name, "is before 1970")
		return time.Time{}
	}
	return t
}

// members are an object's members; one whose value is null counts as left out.
func members(raw []byte) (map[string]json.RawMessage, bool) {
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 || raw[0] != '{' {
		return nil, false
	}
	var object map[string]json.RawMessage
	if json.Unmarshal(raw, &object) != nil {
		return nil, false
	}
	for name, value := range object {
		if isNull(value) {
			delete(object, name)
		}
	}
	return object, true
}

func isNull(raw []byte) bool { return string(bytes.TrimSpace(raw)) == "null" }
