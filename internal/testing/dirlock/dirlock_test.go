package dirlock

import (
	"syscall"
	"testing"
)

// TestFreed: a freed folder can be had at once, also while a child of this process still has the file of the lock open.
func TestFreed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first, err := Take(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Take(dir); err == nil {
		t.Error("a folder was locked twice")
	}
	child, err := syscall.Dup(int(first.file.Fd())) // what a child has between fork and exec
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(child) })
	if err := first.Free(); err != nil {
		t.Error(err)
	}
	second, err := Take(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Free(); err != nil {
		t.Error(err)
	}
}
