package setup

import (
	"errors"
	"testing"
	"time"

	"flexworker/internal/flex"
)

var (
	errAway    = &flex.LookupError{ErrorKind: "timeout", Message: "no answer"}
	errRefused = &flex.LookupError{ErrorKind: "http_403", HTTPStatus: 403, TwilioCode: 20403}
	errGateway = &flex.LookupError{ErrorKind: "http_403", HTTPStatus: 403}
	errLimited = &flex.LookupError{ErrorKind: "http_429", HTTPStatus: 429, TwilioCode: 20429, Limited: true, RetryAfter: 7 * time.Second}
)

// TestJudge holds each row of the contract's section 4a, at a look that another one follows and at the last one.
func TestJudge(t *testing.T) {
	channel := func(status string) flex.ChannelState { return flex.ChannelState{SID: "UO", Status: status} }
	canceled := flex.TaskState{Status: "canceled", Reason: "hangup"}
	for name, tt := range map[string]struct {
		look        Look
		first, last Word
		kind        string // of setup_failed
	}{
		"active, nobody named":                {Look{Channel: channel("active")}, Confirmed, Confirmed, ""},
		"active with its customer":            {Look{Channel: channel("active"), Named: true, Customer: true}, Confirmed, Confirmed, ""},
		"active without":                      {Look{Channel: channel("active"), Named: true}, "", Failed, "no_customer"},
		"closed without: it may have left":    {Look{Channel: channel("closed"), Named: true}, "", Unconfirmed, ""},
		"was active: inactive":                {Look{Channel: channel("inactive")}, Confirmed, Confirmed, ""},
		"was active: closed":                  {Look{Channel: channel("closed")}, Confirmed, Confirmed, ""},
		"was active: pause":                   {Look{Channel: channel("pause")}, Confirmed, Confirmed, ""},
		"was active: transfer":                {Look{Channel: channel("transfer")}, Confirmed, Confirmed, ""},
		"failed":                              {Look{Channel: channel("failed"), Named: true}, Failed, Failed, "channel_failed"},
		"failed, and the task not read":       {Look{Channel: channel("failed"), TaskErr: errAway}, Failed, Failed, "channel_failed"},
		"task cancelled during set-up":        {Look{Channel: channel("setup"), Task: canceled}, Failed, Failed, "task_canceled"},
		"task cancelled, with its customer":   {Look{Channel: channel("active"), Named: true, Customer: true, Task: canceled}, Failed, Failed, "task_canceled"},
		"set-up":                              {Look{Channel: channel("setup"), Named: true}, "", Unconfirmed, ""},
		"a status of another year":            {Look{Channel: channel("warming")}, "", Unconfirmed, ""},
		"no channel":                          {Look{}, "", Unconfirmed, ""},
		"the channel not read":                {Look{ChannelErr: errAway}, "", Unconfirmed, ""},
		"the channel refused":                 {Look{ChannelErr: errRefused}, "", Unconfirmed, ""},
		"active, the participants not read":   {Look{Channel: channel("active"), Named: true, CustomerErr: errAway}, "", Unconfirmed, ""},
		"active with customer, task not read": {Look{Channel: channel("active"), Named: true, Customer: true, TaskErr: errAway}, "", Confirmed, ""},
		"active without, the task not read":   {Look{Channel: channel("active"), Named: true, TaskErr: errAway}, "", Failed, "no_customer"},
	} {
		for last, want := range map[bool]Word{false: tt.first, true: tt.last} {
			v := tt.look.Judge(last)
			if v.Word != want || (v.Word == Failed) != (v.Kind != "") || v.Kind != "" && v.Kind != tt.kind {
				t.Errorf("%s, last %t: %+v, want %q %s", name, last, v, want, tt.kind)
			}
			if (v.Why == "") != (v.Word == Confirmed) {
				t.Errorf("%s, last %t: why is %q", name, last, v.Why)
			}
		}
	}
}

// TestSchedule: looks are made 2, 5, 15 and 60 seconds after the creation, and the fourth is the last. A word that is late
// needs one look, and up to four where they cannot be read.
func TestSchedule(t *testing.T) {
	var looks []time.Duration
	for age, checks := FirstLook, 1; ; checks++ {
		looks = append(looks, age)
		if isLast(checks, age, false) {
			break
		}
		age += untilNext(age)
	}
	for i, at := range looks {
		if len(looks) != len(schedule) || at != schedule[i] {
			t.Fatalf("looks at %v", looks)
		}
	}
	for _, tt := range []struct {
		checks     int
		age        time.Duration
		read, last bool
	}{
		{1, time.Hour, true, true}, {1, time.Hour, false, false}, {4, time.Hour, false, true},
		{4, 59 * time.Second, true, false}, {mostChecks, 0, false, true},
	} {
		if last := isLast(tt.checks, tt.age, tt.read); last != tt.last {
			t.Errorf("%+v: last %t", tt, last)
		}
	}
	if d := untilNext(6 * time.Second); d != 9*time.Second {
		t.Errorf("a look that came late, at 6 s, is followed by one after %v", d)
	}
	if d := untilNext(time.Hour); d != between {
		t.Errorf("after the last time another look follows after %v", d)
	}
}

// TestRefusedAndLimited: what Flex has decided about a read is told from what went wrong on the way.
func TestRefusedAndLimited(t *testing.T) {
	for _, tt := range []struct {
		look             Look
		refused, limited bool
	}{
		{Look{ChannelErr: errRefused}, true, false}, {Look{CustomerErr: errRefused}, true, false}, {Look{TaskErr: errRefused}, false, false},
		{Look{ChannelErr: errGateway}, false, false}, {Look{ChannelErr: errAway}, false, false}, {Look{ChannelErr: errors.New("x")}, false, false},
		{Look{ChannelErr: errLimited}, false, true}, {Look{TaskErr: errLimited}, false, true},
	} {
		wait, limited := tt.look.limited()
		if (tt.look.refused() != nil) != tt.refused || limited != tt.limited || limited && wait != errLimited.RetryAfter {
			t.Errorf("%+v: refused %v, limited %t for %v", tt.look, tt.look.refused(), limited, wait)
		}
	}
}
