package main

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestVersion: both ways to ask say the same.
func TestVersion(t *testing.T) {
	t.Parallel()
	r := &rig{t: t}
	for _, args := range []string{"version", "--version"} {
		if status, out, errs := r.process([]string{"FLEXWORKER_TEST_CHILD=1"}, args); status != 0 || out != "flexworker development\n" || errs != "" {
			t.Errorf("worker %s: status %d, %q %q", args, status, out, errs)
		}
	}
}

// TestBuilt: what the linker says stands in the line, and in the JSON.
func TestBuilt(t *testing.T) {
	t.Parallel()
	program := filepath.Join(t.TempDir(), "worker")
	build := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-ldflags=-X main.version=1.2.3 -X main.commit=abc -X main.date=2026-11-30T00:00:00Z", "-o", program, ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for args, want := range map[string]string{
		"version":        "flexworker 1.2.3, commit abc, 2026-11-30T00:00:00Z\n",
		"--version":      "flexworker 1.2.3, commit abc, 2026-11-30T00:00:00Z\n",
		"version --json": `"commit": "abc",`,
	} {
		out, err := exec.CommandContext(t.Context(), program, strings.Fields(args)...).Output()
		if err != nil || !strings.Contains(string(out), want) {
			t.Errorf("worker %s: %v %s", args, err, out)
		}
	}
}
