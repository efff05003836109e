package outbox

import (
	"fmt"
	"testing"
	"time"

	"flexworker/internal/flex"
)

func TestAlarmOf(t *testing.T) {
	t.Parallel()
	const fault = "credentials, account or address are at fault"
	for _, tt := range []struct {
		name      string
		outcome   flex.Outcome
		failures  int
		forbidden int
		want      alarm
	}{
		{"all is well", flex.Outcome{Kind: flex.Created}, 0, 0, alarm{}},
		{"rejected", flex.Outcome{Kind: flex.Rejected, Message: "m"}, 0, 0, alarm{}},
		{"blocked", flex.Outcome{Kind: flex.Blocked, Message: "m"}, 0, 0, alarm{hold: true, why: fault + ": m"}},
		{"blocked after failures", flex.Outcome{Kind: flex.Blocked, Message: "m"}, awayAfter, 0, alarm{hold: true, why: fault + ": m"}},
		{"one tenant's 403", flex.Outcome{Kind: flex.Blocked, HTTPStatus: 403, TwilioCode: 20403, Message: "m"}, 0, forbiddenAfter - 1, alarm{}},
		{"everybody's 403", flex.Outcome{Kind: flex.Blocked, HTTPStatus: 403, TwilioCode: 20403, Message: "m"}, 0, forbiddenAfter, alarm{hold: true, why: fault + ": Flex answered HTTP 403, code 20403: m"}},
		{"one tenant's code", flex.Outcome{Kind: flex.Blocked, HTTPStatus: 400, TwilioCode: 45002, Message: "m"}, 0, forbiddenAfter - 1, alarm{}},
		{"everybody's code", flex.Outcome{Kind: flex.Blocked, HTTPStatus: 400, TwilioCode: 45002, Message: "m"}, 0, forbiddenAfter, alarm{hold: true, why: fault + ": Flex answered HTTP 400, code 45002: m"}},
		{"a wrong token", flex.Outcome{Kind: flex.Blocked, HTTPStatus: 401, TwilioCode: 45002, Message: "m"}, 0, 0, alarm{hold: true, why: fault + ": Flex answered HTTP 401, code 45002: m"}},
		{"a redirect", flex.Outcome{Kind: flex.Blocked, HTTPStatus: 302, Message: "m"}, 0, 0, alarm{hold: true, why: fault + ": Flex answered HTTP 302, code 0: m"}},
		{"account suspended", flex.Outcome{Kind: flex.Blocked, HTTPStatus: 403, TwilioCode: 20005, Message: "m"}, 0, 1, alarm{hold: true, why: fault + ": Flex answered HTTP 403, code 20005: m"}},
		{"limited", flex.Outcome{Kind: flex.Refused, Limited: true, RetryAfter: time.Second, Message: "m"}, 0, 0, alarm{pause: time.Second, why: "m"}},
		{"limited for ever", flex.Outcome{Kind: flex.Refused, Limited: true, RetryAfter: 1e6 * time.Hour, Message: "m"}, 0, 0, alarm{pause: time.Hour, why: "m"}},
		{"limited, not told for how long", flex.Outcome{Kind: flex.Refused, Limited: true, Message: "m"}, 0, 0, alarm{}},
		{"a server that wants a pause is not obeyed by the fleet", flex.Outcome{RetryAfter: time.Hour}, 1, 0, alarm{}},
		{"one failure less", flex.Outcome{Message: "m"}, awayAfter - 1, 0, alarm{}},
		{"failures", flex.Outcome{Message: "m"}, awayAfter, 0, alarm{away: true, why: "Flex cannot be used: m"}},
	} {
		if got := alarmOf(tt.outcome, tt.failures, tt.forbidden); got != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
}

func TestAlarmsJoin(t *testing.T) {
	t.Parallel()
	pause, hold, away := alarm{pause: time.Minute, why: "p"}, alarm{hold: true, why: "h"}, alarm{away: true, why: "a"}
	for _, tt := range []struct{ a, b, want alarm }{
		{alarm{}, pause, pause},
		{pause, alarm{}, pause},
		{pause, alarm{pause: time.Second, why: "q"}, pause},
		{pause, hold, alarm{pause: time.Minute, hold: true, why: "h"}},
		{hold, pause, alarm{pause: time.Minute, hold: true, why: "h"}},
		{away, pause, alarm{pause: time.Minute, away: true, why: "a"}},
	} {
		if got := tt.a.and(tt.b); got != tt.want {
			t.Errorf("%+v and %+v: %+v, want %+v", tt.a, tt.b, got, tt.want)
		}
	}
}

func TestNoAnswer(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		outcome flex.Outcome
		want    bool
	}{
		{flex.Outcome{}, true},
		{flex.Outcome{Kind: flex.Refused, Unreached: true}, true},
		{flex.Outcome{Kind: flex.Refused, Limited: true, HTTPStatus: 429}, false},
		{flex.Outcome{Kind: flex.Created}, false},
		{flex.Outcome{Kind: flex.Rejected}, false},
		{flex.Outcome{Kind: flex.Blocked}, false},
		{flex.Outcome{Kind: flex.Blocked, Unreached: true}, false}, // no credentials to send
	} {
		if got := noAnswer(tt.outcome); got != tt.want {
			t.Errorf("%+v: %t, want %t", tt.outcome, got, tt.want)
		}
	}
}

