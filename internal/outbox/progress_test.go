package outbox

import (
	"context"
	"strings"
	"testing"
	"time"

	"flexworker/internal/flex"
	"flexworker/internal/outbox/gate"
	"flexworker/internal/outbox/lookup"
)

// TestFailingCreates: a replica says that nothing succeeds when that lasts for a minute
// although calls are made, and names FLEX_TIMEOUT where that is the cause.
func TestFailingCreates(t *testing.T) {
	t.Parallel()
	begun := time.Now()
	for _, tt := range []struct {
		name  string
		calls []flex.Outcome // the last of them now
		over  time.Duration  // from the first to the last
		later time.Duration  // since the last
		want  string
	}{
		{"nothing was tried", nil, 0, 0, ""},
		{"one call failed", []flex.Outcome{isTimeout}, 0, 0, ""},
		{"not for long", []flex.Outcome{isTimeout, isTimeout}, 59 * time.Second, 0, ""},
		{"for a minute", []flex.Outcome{isTimeout, isTimeout}, time.Minute, 0, "no answer within FLEX_TIMEOUT, 2s"},
		{"429 for a minute", []flex.Outcome{isLimited, isLimited}, time.Minute, 0, "2 in a row"},
		{"one was created", []flex.Outcome{isTimeout, isCreated, isTimeout}, time.Hour, 0, ""},
		{"one was rejected", []flex.Outcome{isTimeout, isRejected, isTimeout}, time.Hour, 0, ""},
		{"one could not be sent", []flex.Outcome{isTimeout, isUnsent, isTimeout}, time.Hour, 0, "2 in a row"},
		{"one tenant is refused", []flex.Outcome{isForbidden, isForbidden}, time.Hour, 0, ""},
		{"no calls are made any more", []flex.Outcome{isFailing, isFailing}, time.Hour, 3 * time.Minute, ""},
	} {
		d := &Dispatcher{Limit: testLimit}
		at := begun
		for i, o := range tt.calls {
			if i > 0 {
				at = begun.Add(tt.over * time.Duration(i) / time.Duration(len(tt.calls)-1))
			}
			d.seen(o, at)
		}
		got := d.creates.Failing(2, gate.FailingAfter, 2*gate.FailingAfter, at.Add(tt.later))
		if (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

// TestFailingLookups: after three searches without an answer a replica says that
// TaskRouter cannot be asked, until it answers. A 429 is an answer.
func TestFailingLookups(t *testing.T) {
	t.Parallel()
	var r lookup.Resolver
	down := &flex.LookupError{HTTPStatus: 500, Message: "m"}
	for i, tt := range []struct {
		err  error
		want bool
	}{{down, false}, {down, false}, {context.DeadlineExceeded, true}, {down, true}, {&flex.LookupError{Limited: true}, false}, {down, false}, {down, false}, {down, true}, {nil, false}} {
		r.Seen(tt.err)
		if why := r.Failing(); (why != "") != tt.want {
			t.Errorf("after %d, %v: %q", i+1, tt.err, why)
		}
	}
	if r.LastAnswered().IsZero() {
		t.Error("it does not know when TaskRouter answered")
	}
}

// TestFailingIsSaidOnce: a WARN when it begins and a line when it is over, and no more within the minute however often
// it comes and goes.
func TestFailingIsSaidOnce(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	w1 := enrolled(t, s, "w1", 5)
	var said strings.Builder
	w1.Log = textLog(&said)
	for _, word := range []gate.Word{gate.WordOK, gate.WordFailing, gate.WordFailing, gate.WordLimited, gate.WordFailing, gate.WordUnauthorized, gate.WordFailing, gate.WordOK} {
		w1.Standing = func(context.Context) gate.Standing { return gate.Standing{Word: word, Reason: "a reason"} }
		renewed(t, w1)
	}
	if begin, end := strings.Count(said.String(), "level=WARN"), strings.Count(said.String(), "works again"); begin != 1 || end != 1 || !strings.Contains(said.String(), "a reason") {
		t.Errorf("said %d times that it begins, %d that it ends: %s", begin, end, said.String())
	}
}
