package main

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"flexworker/internal/terminal"
)

const (
	// logBytes and logLines bound what waits for whoever reads standard error: some
	// seconds of a busy worker. As much again may be on its way.
	logBytes = 256 << 10
	logLines = 1024
	// lastWords is how long the end of the process waits for what is not written yet.
	lastWords = time.Second
)

// logBuffer takes lines without ever waiting, and hands them to out in one goroutine.
// A pipe that nobody reads blocks its writer for ever, and slog writes under a lock:
// without this a full pipe stops every request. Lines that find the buffer full, and
// those that out refuses, are dropped and counted.
type logBuffer struct {
	out     io.Writer
	dropped atomic.Int64
	more    chan struct{} // has room for one: something waits, or the end has come
	done    chan struct{} // closed when the goroutine has ended

	mu      sync.Mutex
	waiting bytes.Buffer
	lines   int
	ended   bool
	notice  func(dropped int64) // writes straight to out; only the goroutine calls it
}

// newLogBuffer starts the goroutine, which Close ends.
func newLogBuffer(out io.Writer, level, format string) *logBuffer {
	b := &logBuffer{out: out, more: make(chan struct{}, 1), done: make(chan struct{})}
	direct := newLog(out, level, format)
	b.notice = func(n int64) {
		direct.Warn("log lines were dropped: standard error did not take them", "lines", n)
	}
	go b.write()
	return b
}

// Write keeps one line, or drops it; it never fails and never waits.
func (b *logBuffer) Write(line []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended || b.lines >= logLines || b.waiting.Len()+len(line) > logBytes {
		b.dropped.Add(1)
		return len(line), nil
	}
	b.waiting.Write(line)
	b.lines++
	b.wake()
	return len(line), nil
}

func (b *logBuffer) wake() {
	select {
	case b.more <- struct{}{}:
	default: // it is awake, or about to be
	}
}

// Dropped is how many lines nobody has seen. A nil buffer has dropped none.
func (b *logBuffer) Dropped() int64 {
	if b == nil {
		return 0
	}
	return b.dropped.Load()
}

// write is the goroutine: the one place that may wait for a reader.
func (b *logBuffer) write() {
	defer close(b.done)
	var told int64
	var chunk bytes.Buffer
	for range b.more {
		for {
			b.mu.Lock()
			chunk, b.waiting = b.waiting, chunk
			lines, ended := b.lines, b.ended
			b.lines = 0
			dropped := b.dropped.Load()
			b.mu.Unlock()
			if chunk.Len() == 0 {
				if ended {
					return
				}
				break
			}
			if n, err := b.out.Write(chunk.Bytes()); err != nil {
				// Closed, full, or without a reader: there is nobody to tell.
				b.dropped.Add(int64(lines - bytes.Count(chunk.Bytes()[:n], []byte("\n"))))
			} else if dropped > told {
				b.notice(dropped - told)
				told = dropped
			}
			chunk.Reset()
		}
	}
}

// Close waits a moment until what was logged is written. A writer that is blocked
// ends with the process.
func (b *logBuffer) Close() {
	b.mu.Lock()
	b.ended = true
	b.wake()
	b.mu.Unlock()
	select {
	case <-b.done:
	case <-time.After(lastWords):
	}
}

// sayLast writes to errs why the process ends, without letting a standard error that nobody
// reads keep it from ending.
func sayLast(errs io.Writer, err error) {
	said := make(chan struct{})
	go func() { // ends with the process
		defer close(said)
		text := strings.ReplaceAll(err.Error(), "\n\t", "\n  ") // so pgx lists the addresses that it tried
		fmt.Fprintln(errs, "worker:", terminal.Lines(text))
	}()
	select {
	case <-said:
	case <-time.After(lastWords):
	}
}

// newLog writes structured lines to w, in which everything can be seen. Level and format were checked.
func newLog(w io.Writer, level, format string) *slog.Logger {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		l = slog.LevelInfo
	}
	options := &slog.HandlerOptions{Level: l}
	if format == "text" {
		return slog.New(slog.NewTextHandler(w, options))
	}
	return slog.New(slog.NewJSONHandler(visible{w}, options))
}

// visible writes JSON in which everything can be seen. slog's own leaves characters that turn the direction of writing,
// and some that steer a terminal; its text form quotes them.
type visible struct{ io.Writer }

func (v visible) Write(line []byte) (int, error) {
	if _, err := v.Writer.Write(terminal.JSON(line)); err != nil {
		return 0, err
	}
	return len(line), nil
}
