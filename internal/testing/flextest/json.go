package flextest

import (
	"encoding/json"
	"strings"
)

// member is one member of a JSON object: its name, the name as it was written
// (quotes and escapes kept) and its value's text.
type member struct{ name, raw, value string }

// object reads text as one JSON object and returns its members in order; false
// when text is not JSON or is no object. Numbers, escapes and repeated names
// stay as they came: nothing is decoded but the names.
func object(text string) ([]member, bool) {
	if !json.Valid([]byte(text)) {
		return nil, false
	}
	i := space(text, 0)
	if text[i] != '{' {
		return nil, false
	}
	return members(text, i+1), true
}

// members returns the members that begin at i, just past the opening brace of
// an object inside valid JSON.
func members(text string, i int) []member {
	list := make([]member, 0, 12)
	for {
		i = space(text, i)
		if text[i] == '}' {
			return list
		}
		end := stringEnd(text, i)
		raw := text[i:end]
		i = space(text, space(text, end)+1) // past the colon
		end = valueEnd(text, i)
		list = append(list, member{name: unquote(raw), raw: raw, value: strings.TrimRight(text[i:end], " \t\r\n")})
		if i = space(text, end); text[i] == ',' {
			i++
		}
	}
}

// elements returns the texts of the values in a valid JSON array.
func elements(text string) ([]string, bool) {
	i := space(text, 0)
	if i == len(text) || text[i] != '[' {
		return nil, false
	}
	var list []string
	for i++; ; i++ {
		if i = space(text, i); text[i] == ']' {
			return list, true
		}
		end := valueEnd(text, i)
		list = append(list, strings.TrimRight(text[i:end], " \t\r\n"))
		if i = space(text, end); text[i] == ']' {
			return list, true
		}
	}
}

// valueEnd is the index just past the JSON value that begins at i. A bare
// literal may take trailing space with it.
func valueEnd(text string, i int) int {
	for depth := 0; i < len(text); i++ {
		switch text[i] {
		case '"':
			i = stringEnd(text, i) - 1
			if depth == 0 {
				return i + 1
			}
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return i
			}
			if depth--; depth == 0 {
				return i + 1
			}
		case ',':
			if depth == 0 {
				return i
			}
		}
	}
	return i
}

// stringEnd is the index just past the JSON string that begins at i.
func stringEnd(text string, i int) int {
	for i++; text[i] != '"'; i++ {
		if text[i] == '\\' {
			i++
		}
	}
	return i + 1
}

// space is the index of the first byte from i on that is not JSON white space.
func space(text string, i int) int {
	for i < len(text) && (text[i] == ' ' || text[i] == '\t' || text[i] == '\n' || text[i] == '\r') {
		i++
	}
	return i
}

// unquote decodes a valid JSON string.
func unquote(raw string) string {
	if !strings.Contains(raw, `\`) {
		return raw[1 : len(raw)-1]
	}
	var text string
	_ = json.Unmarshal([]byte(raw), &text) // raw is valid
	return text
}

// find returns the value of the last member of that name, as Twilio's own
// decoder would, and whether there is one.
func find(list []member, name string) (string, bool) {
	for i := len(list) - 1; i >= 0; i-- {
		if list[i].name == name {
			return list[i].value, true
		}
	}
	return "", false
}

// findText returns the text of a member that is a JSON string; "" and false
// when it is absent or something else.
func findText(list []member, name string) (string, bool) {
	value, ok := find(list, name)
	if !ok || value[0] != '"' {
		return "", false
	}
	return unquote(value), true
}

// appendQuoted appends text as a JSON string.
func appendQuoted(buf []byte, text []byte) []byte {
	const hex = "0123456789abcdef"
	buf = append(buf, '"')
	for _, b := range text {
		switch {
		case b == '"' || b == '\\':
			buf = append(buf, '\\', b)
		case b < 0x20:
			buf = append(buf, '\\', 'u', '0', '0', hex[b>>4], hex[b&15])
		default:
			buf = append(buf, b)
		}
	}
	return append(buf, '"')
}

// isSID says whether text is a sid: the two letters and 32 hex digits.
func isSID(prefix, text string) bool {
	if len(text) != 34 || text[:2] != prefix {
		return false
	}
	for _, c := range []byte(text[2:]) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') && (c < 'A' || c > 'F') {
			return false
		}
	}
	return true
}
