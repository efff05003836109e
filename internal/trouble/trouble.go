// Package trouble keeps a trouble that lasts from filling the log, and lets its end be
// seen: one line when it begins, one a minute while it goes on, one when it is over.
package trouble

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"
)

// Every is the least time between two lines about the same trouble, but for the one
// that says it is over.
const Every = time.Minute

// A Trouble is one thing that is tried again and again, by one loop or by several. The
// zero value is one that goes well.
type Trouble struct {
	mu    sync.Mutex
	begun time.Time // zero: all is well
	said  time.Time // when the latest line was written
	open  bool      // a line has said that it began
	times int       // failures since it began
}

// Tell notes how one try went; err is nil when it went well. message is a constant: what
// cannot be done, and what becomes of it. more are further attributes of the line. Where err knows the
// session that holds what was waited for, the line names it.
//
// What comes and goes writes no more than one line a minute each way.
func (t *Trouble) Tell(log *slog.Logger, message string, err error, more ...any) {
	t.tell(time.Now(), log, message, err, more...)
}

func (t *Trouble) tell(now time.Time, log *slog.Logger, message string, err error, more ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err == nil {
		if t.open {
			log.Info("works again", "trouble", message, "lasted", now.Sub(t.begun).Round(time.Millisecond).String(), "failures", t.times)
		}
		t.begun, t.open, t.times = time.Time{}, false, 0
		return
	}
	t.times++
	if t.begun.IsZero() {
		t.begun = now
	}
	if !t.said.IsZero() && now.Sub(t.said) < Every {
		return
	}
	var held interface{ HeldBy() string } // as database.WithHolders gives it
	if errors.As(err, &held) {
		more = append(more, "held_by", held.HeldBy())
	}
	more = append(more, "error", err)
	if t.open {
		more = append(more, "for", now.Sub(t.begun).Round(time.Second).String(), "failures", t.times)
	}
	t.said, t.open = now, true
	log.Log(context.Background(), slog.LevelWarn, message, more...) //nolint:sloglint // it is a constant of each call
}
