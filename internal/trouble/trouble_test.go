package trouble

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"
)

// TestLines: one line when it begins, one a minute, one when it is over, however often it is told.
func TestLines(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		play func(tell func(after time.Duration, err error))
		want []string
	}{
		"well": {func(tell func(time.Duration, error)) {
			for range 100 {
				tell(time.Second, nil)
			}
		}, nil},
		"ten minutes away": {func(tell func(time.Duration, error)) {
			for range 300 {
				tell(2*time.Second, errors.New("refused"))
			}
			tell(time.Second, nil)
			tell(time.Second, nil)
		}, append(append([]string{`level=WARN msg="no claim" step=x error=refused`},
			`level=WARN msg="no claim" step=x error=refused for=1m0s failures=31`, "for=2m0s", "for=3m0s", "for=4m0s", "for=5m0s", "for=6m0s", "for=7m0s", "for=8m0s", "for=9m0s"),
			`level=INFO msg="works again" trouble="no claim" lasted=9m59s failures=300`)},
		"comes and goes": {func(tell func(time.Duration, error)) {
			for range 55 {
				tell(time.Second, errors.New("refused"))
				tell(0, nil)
			}
		}, []string{`msg="no claim"`, `msg="works again"`}},
		"comes again and stays": {func(tell func(time.Duration, error)) {
			tell(0, errors.New("refused"))
			tell(time.Second, nil)
			for range 60 {
				tell(time.Second, errors.New("refused"))
			}
			tell(0, nil)
		}, []string{"failures", "", "", "failures"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			log := slog.New(slog.NewTextHandler(&out, nil))
			now := time.Unix(1e9, 0)
			var one Trouble
			c.play(func(after time.Duration, err error) {
				now = now.Add(after)
				one.tell(now, log, "no claim", err, "step", "x")
			})
			var lines []string
			for line := range strings.Lines(out.String()) {
				lines = append(lines, line)
			}
			if name == "comes again and stays" {
				if len(lines) != 4 || !strings.Contains(lines[1], "works again") || !strings.Contains(lines[2], "no claim") || !strings.Contains(lines[3], "lasted=") {
					t.Errorf("the log is\n%s", out.String())
				}
				return
			}
			if len(lines) != len(c.want) {
				t.Fatalf("%d lines, want %d:\n%s", len(lines), len(c.want), out.String())
			}
			for i, want := range c.want {
				if !strings.Contains(lines[i], want) {
					t.Errorf("line %d is %s, want %s", i, lines[i], want)
				}
			}
		})
	}
}

// TestSample: ten a minute, and the next minute's first says how many were left out.
func TestSample(t *testing.T) {
	t.Parallel()
	var s Sample
	now := time.Unix(1e9, 0)
	through := 0
	for range 2000 {
		if ok, left := s.next(now); ok {
			through++
			if left != 0 {
				t.Errorf("%d left out before any was", left)
			}
		}
	}
	if through != perMinute {
		t.Errorf("%d let through in a minute", through)
	}
	if ok, left := s.next(now.Add(time.Minute)); !ok || left != 2000-perMinute {
		t.Errorf("a minute later: %v, %d left out", ok, left)
	}
	if ok, left := s.next(now.Add(time.Minute)); !ok || left != 0 {
		t.Errorf("and then: %v, %d left out", ok, left)
	}
}
