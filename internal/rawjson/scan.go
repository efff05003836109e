package rawjson

import (
	"bytes"
	"unicode/utf16"
	"unicode/utf8"
)

// skipSpace returns the first index at or after i that holds no white space.
func skipSpace(text []byte, i int) int {
	for i < len(text) {
		switch text[i] {
		case ' ', '\t', '\n', '\r':
			i++
		default:
			return i
		}
	}
	return i
}

// skipString returns the index after the string that opens at i.
func skipString(text []byte, i int) int {
	for end := i + 1; ; {
		n := bytes.IndexByte(text[end:], '"')
		if n < 0 {
			return len(text)
		}
		end += n + 1
		escapes := 0
		for at := end - 2; at > i && text[at] == '\\'; at-- {
			escapes++
		}
		if escapes%2 == 0 {
			return end
		}
	}
}

// skipValue returns the index after the value that begins at i. It counts
// brackets and does not recurse: a million of them cost a million steps.
func skipValue(text []byte, i int) int {
	depth := 0
	for i < len(text) {
		switch text[i] {
		case '"':
			i = skipString(text, i)
		case '{', '[':
			depth++
			i++
		case '}', ']':
			depth--
			i++
		case ' ', '\t', '\n', '\r', ',', ':':
			i++
			continue // between values: inside a container, or not valid
		default:
			i = skipScalar(text, i)
		}
		if depth <= 0 {
			return i
		}
	}
	return len(text)
}

// skipScalar returns the index after the number or the word that begins at i.
func skipScalar(text []byte, i int) int {
	for i++; i < len(text); i++ {
		switch text[i] {
		case ' ', '\t', '\n', '\r', ',', ':', '}', ']', '{', '[', '"':
			return i
		}
	}
	return len(text)
}

// member is one member of an object: its key between the quotes, and where its
// value begins. ok is false past the last one.
type member struct {
	key   []byte
	start int
	ok    bool
}

// firstMember returns the first member of the object that opens at i.
func firstMember(text []byte, i int) member { return memberAt(text, skipSpace(text, i+1)) }

// nextMember returns the member after m.
func nextMember(text []byte, m member) member { return memberAfter(text, skipValue(text, m.start)) }

// memberAfter returns the member behind the value that ended before i.
func memberAfter(text []byte, i int) member {
	i = skipSpace(text, i)
	if i >= len(text) || text[i] != ',' {
		return member{}
	}
	return memberAt(text, skipSpace(text, i+1))
}

func memberAt(text []byte, i int) member {
	if i >= len(text) || text[i] != '"' {
		return member{}
	}
	end := skipString(text, i)
	colon := skipSpace(text, end)
	if end-i < 2 || colon >= len(text) || text[colon] != ':' {
		return member{}
	}
	start := skipSpace(text, colon+1)
	return member{key: text[i+1 : end-1], start: start, ok: start < len(text)}
}

// keyIs tells whether the raw key, given without its quotes, means want.
func keyIs(raw []byte, want string) bool {
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw) == want
	}
	return string(content(raw)) == want
}

// content is what the raw string, given without its quotes, means. Without an
// escape it is raw itself. A lone surrogate becomes the three bytes that UTF-8
// forbids, so that it equals itself and nothing else.
func content(raw []byte) []byte {
	if bytes.IndexByte(raw, '\\') < 0 {
		return raw
	}
	out := make([]byte, 0, len(raw))
	for {
		i := bytes.IndexByte(raw, '\\')
		if i < 0 || i+1 == len(raw) {
			return append(out, raw...)
		}
		out = append(out, raw[:i]...)
		n := 2
		switch c := raw[i+1]; c {
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'u':
			var r rune
			r, n = escaped(raw, i)
			out = appendRune(out, r)
		default:
			out = append(out, c)
		}
		raw = raw[i+n:]
	}
}

// escaped reads the \uXXXX at i, and the one after it when both make a pair. It
// returns the code point, which is a surrogate when it stands alone, or -1 when
// there are no four digits, and how many bytes it took.
func escaped(text []byte, i int) (r rune, n int) {
	r = unit(text, i)
	if r < 0 {
		return -1, 2
	}
	if utf16.IsSurrogate(r) {
		if pair := utf16.DecodeRune(r, unit(text, i+6)); pair != utf8.RuneError {
			return pair, 12
		}
	}
	return r, 6
}

// unit reads the four digits of the \uXXXX at i; -1 when there is none.
func unit(text []byte, i int) rune {
	if i+6 > len(text) || text[i] != '\\' || text[i+1] != 'u' {
		return -1
	}
	var r rune
	for _, c := range text[i+2 : i+6] {
		switch {
		case '0' <= c && c <= '9':
			r = r<<4 | rune(c-'0')
		case 'a' <= c && c <= 'f':
			r = r<<4 | rune(c-'a'+10)
		case 'A' <= c && c <= 'F':
			r = r<<4 | rune(c-'A'+10)
		default:
			return -1
		}
	}
	return r
}

// appendRune is utf8.AppendRune that keeps surrogates apart from each other.
func appendRune(out []byte, r rune) []byte {
	if r >= 0 && utf16.IsSurrogate(r) {
		return append(out, 0xE0|byte(r>>12), 0x80|byte(r>>6)&0xBF, 0x80|byte(r)&0xBF)
	}
	return utf8.AppendRune(out, r)
}
