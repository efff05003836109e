package rawjson

import (
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"
)

const (
	maxDepth  = 100  // levels of objects and arrays
	maxFaults = 20   // reported one by one
	maxNumber = 1000 // bytes of one number; Postgres's numeric ends at 16,383 decimals
	maxShown  = 64   // bytes of a key or a number in a fault
	maxPath   = 200  // bytes of a path in a fault
	fewKeys   = 40   // up to here keys are compared one by one, above by a map
)

// Fault is one thing that is wrong with a text, and where.
type Fault struct {
	Path    string // e.g. channel.participants[0].address; "" is the whole text
	Problem string

	// Unreadable is true when the text, or what stands at Path, cannot be used as
	// JSON at all: not UTF-8, not JSON, nested too deep.
	Unreadable bool
}

// String is the fault as a person reads it.
func (f Fault) String() string {
	if f.Path == "" {
		return f.Problem
	}
	return f.Path + ": " + f.Problem
}

// Check returns what makes a text unfit to be stored in a json column, read there
// with every json operator, and sent on: \u0000, half a surrogate pair, a key that
// stands twice in one object, a number that no float64 holds or of more than 1,000
// characters, nesting deeper than 100 levels. Text that is not UTF-8 or not JSON
// has that one fault. The faults come in the order of the text, at most 20 of
// them and one that counts the others; nil means fit. What is nested too deep is
// passed over: only its brackets are counted.
func Check(text []byte) []Fault {
	if !utf8.Valid(text) {
		return []Fault{{Problem: fmt.Sprintf("not UTF-8 at byte %d", firstInvalid(text)), Unreadable: true}}
	}
	var keys [48][]byte
	w := walker{text: text}
	end := w.value(skipSpace(text, 0), keys[:0])
	if end < 0 || skipSpace(text, end) != len(text) {
		return []Fault{{Problem: notJSON(text), Unreadable: true}}
	}
	if w.more > 0 {
		w.faults = append(w.faults, Fault{Problem: fmt.Sprintf("and %d more", w.more), Unreadable: w.deep})
	}
	return w.faults
}

// fault notes what is wrong at the present path.
func (w *walker) fault(format string, args ...any) {
	if len(w.faults) == maxFaults {
		w.more++
		return
	}
	w.faults = append(w.faults, Fault{Path: w.where(), Problem: fmt.Sprintf(format, args...)})
}

// where writes the path out; only a fault pays for it. A key in it is closed, or
// holds the fault.
func (w *walker) where() string {
	var b []byte
	for n, s := range w.path[:w.depth] {
		if s.key == 0 {
			b = fmt.Appendf(b, "[%d]", s.index)
			continue
		}
		key := w.text[s.key : skipString(w.text, s.key-1)-1]
		if !plain(key) {
			b = fmt.Appendf(b, "[%q]", shorten(content(key)))
			continue
		}
		if n > 0 {
			b = append(b, '.')
		}
		b = append(b, shorten(key)...)
	}
	if len(b) > maxPath {
		return string(b[:maxPath]) + "..."
	}
	return string(b)
}

// plain tells whether a key can stand in a path without quotes, and between quotes
// as it is.
func plain[T string | []byte](key T) bool {
	for i := range len(key) {
		c := key[i]
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !letter && (c < '0' || c > '9') && c != '_' && c != '-' {
			return false
		}
	}
	return len(key) > 0
}

func shorten(text []byte) string {
	if len(text) <= maxShown {
		return string(text)
	}
	end := maxShown
	for end > 0 && !utf8.RuneStart(text[end]) {
		end--
	}
	return string(text[:end]) + "…"
}

func firstInvalid(text []byte) int {
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRune(text[i:])
		if r == utf8.RuneError && size == 1 {
			return i
		}
		i += size
	}
	return len(text)
}

// notJSON asks encoding/json for the words; its grammar and ours are the same.
func notJSON(text []byte) string {
	var raw json.RawMessage
	var syntax *json.SyntaxError
	if err := json.Unmarshal(text, &raw); errors.As(err, &syntax) {
		return fmt.Sprintf("not JSON at byte %d: %s", syntax.Offset, syntax.Error())
	}
	return "not JSON"
}
