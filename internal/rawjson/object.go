package rawjson

import (
	"encoding/json"
	"unicode/utf8"
)

// Pair is one member of an object: what its key means, and its raw value, which is
// aliased as by Member.
type Pair struct{ Key, Value []byte }

// Object is the members of an object in their order: taken apart once, by
// AppendMembers, to be asked for many.
type Object []Pair

// AppendMembers appends the members of the object at path in text; none when there
// is something else, or nothing.
func AppendMembers(to Object, text []byte, path ...string) Object {
	i, _, err := find(text, path)
	if err != nil || text[i] != '{' {
		return to
	}
	for m := firstMember(text, i); m.ok; {
		end := skipValue(text, m.start)
		to = append(to, Pair{content(m.key), text[m.start:end:end]})
		m = memberAfter(text, end)
	}
	return to
}

// Get returns the raw value of the member called name, nil when there is none. Of
// double keys the first is taken.
func (o Object) Get(name string) []byte {
	for _, p := range o {
		if string(p.Key) == name {
			return p.Value
		}
	}
	return nil
}

// Text returns what the JSON string raw means, aliased where it can be. ok is false
// when raw is anything else. It trusts nothing; as in encoding/json, half a surrogate
// pair and bytes that are not UTF-8 become U+FFFD.
func Text(raw []byte) (text []byte, ok bool) {
	if len(raw) < 2 || raw[0] != '"' {
		return nil, false
	}
	if last := len(raw) - 1; raw[last] == '"' && (literal(raw[1:last]) || Check(raw) == nil) {
		return content(raw[1:last:last]), true
	}
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return nil, false
	}
	return []byte(s), true
}

// Valid is json.Valid, told faster of what Check finds fit.
func Valid(text []byte) bool { return len(Check(text)) == 0 || json.Valid(text) }

// literal tells whether the inside of a string means itself.
func literal(inside []byte) bool {
	for _, c := range inside {
		if c == '"' || c == '\\' || c < ' ' {
			return false
		}
	}
	return utf8.Valid(inside)
}
