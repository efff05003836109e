package consumer

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"flexworker/internal/flex"
	"flexworker/internal/outbox/request"
	"flexworker/internal/rawjson"
)

// fields are all that a request may have.
var fields = []string{"request_id", "channel", "routing", "interaction_context_sid", "webhook_ttid",
	"priority", "not_before", "expires_at", "metadata"}

// maxAttributes is what TaskRouter takes of a task's attributes, in characters.
// https://www.twilio.com/docs/taskrouter/limits.md
const maxAttributes = 4096

// roomyAttributes is up to where what Flex adds of its own surely has room beside them.
const roomyAttributes = 3300

// A checker collects the faults of one request, each with its path. The request
// is fit by rawjson.Check: no key stands twice in it.
type checker struct {
	faults   []rawjson.Fault
	warnings []rawjson.Fault
	seen     rawjson.Object // the members of all objects that were looked into
}

func (c *checker) fault(path, format string, args ...any) {
	c.faults = append(c.faults, rawjson.Fault{Path: path, Problem: fmt.Sprintf(format, args...)})
}

// warn notes what Flex would probably ignore, or refuse: the request is sent all the same.
func (c *checker) warn(path, format string, args ...any) {
	if len(c.warnings) < maxWarnings {
		c.warnings = append(c.warnings, rawjson.Fault{Path: path, Problem: fmt.Sprintf(format, args...)})
	}
}

// check fills the event from its request and collects what Flex would surely
// refuse. It asks no more than that: what Flex may take is Flex's to decide.
func check(e *request.Event, lookupAttribute string) {
	c := checker{seen: make(rawjson.Object, 0, 32)} // as many as most requests have
	object, ok := c.members(e.Request)
	if !ok {
		c.fault("", "%s", notAnObject(e.Request))
		e.Faults = c.faults
		return
	}
	if what := envelope(object); what != "" {
		c.fault("", "%s", what)
	}
	c.known(object)
	attached := c.channel(object)
	task := c.routing(object, attached)
	c.sid(object, "interaction_context_sid", "interaction_context_sid", "HQ")
	c.text(object, "webhook_ttid", "webhook_ttid")
	e.Priority = c.priority(object)
	e.NotBefore = c.instant(object, "not_before")
	e.ExpiresAt = c.instant(object, "expires_at")
	if !e.NotBefore.IsZero() && !e.ExpiresAt.IsZero() && !e.NotBefore.Before(e.ExpiresAt) {
		c.fault("expires_at", "is not after not_before: the request could never be sent")
	}
	if given(task, "workspace_sid") != nil && lookupAttribute != "" {
		e.LookupKey = flex.LookupKey(e.RequestID)
	}
	c.attributes(given(task, "attributes"), lookupAttribute, e.LookupKey)
	e.Faults, e.Warnings = c.faults, c.warnings
}

