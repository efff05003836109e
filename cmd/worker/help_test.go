package main

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// TestHelp: the help of each verb fits a page, says what its exit status means, gives the
// form of each duration, and marks what is required.
func TestHelp(t *testing.T) {
	t.Parallel()
	durations := map[string]bool{}
	var walk func(path []string)
	walk = func(path []string) {
		var out bytes.Buffer
		cmd := root(&out, &out)
		cmd.SetArgs(append(path[:len(path):len(path)], "--help"))
		if err := cmd.ExecuteContext(t.Context()); err != nil {
			t.Fatal(path, err)
		}
		name := "worker " + strings.Join(path, " ")
		for line := range strings.Lines(out.String()) {
			if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > helpColumns {
				t.Errorf("%s --help: %d columns: %s", name, n, line)
			}
		}
		if !strings.HasSuffix(out.String(), "\n\nExit status: 0 done, 1 the answer is no, 2 the command line or the settings are at fault,\n3 a server is away.\n") {
			t.Errorf("%s --help: no exit status at its end:\n%s", name, out.String())
		}
		found, _, err := cmd.Find(path)
		if err != nil {
			t.Fatal(path, err)
		}
		found.Flags().VisitAll(func(f *pflag.Flag) {
			_, isDuration := f.Value.(*days)
			if isDuration {
				durations[f.Name] = true
			} else if f.Value.Type() == "duration" {
				t.Errorf("%s --%s takes no days and weeks", name, f.Name)
			}
			if says := strings.Contains(f.Usage, durationForm); says != (isDuration || f.Name == "since") {
				t.Errorf("%s --%s: %s", name, f.Name, f.Usage)
			}
			if f.Annotations[cobra.BashCompOneRequiredFlag] != nil && !strings.HasSuffix(f.Usage, "(required)") {
				t.Errorf("%s --%s is required, and its help does not say so: %s", name, f.Name, f.Usage)
			}
		})
		for _, c := range found.Commands() {
			if c.IsAvailableCommand() && c.Name() != "completion" { // its pages are the library's
				walk(append(path[:len(path):len(path)], c.Name()))
			}
		}
	}
	walk(nil)
	for _, name := range []string{"wait", "older-than", "settled-within"} {
		if !durations[name] {
			t.Errorf("--%s is not found as a duration", name)
		}
	}
}
