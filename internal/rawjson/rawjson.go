// Package rawjson works on JSON text without decoding it, so that numbers keep
// their digits and objects the order of their keys. What stands in an event goes
// to Flex as it came; decoding and encoding it again would turn
// 12345678901234567890 into 1.2345678901234567e19.
//
//	Check    is this text fit to be stored and sent?   the door: trusts nothing
//	Text     what does this string mean?               trusts nothing either
//	Member   the raw text of one member                 of checked text
//	Object   the raw texts of all of them, in one pass  of checked text
//	Prepend  one string member more, the rest as it was of checked text
//	Replace  another value for one member               of checked text
//	Equal    the same JSON value?                       of checked text
//
// The others expect valid JSON. Given anything else they never panic and never
// recurse without limit, but what they return means nothing.
package rawjson

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Errors of Prepend and Replace, to be found with errors.Is.
var (
	// ErrMissing: a step of the path is absent.
	ErrMissing = errors.New("is missing")
	// ErrNotObject: a step of the path is something else than an object.
	ErrNotObject = errors.New("is not an object")
	// ErrKeyThere: the object has the key that was to be added.
	ErrKeyThere = errors.New("is there already")
)

// Member returns the raw text of the value at path, without the white space around
// it; the text is aliased, its capacity ends with it. ok is false when the member
// is absent or a step on the way is not an object. Of double keys the first is
// taken. An empty path names the whole value.
func Member(text []byte, path ...string) (value []byte, ok bool) {
	start, _, err := find(text, path)
	if err != nil {
		return nil, false
	}
	end := skipValue(text, start)
	return text[start:end:end], true
}

// Prepend returns text with the string member key: value as the first member of
// the object at path; every other byte stays as it is, and text itself is not
// changed. An object that is missing at the last step of path is created as the
// first member of its parent; null there is replaced by an object. It fails with
// ErrMissing, ErrNotObject or ErrKeyThere.
func Prepend(text []byte, key, value string, path ...string) ([]byte, error) {
	member := appendQuoted(append(appendQuoted(make([]byte, 0, 80), key), ':'), value)
	start, end, err := locate(text, path)
	switch {
	case errors.Is(err, ErrMissing) && len(path) > 0:
		last := len(path) - 1
		parent, parentEnd, perr := locate(text, path[:last])
		if perr != nil {
			return nil, perr
		}
		if text[parent] != '{' {
			return nil, pathError(path[:last], ErrNotObject)
		}
		return insert(text, parent, parentEnd, slices.Concat(appendQuoted(nil, path[last]), []byte(":{"), member, []byte("}"))), nil
	case err != nil:
		return nil, err
	case string(text[start:end]) == "null":
		return splice(text, start, end, slices.Concat([]byte("{"), member, []byte("}"))), nil
	case text[start] != '{':
		return nil, pathError(path, ErrNotObject)
	}
	if _, there := Member(text[start:end], key); there {
		return nil, pathError(append(path[:len(path):len(path)], key), ErrKeyThere)
	}
	return insert(text, start, end, member), nil
}

// Replace returns text with value, which is JSON text, in place of the value at
// path. It fails with ErrMissing or ErrNotObject.
func Replace(text, value []byte, path ...string) ([]byte, error) {
	start, end, err := locate(text, path)
	if err != nil {
		return nil, err
	}
	return splice(text, start, end, value), nil
}

// locate finds the first and the last+1 byte of the value at path.
func locate(text []byte, path []string) (start, end int, err error) {
	start, steps, err := find(text, path)
	if err != nil {
		return 0, 0, pathError(path[:steps], err)
	}
	return start, skipValue(text, start), nil
}

// find returns where the value at path begins. Without one it says in how many
// steps of path it went wrong, and by which of the bare errors: whoever only asks
// whether a member is there need not pay for words.
func find(text []byte, path []string) (start, steps int, err error) {
	at := skipSpace(text, 0)
	if at == len(text) {
		return 0, 0, ErrMissing
	}
	for n, name := range path {
		if text[at] != '{' {
			return 0, n, ErrNotObject
		}
		m := firstMember(text, at)
		for m.ok && !keyIs(m.key, name) {
			m = nextMember(text, m)
		}
		if !m.ok {
			return 0, n + 1, ErrMissing
		}
		at = m.start
	}
	return at, len(path), nil
}

// insert puts member first into the object text[start:end].
func insert(text []byte, start, end int, member []byte) []byte {
	first := skipSpace(text, start+1)
	if first < end && text[first] != '}' {
		member = append(member, ',')
	}
	return splice(text, start+1, start+1, member)
}

// splice returns a new text with middle in place of text[from:to].
func splice(text []byte, from, to int, middle []byte) []byte {
	return slices.Concat(text[:from], middle, text[to:])
}

// pathError says which step of a path went wrong; the whole value has no name.
func pathError(path []string, err error) error {
	if len(path) == 0 {
		return err
	}
	return fmt.Errorf("%s: %w", strings.Join(path, "."), err)
}

// appendQuoted appends s as JSON text. encoding/json writes <, > and & as escapes,
// which is the same value; nothing of ours contains them.
func appendQuoted(to []byte, s string) []byte {
	if plain(s) {
		return append(append(append(to, '"'), s...), '"')
	}
	text, err := json.Marshal(s)
	if err != nil { // a string always encodes
		panic(err)
	}
	return append(to, text...)
}
