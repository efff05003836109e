package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// ticksASecond is the unit of CPU time in /proc, the same on every Linux.
const ticksASecond = 100

// stat is what is used of /proc/PID/stat.
type stat struct {
	parent       int
	used         time.Duration // of all processors
	usedChildren time.Duration // by those that have ended
}

func readStat(pid int) (s stat, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return s, err
	}
	// Behind the name, which may hold anything, the parent is the 2nd field, and the
	// 12th to 15th are user and system time, of the process and of its children.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) < 15 {
		return s, errors.New("/proc/PID/stat has too few fields")
	}
	number := func(i int) (n int) {
		n, e := strconv.Atoi(fields[i])
		err = errors.Join(err, e)
		return n
	}
	const tick = time.Second / ticksASecond
	return stat{
		parent: number(1), used: time.Duration(number(11)+number(12)) * tick,
		usedChildren: time.Duration(number(13)+number(14)) * tick,
	}, err
}

func parent(pid int) (int, error) {
	s, err := readStat(pid)
	return s.parent, err
}

// family is the CPU time of a process and of its children, also of those that have
// ended.
func family(pid int) (time.Duration, error) {
	s, err := readStat(pid)
	if err != nil {
		return 0, err
	}
	sum := s.used + s.usedChildren
	all, err := filepath.Glob("/proc/[0-9]*")
	for _, folder := range all {
		child, convert := strconv.Atoi(filepath.Base(folder))
		// A child that ends meanwhile is counted by neither reading: too little to matter.
		if c, err := readStat(child); convert == nil && err == nil && c.parent == pid {
			sum += c.used
		}
	}
	return sum, err
}
