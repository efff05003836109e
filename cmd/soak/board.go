package main

import (
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/term"
)

// board shows progress: on a terminal as one line that changes, elsewhere as a
// line now and then; what is said stays.
type board struct {
	mu       sync.Mutex
	terminal bool
	begun    time.Time
	shown    time.Time
}

func newBoard() *board {
	return &board{terminal: term.IsTerminal(int(os.Stdout.Fd())), begun: time.Now()}
}

func (b *board) stamp() string { return fmt.Sprintf("%7.1fs", time.Since(b.begun).Seconds()) }

// progress replaces the line that changes.
func (b *board) progress(text string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.terminal:
		fmt.Print("\r\x1b[K", b.stamp(), "  ", text)
	case time.Since(b.shown) >= 10*time.Second:
		b.shown = time.Now()
		fmt.Println(b.stamp() + "  " + text)
	}
}

// say writes a line that stays.
func (b *board) say(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.terminal {
		fmt.Print("\r\x1b[K")
	}
	fmt.Printf(format+"\n", args...)
}
