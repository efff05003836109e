package flextest

import (
	"strings"
	"testing"
)

// FuzzExpression compares the parser with an oracle that knows the same
// language and reads it another way: byte by byte, without a regexp.
func FuzzExpression(f *testing.F) {
	for _, seed := range []string{
		`a == "x"`, `a=='x'`, `a IN ["x", 'y']`, `a == "x" OR b IN ["y"]`, `a == "x"OR b == "y"`, `a IN []`, `a IN["x"]`,
		`a-b == "x"`, `a == "x-y"`, `a == "x\""`, `a == "x" AND b == "y"`, ``, `OR`, ` a  ==  ""  OR  b == 'x' `, `a == "x" OR`,
		`IN IN ["x"]`, `a ININ["x"]`, `a == "x" || b == "y"`, `a IN ["x" "y"]`, `a IN ["x",]`, "a\t==\n\"x\"", `a == "é"`, `a==="x"`, "a == \"x\"\v", "a == \"x\"\u00a0",
	} {
		f.Add(seed, "a", "x")
	}
	f.Fuzz(func(t *testing.T, text, name, value string) {
		got := parse(text)
		want, understood := oracle(text)
		if understood != (got != nil) {
			t.Fatalf("%q: understood %v, want %v", text, got != nil, understood)
		}
		attributes := []member{{name: name, value: string(appendQuoted(nil, []byte(strings.ToValidUTF8(value, ""))))}}
		match := false
		for _, pair := range want {
			match = match || pair[0] == name && pair[1] == strings.ToValidUTF8(value, "")
		}
		if got.matches(attributes) != match {
			t.Fatalf("%q with %s=%q: %v, want %v", text, name, value, !match, match)
		}
		if values, ok := got.only(name); ok && len(values) != len(want) {
			t.Fatalf("%q: asks for %q only, want %v", text, values, want)
		}
	})
}

// oracle reads text into the pairs (name, value) of which one has to hold.
func oracle(text string) (pairs [][2]string, ok bool) {
	blank := func(c byte) bool { return strings.IndexByte(" \t\n\f\r", c) >= 0 }
	i := 0
	skip := func() bool {
		start := i
		for i < len(text) && blank(text[i]) {
			i++
		}
		return i > start
	}
	take := func(word string) bool {
		if !strings.HasPrefix(text[i:], word) {
			return false
		}
		i += len(word)
		return true
	}
	quoted := func() (string, bool) {
		if i == len(text) || text[i] != '"' && text[i] != '\'' {
			return "", false
		}
		end := strings.IndexByte(text[i+1:], text[i])
		if end < 0 || strings.ContainsAny(text[i+1:i+1+end], `\-`) {
			return "", false
		}
		v := text[i+1 : i+1+end]
		i += end + 2
		return v, true
	}
	for {
		skip()
		start := i
		for i < len(text) && (text[i] == '_' || text[i] >= '0' && text[i] <= '9' || text[i]|32 >= 'a' && text[i]|32 <= 'z') {
			i++
		}
		name := text[start:i]
		if name == "" {
			return nil, false
		}
		spaced := skip()
		switch {
		case take("=="):
			skip()
			v, ok := quoted()
			if !ok {
				return nil, false
			}
			pairs = append(pairs, [2]string{name, v})
		case spaced && take("IN"):
			skip()
			if !take("[") {
				return nil, false
			}
			for more := true; more; more = take(",") {
				skip()
				v, ok := quoted()
				if !ok {
					return nil, false
				}
				pairs = append(pairs, [2]string{name, v})
				skip()
			}
			if !take("]") {
				return nil, false
			}
		default:
			return nil, false
		}
		spaced = skip()
		if i == len(text) {
			return pairs, true
		}
		if !spaced || !take("OR") || !skip() {
			return nil, false
		}
	}
}
