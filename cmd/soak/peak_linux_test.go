package main

import (
	"os"
	"os/exec"
	"runtime"
	"testing"
)

// TestPeak: a child's memory is its own, not that of the program that started it.
func TestPeak(t *testing.T) {
	ours := make([]byte, 64<<20)
	for i := 0; i < len(ours); i += 4096 {
		ours[i] = 1
	}
	cmd := exec.CommandContext(t.Context(), "sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	child, parent := peak(cmd.Process.Pid), peak(os.Getpid())
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if child == 0 || child > 32<<10 || parent < 64<<10 {
		t.Errorf("the child has %d KiB, this program %d KiB", child, parent)
	}
	runtime.KeepAlive(ours)
}
