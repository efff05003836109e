package outbox

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"flexworker/internal/flex"
	"flexworker/internal/loop"
	"flexworker/internal/outbox/gate"
)

// answering is Flex as a replica in trouble finds it: what a read brings, and what a create call brings.
type answering struct{ read, create flex.Outcome }

func (a answering) Check(context.Context) flex.Outcome { return a.read }

func (a answering) Create(context.Context, flex.Interaction) flex.Outcome { return a.create }

// TestStandingIsLoggedOnceAMinute: the log has a replica's stop at once, with its word and its reason, has it again
// at most once a minute while it lasts, and has its end. A replica that is stopped asks every two seconds, and may
// try a call after each read: what these bring is no line of its own.
func TestStandingIsLoggedOnceAMinute(t *testing.T) {
	t.Parallel()
	unauthorized := flex.Outcome{Kind: flex.Blocked, HTTPStatus: 401, TwilioCode: 20003, FromTwilio: true, Message: "no such key"}
	const minutes = 10
	for name, tt := range map[string]struct {
		flex []answering // each for ten minutes
		// want are the words of the stop in the order in which they are said first.
		want []gate.Word
	}{
		"a wrong path, which a read does not meet": {[]answering{{isCreated, isAstray}}, []gate.Word{gate.WordUnreachable}},
		"no way to Flex":                        {[]answering{{isRefusing, isRefusing}}, []gate.Word{gate.WordUnreachable}},
		"creates fail, though Flex can be read": {[]answering{{isCreated, isTimeout}}, []gate.Word{gate.WordUnreachable, gate.WordFailing}},
		"the reason becomes another":            {[]answering{{isRefusing, isRefusing}, {unauthorized, unauthorized}}, []gate.Word{gate.WordUnreachable, gate.WordUnauthorized}},
		"only creates are unauthorized":         {[]answering{{isCreated, unauthorized}}, []gate.Word{gate.WordUnauthorized}},
		"only creates find no way":              {[]answering{{isCreated, isRefusing}}, []gate.Word{gate.WordUnreachable}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var said strings.Builder
				d := &Dispatcher{Store: NewStore(nil, "w1", testLimit, "interaction_request"), Concurrency: 4, Log: textLog(&said)}
				d.prepare(t.Context())
				defer d.workers.end()
				calls := 0
				call := func() {
					o := d.Flex.Create(t.Context(), flex.Interaction{})
					d.changed(d.breaker.Observe(of([]string{"a", "b"}[calls%2], calls), o, time.Now()))
					calls++
				}
				play := func(until func() bool) {
					for !until() {
						if in, stopped := d.breaker.AsksIn(time.Now()); stopped {
							loop.Rest(t.Context(), in, nil)
							d.ask(t.Context())
							continue
						}
						call()
						loop.Rest(t.Context(), time.Millisecond, nil) // what a call takes
					}
				}
				for i, world := range tt.flex {
					d.Flex = world
					begun := time.Now()
					play(func() bool { return d.breaker.IsOpen() })
					if lines := strings.Count(said.String(), "\n"); i == 0 && lines != 1 {
						t.Errorf("%d lines when it stops:\n%s", lines, said.String())
					}
					if i > 0 {
						play(func() bool {
							return strings.Contains(said.String(), "state="+string(tt.want[i])) || time.Since(begun) >= minutes*time.Minute
						})
						if after := time.Since(begun); after > 2*gate.AskEvery {
							t.Errorf("another word is said after %v", after)
						}
					}
					play(func() bool { return time.Since(begun) >= minutes*time.Minute })
				}
				stops := strings.Split(strings.TrimSpace(said.String()), "\n")
				d.Flex = answering{isCreated, isCreated}
				play(d.breaker.IsClosed)
				ends := strings.Split(strings.TrimSpace(strings.TrimPrefix(said.String(), strings.Join(stops, "\n"))), "\n")

				var words []gate.Word
				for _, line := range stops {
					_, word, _ := strings.Cut(line, "state=")
					word, _, _ = strings.Cut(word, " ")
					if len(words) < len(tt.want) && gate.Word(word) == tt.want[len(words)] {
						words = append(words, gate.Word(word))
					}
					if !strings.Contains(line, "level=WARN") || strings.Contains(line, `error=""`) || !strings.Contains(line, "error=") {
						t.Errorf("a stop is told by %s", line)
					}
				}
				if len(words) != len(tt.want) {
					t.Errorf("the words are %q, want %q", words, tt.want)
				}
				if most := len(tt.want) * (minutes + 1); len(stops) > most || len(stops) < minutes {
					t.Errorf("%d lines while it lasts, want at most %d", len(stops), most)
				}
				if len(ends) != len(tt.want) || !strings.Contains(ends[0], "works again") || !strings.Contains(ends[0], "lasted=") {
					t.Errorf("the end is told by %q", ends)
				}
				if t.Failed() {
					t.Log(said.String()[:min(said.Len(), 3000)])
				}
			})
		})
	}
}

// TestChangesOutOfOrder: a call's goroutine stands still between the breaker's change, by its outcome, and what follows from it.
// A call that succeeds meanwhile closes the breaker. The first one's change is over then, and changes no permit.
func TestChangesOutOfOrder(t *testing.T) {
	t.Parallel()
	d := &Dispatcher{Store: NewStore(nil, "w1", testLimit, "interaction_request"), Concurrency: 16, Log: quiet}
	d.prepare(t.Context())
	defer d.workers.end()
	var was, is gate.BreakerState
	for i := range gate.FailuresMost {
		was, is = d.breaker.Observe(of("a", i), isFailing, time.Now())
	}
	if is != gate.BreakerChoosing {
		t.Fatalf("the breaker is %v", is)
	}
	d.changed(d.breaker.Observe(of("b", 0), isCreated, time.Now()))
	d.changed(was, is)
	if got := d.free(); got != 16 || !d.breaker.IsClosed() {
		t.Errorf("%d calls may be in flight; the breaker is closed: %t", got, d.breaker.IsClosed())
	}
}
