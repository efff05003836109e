package main

import (
	"errors"
	"os"
	"strings"
	"sync"
)

// logFile keeps the end of what a replica says: at most two files of logMost
// bytes, and the last lines in memory.
type logFile struct {
	path string

	mu    sync.Mutex
	file  *os.File
	size  int
	tail  []byte
	ready int // how often a process said that it consumes
	lines int // how often a process said something
}

const logMost = 48 << 20

func (l *logFile) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tail = append(l.tail, p...)
	if len(l.tail) > 16<<10 {
		l.tail = append([]byte(nil), l.tail[len(l.tail)-8<<10:]...)
	}
	l.lines++
	l.ready += strings.Count(string(p), `"msg":"consuming"`)
	if l.file == nil || l.size > logMost {
		if err := l.rotate(); err != nil {
			return 0, err
		}
	}
	l.size += len(p)
	return l.file.Write(p)
}

// rotate begins a new file and keeps the one before.
func (l *logFile) rotate() (err error) {
	if l.file != nil {
		if err := errors.Join(l.file.Close(), os.Rename(l.path, l.path+".1")); err != nil {
			return err
		}
	}
	l.size = 0
	l.file, err = os.Create(l.path)
	return err
}

func (l *logFile) last() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	lines := strings.Split(strings.TrimRight(string(l.tail), "\n"), "\n")
	return "    " + strings.Join(lines[max(0, len(lines)-12):], "\n    ")
}

func (l *logFile) consuming() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ready
}

func (l *logFile) said() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lines
}
