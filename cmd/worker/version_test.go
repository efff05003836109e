package main

import "testing"

// TestVersion: both ways to ask say the same.
func TestVersion(t *testing.T) {
	t.Parallel()
	r := &rig{t: t}
	for _, args := range []string{"version", "--version"} {
		if status, out, errs := r.try([]string{"FLEXWORKER_TEST_CHILD=1"}, args); status != 0 || out != "development\n" || errs != "" {
			t.Errorf("worker %s: status %d, %q %q", args, status, out, errs)
		}
	}
}
