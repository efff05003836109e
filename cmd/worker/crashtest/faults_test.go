package crashtest

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// TestFaultPlan: docs/faults.md has each row of the fault matrix and each of the
// peers' bugs once, in order, and every test that it names is there.
func TestFaultPlan(t *testing.T) {
	t.Parallel()
	tests := map[string]bool{} // "folder.Test"
	function := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range function.FindAllSubmatch(text, -1) {
			folder := filepath.Base(filepath.Dir(path))
			if filepath.Dir(path) == filepath.Clean(root) {
				folder = "flexworker" // the package at the top
			}
			tests[folder+"."+string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	plan, err := os.ReadFile(filepath.Join(root, "docs", "faults.md"))
	if err != nil {
		t.Fatal(err)
	}
	row, named := regexp.MustCompile(`^\| (\d+) \|`), regexp.MustCompile("`(\\w+\\.(?:Test|Fuzz)\\w+)`")
	var counts []int // rows of each table
	for line := range strings.Lines(string(plan)) {
		for _, m := range named.FindAllStringSubmatch(line, -1) {
			if !tests[m[1]] {
				t.Errorf("there is no test %s: %s", m[1], line)
			}
		}
		m := row.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		switch n, _ := strconv.Atoi(m[1]); {
		case n == 1:
			counts = append(counts, 1)
		case len(counts) == 0 || n != counts[len(counts)-1]+1:
			t.Errorf("out of order: %s", line)
		default:
			counts[len(counts)-1] = n
		}
		if !named.MatchString(line) || strings.Contains(line, "not tested") {
			t.Errorf("the row names no test, or says that something is not tested: %s", line)
		}
	}
	if len(counts) != 2 || counts[0] != 106 || counts[1] != 15 {
		t.Errorf("the tables have %d rows, want 106 faults and 15 bugs", counts)
	}
}