// known faults every field that is not a request's: a mistyped expires_at must
// not be obeyed by silence.
func (c *checker) known(object rawjson.Object) {
	var names []string
	for _, m := range object {
		if !slices.Contains(fields, string(m.Key)) && !isNull(m.Value) {
			names = append(names, string(m.Key))
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
	maxUnknown  = 20
	maxWarnings = 10
	maxShown    = 64
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
func (c *checker) channel(object rawjson.Object) (attached bool) {
	channel, ok := c.object(object, "channel", "channel")
	if !ok {
		if given(object, "channel") == nil {
			c.fault("channel", "missing")
		}
		return false
	}
	c.names(channel, "channel", channelNames)
	for _, name := range [...][2]string{{"type", "channel.type"}, {"initiated_by", "channel.initiated_by"}} {
		if given(channel, name[0]) == nil {
			c.fault(name[1], "missing")
			continue
		}
		c.text(channel, name[0], name[1])
	}
	c.sid(channel, "sid", "channel.sid", "UO")
	if properties, ok := c.object(channel, "properties", "channel.properties"); ok {
		c.names(properties, "channel.properties", channelPropertyNames)
		c.sid(properties, "media_channel_sid", "channel.properties.media_channel_sid", "CH")
	}
	c.participants(given(channel, "participants"))
	return given(channel, "sid") != nil
}

// routing checks the sids and returns what describes the task, if there is one.
func (c *checker) routing(object rawjson.Object, attached bool) (properties rawjson.Object) {
	routing, ok := c.object(object, "routing", "routing")
	if !ok {
		if given(object, "routing") == nil && !attached {
			c.fault("routing", "missing; only a request with channel.sid can do without")
		}
		return nil
	}
	c.names(routing, "routing", routingNames)
	properties, ok = c.object(routing, "properties", "routing.properties")
	if !ok {
		if given(routing, "properties") == nil && !attached {
			c.fault("routing.properties", "missing; only a request with channel.sid can do without")
		}
		return nil
	}
	c.names(properties, "routing.properties", routingPropertyNames)
	if given(properties, "workspace_sid") == nil && !attached {
		c.fault("routing.properties.workspace_sid", "missing; only a request with channel.sid can do without")
	}
	for _, s := range [...]struct{ name, path, prefix string }{
		{"workspace_sid", "routing.properties.workspace_sid", "WS"}, {"workflow_sid", "routing.properties.workflow_sid", "WW"},
		{"queue_sid", "routing.properties.queue_sid", "WQ"}, {"worker_sid", "routing.properties.worker_sid", "WK"},
		{"task_channel_sid", "routing.properties.task_channel_sid", "TC"},
	} {
		c.sid(properties, s.name, s.path, s.prefix)
	}
	return properties
}

// attributes checks that they are what TaskRouter takes, with our key in them.
func (c *checker) attributes(raw []byte, attribute, key string) {
	const path = "routing.properties.attributes"
	if raw == nil {
		return
	}
	count, how := leastCharacters, "without white space between values, an escape such as \\u00e9 as the one character that it means"
	if inner, ok := rawjson.Text(raw); ok {
		count, how = utf8.RuneCount, "of the text that the string holds"
		if raw = inner; len(raw) == 0 {
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
	if !isObject(raw) {
		c.fault(path, "must be an object, or a string that holds one")
		return
	}
	if _, there := rawjson.Member(raw, attribute); there && attribute != "" { // also when it is null
		c.fault(path+"."+attribute, "is the worker's own key; choose another name")
		return
	}
	own, with := 0, ""
	if key != "" {
		own, with = len(`"":"",`)+len(attribute)+len(key), " with the worker's key"
	}
	switch least, most := count(raw)+own, utf8.RuneCount(raw)+own; {
	case least > maxAttributes:
		c.fault(path, "has %d characters%s (%s), TaskRouter takes at most %d", least, with, how, maxAttributes)
	case most > maxAttributes:
		c.warn(path, "has %d characters%s as it is written, of which TaskRouter takes at most %d; %d %s: which of them it counts is not documented", most, with, maxAttributes, least, how)
	case most > roomyAttributes:
		c.warn(path, "has %d characters%s: Flex adds some 600 to 700 of its own, and TaskRouter takes at most %d in all", most, with, maxAttributes)
	}
}

// leastCharacters is how many characters of JSON a value has at least, however it is
// written: without white space between values, each character as itself. Only what must
// be escaped is counted as its escape. raw is fit by rawjson.Check.
func leastCharacters(raw []byte) (n int) {
	inside := false
	for i := 0; i < len(raw); {
		switch c := raw[i]; {
		case c == '"':
			inside = !inside
			i, n = i+1, n+1
		case !inside:
			if c != ' ' && c != '\t' && c != '\r' && c != '\n' {
				n++
			}
			i++
		case c == '\\':
			size, least := escape(raw[i:])
			i, n = i+size, n+least
		default:
			_, size := utf8.DecodeRune(raw[i:])
			i, n = i+size, n+1
		}
	}
	return n
}

// escape is how many bytes an escape has, and in how many characters it can be written.
func escape(raw []byte) (size, least int) {
	const short = 2 // \" and the like
	switch raw[1] {
	case '/':
		return short, 1
	case 'u':
		size = len(`\u0000`)
		code, _ := strconv.ParseUint(string(raw[2:size]), 16, 16) // four hexadecimal digits: they were checked
		switch r := rune(code); {
		case utf16.IsSurrogate(r):
			return 2 * size, 1
		case strings.ContainsRune("\b\f\n\r\t\"\\", r):
			return size, short
		case r < ' ':
			return size, size
		}
		return size, 1
	default:
		return short, short
	}
}
