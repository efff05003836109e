package rawjson

import "bytes"

// walker goes once through a text, checks its grammar and collects faults. Its
// methods take the index of what they read and return the index after it, or -1
// when the grammar is broken. They recurse to maxDepth and no further.
type walker struct {
	text   []byte
	path   []step
	keys   [][]byte // of the open objects, the inner ones last
	faults []Fault
	more   int  // faults beyond maxFaults
	deep   bool // one of those was nested too deep
}

// step is one step of a path: a raw key or, when key is nil, an index.
type step struct {
	key   []byte
	index int
}

func (w *walker) value(i int) int {
	if i >= len(w.text) {
		return -1
	}
	switch c := w.text[i]; c {
	case '"':
		return w.str(i)
	case '{', '[':
		if len(w.path) == maxDepth {
			return w.tooDeep(i)
		}
		if c == '{' {
			return w.object(i)
		}
		return w.array(i)
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

func (w *walker) object(i int) int {
	outer := len(w.keys)
	var seen map[string]bool // once there are many keys
	i = skipSpace(w.text, i+1)
	if i < len(w.text) && w.text[i] == '}' {
		return i + 1
	}
	w.path = append(w.path, step{})
	for {
		if i >= len(w.text) || w.text[i] != '"' {
			return -1
		}
		start := i + 1
		w.path[len(w.path)-1].key = w.text[start:start] // not nil while the key itself is read
		if end := skipString(w.text, i); end-1 > start {
			w.path[len(w.path)-1].key = w.text[start : end-1]
		}
		if i = w.str(i); i < 0 {
			return -1
		}
		seen = w.key(content(w.text[start:i-1]), outer, seen)
		if i = skipSpace(w.text, i); i >= len(w.text) || w.text[i] != ':' {
			return -1
		}
		if i = w.value(skipSpace(w.text, i+1)); i < 0 {
			return -1
		}
		if i = skipSpace(w.text, i); i >= len(w.text) {
			return -1
		}
		if w.text[i] == '}' {
			w.path, w.keys = w.path[:len(w.path)-1], w.keys[:outer]
			return i + 1
		}
		if w.text[i] != ',' {
			return -1
		}
		i = skipSpace(w.text, i+1)
	}
}

// key notes one key of the object whose keys begin at outer.
func (w *walker) key(key []byte, outer int, seen map[string]bool) map[string]bool {
	twice := false
	if seen == nil {
		for _, k := range w.keys[outer:] {
			twice = twice || bytes.Equal(k, key)
		}
	} else {
		twice = seen[string(key)]
		seen[string(key)] = true
	}
	if twice {
		w.fault("this key stands twice")
		return seen
	}
	if seen == nil {
		w.keys = append(w.keys, key)
		if len(w.keys)-outer > fewKeys {
			seen = make(map[string]bool)
			for _, k := range w.keys[outer:] {
				seen[string(k)] = true
			}
		}
	}
	return seen
}

func (w *walker) array(i int) int {
	i = skipSpace(w.text, i+1)
	if i < len(w.text) && w.text[i] == ']' {
		return i + 1
	}
	w.path = append(w.path, step{})
	for {
		if i = w.value(i); i < 0 {
			return -1
		}
		if i = skipSpace(w.text, i); i >= len(w.text) {
			return -1
		}
		if w.text[i] == ']' {
			w.path = w.path[:len(w.path)-1]
			return i + 1
		}
		if w.text[i] != ',' {
			return -1
		}
		w.path[len(w.path)-1].index++
		i = skipSpace(w.text, i+1)
	}
}

func (w *walker) str(i int) int {
	for i++; i < len(w.text); i++ {
		c := w.text[i]
		if c == '"' {
			return i + 1
		}
		if c < ' ' {
			return -1
		}
		if c != '\\' {
			continue
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