// TestStreaks: what comes in a row counts, an answer ends it, and a 403 is the
// fleet's only when different requests met the same one.
func TestStreaks(t *testing.T) {
	t.Parallel()
	forbidden := flex.Outcome{Kind: flex.Blocked, HTTPStatus: 403, TwilioCode: 20403, Message: "m"}
	otherwise := forbidden
	otherwise.TwilioCode = 0
	answered, gone := flex.Outcome{Kind: flex.Rejected, HTTPStatus: 400}, flex.Outcome{HTTPStatus: 503}
	repeat := func(n int, o flex.Outcome) (list []flex.Outcome) {
		for range n {
			list = append(list, o)
		}
		return list
	}
	for _, tt := range []struct {
		name     string
		outcomes []flex.Outcome
		same     bool  // all of one request
		want     alarm // of the last
	}{
		{"failures", repeat(awayAfter, gone), true, alarm{away: true, why: "Flex cannot be used: "}},
		{"one less", repeat(awayAfter-1, gone), false, alarm{}},
		{"an answer between", append(append(repeat(awayAfter-1, gone), answered), repeat(awayAfter-1, gone)...), false, alarm{}},
		{"it begins anew after an alarm", repeat(2*awayAfter-1, gone), false, alarm{}},
		{"403 of many", repeat(forbiddenAfter, forbidden), false, alarm{hold: true, why: blame(forbidden)}},
		{"403 of one", repeat(10, forbidden), true, alarm{}},
		{"another 403", append(repeat(forbiddenAfter-1, forbidden), otherwise), false, alarm{}},
		{"an answer between 403s", append(append(repeat(forbiddenAfter-1, forbidden), answered), forbidden), false, alarm{}},
		{"no answer between 403s", append(append(repeat(forbiddenAfter-1, forbidden), gone), forbidden), false, alarm{hold: true, why: blame(forbidden)}},
	} {
		var s streaks
		var got alarm
		for i, o := range tt.outcomes {
			id := fmt.Sprint(i)
			if tt.same {
				id = "one"
			}
			got = s.alarm(id, o)
		}
		if got != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
}

// TestSlots: calls in flight fall with a wave of 429, once, never below one, and
// rise again to the ceiling and no further.
func TestSlots(t *testing.T) {
	t.Parallel()
	limited, fine := flex.Outcome{Kind: flex.Refused, Limited: true}, flex.Outcome{Kind: flex.Created}
	s := newSlots(10)
	now := time.Now()
	check := func(when string, want int) {
		t.Helper()
		if got := s.free(); got != want {
			t.Errorf("%s: %d free, want %d", when, got, want)
		}
	}
	s.take(10)
	check("all taken", 0)
	for range 10 {
		s.adapt(limited, now)
		s.give()
	}
	check("one wave", 6)
	for range 100 {
		now = now.Add(cutEvery)
		s.adapt(limited, now)
	}
	check("many waves", 1)
	s.adapt(flex.Outcome{}, now)
	s.adapt(flex.Outcome{Kind: flex.Refused, Unreached: true}, now)
	check("no answers", 1)
	s.adapt(fine, now)
	check("one good", 2)
	for range 1000 {
		s.adapt(fine, now)
	}
	check("many good", 10)
	s.restart()
	check("one tries again", 1)
	s.take(1)
	check("and no other", 0)
}
