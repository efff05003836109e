package flextest

import (
	"regexp"
	"strings"
)

// comparison is one `name == "v"` or `name IN ["a", "b"]`.
type comparison struct {
	name   string
	values []string
	in     bool
}

// expression is a filter of EvaluateTaskAttributes: comparisons joined by OR.
// The zero expression is the one that was not understood; it matches nothing.
type expression []comparison

// The comparisons that are understood. A hyphen is refused everywhere, also
// inside quotes, and so is a backslash: the documentation promises neither.
var (
	equal = regexp.MustCompile(`^\s*([A-Za-z0-9_]+)\s*==\s*("[^"\\-]*"|'[^'\\-]*')`)
	in    = regexp.MustCompile(`^\s*([A-Za-z0-9_]+)\s+IN\s*\[\s*((?:"[^"\\-]*"|'[^'\\-]*')(?:\s*,\s*(?:"[^"\\-]*"|'[^'\\-]*'))*)\s*\]`)
	joint = regexp.MustCompile(`^\s+OR\s+`)
	value = regexp.MustCompile(`"[^"\\-]*"|'[^'\\-]*'`)
)

// parse reads an expression. What it does not understand, even in part, gives
// the zero expression and no error, as TaskRouter is said to do.
func parse(text string) expression {
	var list expression
	for {
		c, rest, ok := parseComparison(text)
		if !ok {
			return nil
		}
		list = append(list, c)
		if strings.Trim(rest, " \t\n\f\r") == "" {
			return list
		}
		at := joint.FindStringIndex(rest)
		if at == nil {
			return nil
		}
		text = rest[at[1]:]
	}
}

// parseComparison reads the comparison at the start of text and returns what
// follows it.
func parseComparison(text string) (comparison, string, bool) {
	if m := equal.FindStringSubmatch(text); m != nil {
		return comparison{name: m[1], values: []string{m[2][1 : len(m[2])-1]}}, text[len(m[0]):], true
	}
	m := in.FindStringSubmatch(text)
	if m == nil {
		return comparison{}, "", false
	}
	c := comparison{name: m[1], in: true}
	for _, quoted := range value.FindAllString(m[2], -1) {
		c.values = append(c.values, quoted[1:len(quoted)-1])
	}
	return c, text[len(m[0]):], true
}

// single says whether e is the one form that is documented for certain: one
// attribute, compared with one value.
func (e expression) single() bool { return len(e) == 1 && !e[0].in }

// only returns the values asked for when e asks for this attribute alone.
func (e expression) only(name string) ([]string, bool) {
	var values []string
	for _, c := range e {
		if c.name != name {
			return nil, false
		}
		values = append(values, c.values...)
	}
	return values, len(e) > 0
}

// matches says whether attributes, the members of a task's attributes, satisfy
// e. Only texts are compared: a number never equals a quoted value.
func (e expression) matches(attributes []member) bool {
	for _, c := range e {
		got, ok := findText(attributes, c.name)
		if !ok {
			continue
		}
		for _, want := range c.values {
			if got == want {
				return true
			}
		}
	}
	return false
}
