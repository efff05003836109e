package terminal

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// TestLineShowsEverything: nothing reaches the terminal that it would obey, or not show.
func TestLineShowsEverything(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                       "",
		"crm-42 Zoë 日本":          "crm-42 Zoë 日本",
		"\x1b[2J":                `\x1b[2J`,
		"\x1b]0;title\x07":       `\x1b]0;title\a`,
		"\u009b2J":               `\u009b2J`, // CSI in one character
		"a\nb\r\tc":              `a\nb\r\tc`,
		"\u202egnp.exe":          `\u202egnp.exe`,
		"zero\u200bwidth\ufeff":  `zero\u200bwidth\ufeff`,
		"\xff\xfe":               `\xff\xfe`,
		"half \xe2\x80":          `half \xe2\x80`,
		"no\u00a0break\u2028end": `no\u00a0break\u2028end`,
		"\U000e0041":             `\U000e0041`, // a tag: it has no shape
		"\ufffd":                 "\ufffd",
		`C:\n "quoted"`:          `C:\n "quoted"`,
	} {
		if got := Line(text); got != want {
			t.Errorf("%q is shown as %s, want %s", text, got, want)
		}
	}
	if got := Lines("one\ntwo\x1b[31m\r\n"); got != "one\ntwo\\x1b[31m\\r\n" {
		t.Errorf("lines become %q", got)
	}
}

// TestJSONMeansTheSame: what is shown can be seen, and is read as what was written.
func TestJSONMeansTheSame(t *testing.T) {
	t.Parallel()
	for _, text := range append(hostile, "\u009b2J \u202e \U000e0041 \x7f Zoë") {
		text = strings.ToValidUTF8(text, "?")
		written, err := json.MarshalIndent(map[string]string{"k": text}, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		var read map[string]string
		shown := JSON(written)
		if err := json.Unmarshal(shown, &read); err != nil || read["k"] != text || strings.IndexFunc(strings.ReplaceAll(string(shown), "\n", ""), hidden) >= 0 {
			t.Errorf("%q is shown as %q, %v", text, shown, err)
		}
	}
}

// A shell is sh with a program in its path that writes its words, each ended by a NUL.
type shell struct{ dir string }

func newShell(t testing.TB) shell {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "worker"), []byte("#!/bin/sh\nprintf '%s\\0' \"$@\"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return shell{dir}
}

func (s shell) words(t testing.TB, command string) []string {
	t.Helper()
	cmd := exec.Command("sh", "-c", command)
	cmd.Env, cmd.Dir = []string{"PATH=" + s.dir + ":/usr/bin:/bin", "HOME=/root"}, s.dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("sh -c %q: %v: %s", command, err, out)
	}
	return strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
}

// hostile are words of which a shell or a terminal would make something else.
var hostile = []string{"u;touch gone", "-77", "--", "'", `it's`, `"`, "`id`", "$(id)", "$HOME", "~", "~root", "*", "a b", " ", "", "!!", "a!b", "#x", "a\\b", `\`, "%s%n",
	"a&b", "a|b", "<a", ">a", "{a,b}", "[ab]", "=ls", "a\tb", "a\nb", "end\n\n", "\x1b[31mred", "\u202eevil", "\xff\xfe", "%\x01'\"$", "日本", strings.Repeat("'", 256)}

// TestCommandSurvivesTheShell: a real sh takes the printed line apart into the words
// that were meant.
func TestCommandSurvivesTheShell(t *testing.T) {
	t.Parallel()
	sh := newShell(t)
	for _, word := range hostile {
		command := Command("worker", "resolve", "--", word)
		if got := sh.words(t, command); !slices.Equal(got, []string{"resolve", "--", word}) {
			t.Errorf("%q is printed as %s and read as %q", word, command, got)
		}
		if i := strings.IndexFunc(strings.TrimRight(command, "\n\""), func(r rune) bool { return !unicode.IsPrint(r) }); i >= 0 {
			t.Errorf("%q is printed as %q", word, command)
		}
	}
	if got := Command("worker", "explain", "--", "crm-42_a.b:c/d@e"); got != "worker explain -- crm-42_a.b:c/d@e" {
		t.Errorf("a plain id is printed as %s", got)
	}
}

// FuzzCommand: the same of any word.
func FuzzCommand(f *testing.F) {
	for _, word := range hostile {
		f.Add(word)
	}
	sh := newShell(f)
	f.Fuzz(func(t *testing.T, word string) {
		if strings.Contains(word, "\x00") {
			return // no program can be given it
		}
		if got := sh.words(t, Command("worker", "--", word)); !slices.Equal(got, []string{"--", word}) {
			t.Errorf("%q is read as %q", word, got)
		}
		if shown := Line(word); strings.IndexFunc(shown, func(r rune) bool { return !unicode.IsPrint(r) }) >= 0 || !utf8.ValidString(shown) {
			t.Errorf("%q is shown as %q", word, shown)
		}
	})
}
