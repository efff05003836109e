// Package terminal prepares for a person's terminal what others have written: ids,
// sources and messages come from senders and from servers, and must neither steer the
// terminal that shows them nor the shell into which they are pasted.
package terminal

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// Line is text on one line in which everything can be seen: what is not printable (an
// escape, a line's end, a character that turns the direction of writing or has no width,
// a byte that is no UTF-8) is written as Go writes it in a string, such as \x1b, \n or \u202e.
func Line(text string) string { return visible(text, false) }

// Lines is Line for text whose line ends are our own: they stay.
func Lines(text string) string { return visible(text, true) }

func visible(text string, lines bool) string {
	if strings.IndexFunc(text, hidden) < 0 && utf8.ValidString(text) {
		return text
	}
	var b strings.Builder
	for len(text) > 0 {
		r, size := utf8.DecodeRuneInString(text)
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, text[0])
		case r == '\n' && lines, !hidden(r):
			b.WriteRune(r)
		default:
			quoted := strconv.QuoteRuneToASCII(r)
			b.WriteString(quoted[1 : len(quoted)-1])
		}
		text = text[size:]
	}
	return b.String()
}

func hidden(r rune) bool { return !unicode.IsPrint(r) }

// Command is a command line that a POSIX shell takes apart into exactly these words,
// whatever they contain. All of it is printable, but for line ends at a word's end.
func Command(words ...string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = quote(w)
	}
	return strings.Join(quoted, " ")
}

// quote is one word for a POSIX shell. A shell has no printable form for what is not
// printable, so printf makes it there.
func quote(word string) string {
	switch {
	case word != "" && strings.IndexFunc(word, special) < 0:
		return word
	case strings.IndexFunc(word, hidden) < 0 && utf8.ValidString(word):
		return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
	}
	begin := strings.TrimRight(word, "\n") // a substitution would lose these
	var b strings.Builder
	for i := range len(begin) {
		if c := begin[i]; c < 0x80 && !special(rune(c)) && c != '%' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, `\%03o`, c)
		}
	}
	return `"$(printf '` + b.String() + `')` + word[len(begin):] + `"`
}

// special says whether a character means something to some shell, or is none of ASCII.
func special(r rune) bool {
	letterOrDigit := 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9'
	return !letterOrDigit && !strings.ContainsRune("_@%+:,./-", r)
}

// JSON is JSON text, which means the same, in which everything can be seen: what is not
// printable is written as \u and four digits. Line ends, which stand between its parts, stay.
func JSON(text []byte) []byte {
	if bytes.IndexFunc(text, func(r rune) bool { return hidden(r) && r != '\n' }) < 0 {
		return text
	}
	var b bytes.Buffer
	for _, r := range string(text) { // a byte that is no UTF-8 becomes the character for that
		switch {
		case !hidden(r) || r == '\n':
			b.WriteRune(r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&b, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.Bytes()
}
