// Package dirlock keeps the folder of a test's server for one process, and removes the folders of processes that were killed.
package dirlock

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// Lock holds one folder. The kernel frees the folder however this process ends.
type Lock struct{ file *os.File }

// Take locks a folder that exists. It is an error when another Lock holds the folder, of this process or of another.
func Take(dir string) (*Lock, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("%s is in use by another server: %w", dir, err), f.Close())
	}
	return &Lock{f}, nil
}

// Free lets the next Take have the folder. Closing the file would not be enough: a child of this process that was forked and
// has not yet started its program has the file open too, and the kernel keeps the lock until the last copy is closed.
func (l *Lock) Free() error {
	return errors.Join(syscall.Flock(int(l.file.Fd()), syscall.LOCK_UN), l.file.Close())
}

// Memory is the folder for data that need not outlive the machine: one whose files are kept in memory where there is such a
// folder with room, or else the one for temporary files. A small file costs a third there.
func Memory() string {
	const dir, room = "/dev/shm", 2 << 30
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil || fs.Bavail*uint64(fs.Bsize) < room {
		return os.TempDir()
	}
	return dir
}

// Sweep removes the folders that match the pattern and that nobody holds. It is a courtesy: what fails stays. A folder of the
// last minute stays too, because its process may not have locked it yet.
func Sweep(pattern string) {
	dirs, _ := filepath.Glob(pattern) // the pattern is right
	for _, dir := range dirs {
		if info, err := os.Stat(dir); err != nil || time.Since(info.ModTime()) < time.Minute {
			continue
		}
		if l, err := Take(dir); err == nil {
			_ = os.RemoveAll(dir)
			_ = l.Free()
		}
	}
}
