package rawjson

import "bytes"

// walker goes once through a text, checks its grammar and collects faults. Its
// methods take the index of what they read and return the index after it, or -1
// when the grammar is broken. They recurse to maxDepth and no further. It stays on
// the stack: its path is an array, and the keys of open objects are handed down.
type walker struct {
	text   []byte
	path   [maxDepth]step
	depth  int // steps of path
	faults []Fault
	more   int  // faults beyond maxFaults
	deep   bool // one of those was nested too deep
}

// step is one step of a path: where a key begins in the text or, when that is 0,
// an index.
type step struct{ key, index int }

// value reads any value. keys is room for keys, behind those of the open objects.
func (w *walker) value(i int, keys [][]byte) int {
	if i >= len(w.text) {
		return -1
	}
	switch c := w.text[i]; c {
	case '"':
		return w.str(i)
	case '{', '[':
		if w.depth == maxDepth {
			return w.tooDeep(i)
		}
		if c == '{' {
			return w.object(i, keys)
		}
		return w.array(i, keys)
	case 't':
		return w.word(i, "true")
	case 'f':
		return w.word(i, "false")
	case 'n':
		return w.word(i, "null")
	default:
		return w.number(i)
	}
}

// tooDeep faults the container at i and goes past it.
func (w *walker) tooDeep(i int) int {
	w.fault("nested deeper than %d levels", maxDepth)
	if w.more > 0 {
		w.deep = true
	} else {
		w.faults[len(w.faults)-1].Unreadable = true
	}
	return skipDeep(w.text, i)
}

func (w *walker) object(i int, keys [][]byte) int {
	keys = keys[len(keys):]
	var seen map[string]bool // once there are many keys
	i = skipSpace(w.text, i+1)
	if i < len(w.text) && w.text[i] == '}' {
		return i + 1
	}
	here := &w.path[w.depth]
	w.depth++
	for {
		if i >= len(w.text) || w.text[i] != '"' {
			return -1
		}
		start := i + 1
		*here = step{key: start}
		if i = w.str(i); i < 0 {
			return -1
		}
		keys, seen = w.key(content(w.text[start:i-1]), keys, seen)
		if i = skipSpace(w.text, i); i >= len(w.text) || w.text[i] != ':' {
			return -1
		}
		if i = w.value(skipSpace(w.text, i+1), keys); i < 0 {
			return -1
		}
		if i = skipSpace(w.text, i); i >= len(w.text) {
			return -1
		}
		if w.text[i] == '}' {
			w.depth--
			return i + 1
		}
		if w.text[i] != ',' {
			return -1
		}
		i = skipSpace(w.text, i+1)
	}
}

// key notes one key of an object whose others are keys or, once they are many, seen.
func (w *walker) key(key []byte, keys [][]byte, seen map[string]bool) ([][]byte, map[string]bool) {
	twice := false
	if seen == nil {
		for _, k := range keys {
			twice = twice || bytes.Equal(k, key)
		}
	} else {
		twice = seen[string(key)]
		seen[string(key)] = true
	}
	if twice {
		w.fault("this key stands twice")
		return keys, seen
	}
	if seen == nil {
		keys = append(keys, key)
		if len(keys) > fewKeys {
			seen = make(map[string]bool)
			for _, k := range keys {
				seen[string(k)] = true
			}
		}
	}
	return keys, seen
}

func (w *walker) array(i int, keys [][]byte) int {
	i = skipSpace(w.text, i+1)
	if i < len(w.text) && w.text[i] == ']' {
		return i + 1
	}
	here := &w.path[w.depth]
	*here = step{}
	w.depth++
	for {
		if i = w.value(i, keys); i < 0 {
			return -1
		}
		if i = skipSpace(w.text, i); i >= len(w.text) {
			return -1
		}
		if w.text[i] == ']' {
			w.depth--
			return i + 1
		}
		if w.text[i] != ',' {
			return -1
		}
		here.index++
		i = skipSpace(w.text, i+1)
	}
}

func (w *walker) str(i int) int {
	for i++; i < len(w.text); i++ {
		c := w.text[i]
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		if c == '"' {
			return i + 1
		}
		if c < ' ' {
			return -1
		}
		if i++; i >= len(w.text) {
			return -1
		}
		switch w.text[i] {
		case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		case 'u':
			r, n := escaped(w.text, i-1)
			switch {
			case r < 0:
				return -1
			case r == 0:
				w.fault(`holds \u0000, which Postgres cannot keep`)
			case 0xD800 <= r && r < 0xE000:
				w.fault(`holds half of a surrogate pair (\u%x)`, r)
			}
			i += n - 2
		default:
			return -1
		}
	}
	return -1
}

func (w *walker) word(i int, word string) int {
	if end := i + len(word); end <= len(w.text) && string(w.text[i:end]) == word {
		return end
	}
	return -1
}

// skipDeep is skipValue for text that nobody has checked: -1 when it never closes.
func skipDeep(text []byte, i int) int {
	depth := 0
	for ; i < len(text); i++ {
		switch text[i] {
		case '"':
			i = skipString(text, i) - 1
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
	return -1
}
