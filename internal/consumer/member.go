package consumer

import (
	"bytes"
	"regexp"
	"strconv"
	"strings"
	"time"

	"flexworker/internal/flex"
	"flexworker/internal/rawjson"
)

// How check reads one member of a JSON object: a sid, a text, an object, a priority, a time.

// sid checks the form of a sid that may be left out.
func (c *checker) sid(object rawjson.Object, name, path, prefix string) {
	s, ok := c.text(object, name, path)
	if ok && !flex.IsSID(s, prefix) {
		c.fault(path, "is not a sid: %s and 32 hexadecimal digits", prefix)
	}
}

// text reads a string that may be left out.
func (c *checker) text(object rawjson.Object, name, path string) (s []byte, ok bool) {
	raw := given(object, name)
	if raw == nil {
		return nil, false
	}
	if s, ok = rawjson.Text(raw); !ok {
		c.fault(path, "must be a string")
		return nil, false
	}
	if len(s) == 0 {
		c.fault(path, "must not be empty")
		return nil, false
	}
	return s, true
}

// object reads an object that may be left out.
func (c *checker) object(in rawjson.Object, name, path string) (rawjson.Object, bool) {
	raw := given(in, name)
	if raw == nil {
		return nil, false
	}
	object, ok := c.members(raw)
	if !ok {
		c.fault(path, "must be an object")
	}
	return object, ok
}

func (c *checker) priority(object rawjson.Object) int {
	raw := given(object, "priority")
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

// rfc3339 is the form of a time, as Postgres takes it too: time.Parse lets more in,
// a comma before the fraction and offsets such as +14:60, and the text is kept. T and Z
// may be small (RFC 3339, section 5.6).
var rfc3339 = regexp.MustCompile(`^\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,30})?([Zz]|[+-]([01]\d|2[0-3]):[0-5]\d)$`)

func (c *checker) instant(object rawjson.Object, name string) time.Time {
	s, ok := c.text(object, name, name)
	if !ok {
		return time.Time{}
	}
	t, leap, err := parseTime(strings.ToUpper(string(s)))
	if err != nil || !rfc3339.Match(s) {
		c.fault(name, "must be a time by RFC 3339, such as 2026-11-22T09:00:00Z")
		return time.Time{}
	}
	const furthest = 16 * 60 * 60 // seconds; Postgres takes no offset from here on
	_, offset := t.Zone()
	hour, minute, second := t.UTC().Clock()
	switch {
	case offset <= -furthest || offset >= furthest:
		c.fault(name, "no time zone is further than 15:59 from UTC")
	case t.Unix() < 0: // the zero time means that there is none
		c.fault(name, "is before 1970")
	case t.Round(time.Microsecond).UTC().Year() > 9999: // rounded as Postgres does; no such year can be shown as RFC 3339
		c.fault(name, "is after 9999")
	case leap && hour+minute+second > 0:
		c.fault(name, "has a second 60, which there is only at the end of a day in UTC; send %s", t.Format(time.RFC3339Nano))
	default:
		return t
	}
	return time.Time{}
}

// parseTime is time.Parse with the leap second, which is there what Postgres makes of it: the next. Whether there can
// be one is not looked at: RFC 3339 has it at the end of a day in UTC.
func parseTime(s string) (t time.Time, leap bool, err error) {
	t, err = time.Parse(time.RFC3339, s)
	if err == nil || len(s) < len("2016-12-31T23:59:60") || s[16:19] != ":60" {
		return t, false, err
	}
	t, err = time.Parse(time.RFC3339, s[:17]+"59"+s[19:])
	return t.Add(time.Second), true, err
}

// members are those of the object raw, taken apart once.
func (c *checker) members(raw []byte) (rawjson.Object, bool) {
	if !isObject(raw) {
		return nil, false
	}
	from := len(c.seen)
	c.seen = rawjson.AppendMembers(c.seen, raw)
	return c.seen[from:], true
}

// given is the value of a member; nil when it is absent, or null, which counts as
// left out.
func given(object rawjson.Object, name string) []byte {
	if raw := object.Get(name); !isNull(raw) {
		return raw
	}
	return nil
}

func isNull(raw []byte) bool { return string(raw) == "null" }

// isObject tells objects from other values.
func isObject(raw []byte) bool {
	raw = bytes.TrimSpace(raw)
	return len(raw) > 0 && raw[0] == '{'
}
