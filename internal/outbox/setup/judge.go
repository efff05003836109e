package setup

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"flexworker/internal/flex"
)

// A Word is what a request's senders are told of its set-up. The zero value: nothing yet.
type Word string

// The words. Each created request gets one of them.
const (
	Confirmed   Word = "confirmed"
	Failed      Word = "setup_failed"
	Unconfirmed Word = "unconfirmed"
)

// Words are all of them, in the order of Counters.
var Words = [...]Word{Confirmed, Failed, Unconfirmed}

// A Look is what one look at a request has shown. An error beside a value means that it could not be read.
type Look struct {
	Named   bool // the request named participants
	HasTask bool // its task is known

	Channel     flex.ChannelState // the zero value: Flex shows no channel
	ChannelErr  error
	Customer    bool // a customer is in the channel; asked for where participants were named and the channel is there
	CustomerErr error
	Task        flex.TaskState // the zero value: it has none, or TaskRouter no longer has it
	TaskErr     error
}

// A Verdict is what follows from a look.
type Verdict struct {
	Word Word   // "": look again
	Kind string // of Failed: channel_failed, task_canceled or no_customer
	Why  string // "" where Word is Confirmed
}

// Judge says what a look proves; last: no other one follows.
func (l Look) Judge(last bool) Verdict {
	switch status := l.Channel.Status; {
	case status == "failed":
		return Verdict{Failed, "channel_failed", cmp.Or(l.Channel.ErrorMessage, "Flex says that the channel failed")}
	case l.Task.Status == "canceled" || l.Task.Status == "cancelled":
		return Verdict{Failed, "task_canceled", "its task was cancelled" + because(l.Task.Reason)}
	case l.unread() != nil && (!last || l.ChannelErr != nil || l.CustomerErr != nil):
		return l.undecided(last, "it could not be read: "+l.unread().Error())
	case !wasSetUp(status):
		return l.undecided(last, fmt.Sprintf("the channel is not set up: its status is %q", status))
	case !l.Named || l.Customer:
		return Verdict{Word: Confirmed}
	case last && status == "active":
		return Verdict{Failed, "no_customer", "the channel is active and no customer is in it"}
	default:
		return l.undecided(last, fmt.Sprintf("the channel is %s and no customer is in it", status))
	}
}

func (l Look) undecided(last bool, why string) Verdict {
	if last {
		return Verdict{Word: Unconfirmed, Why: why}
	}
	return Verdict{Why: why}
}

// wasSetUp says whether a channel of this status is set up, or was.
func wasSetUp(status string) bool {
	switch status {
	case "active", "inactive", "closed", "pause", "transfer":
		return true
	default:
		return false
	}
}

func because(reason string) string {
	if reason = strings.TrimSpace(reason); reason == "" {
		return ""
	}
	return ": " + reason
}

// unread is why a part could not be read; nil: all was.
func (l Look) unread() error { return cmp.Or(l.ChannelErr, l.CustomerErr, l.TaskErr) }

// limited says whether Twilio has put the look off, and for how long; 0: it named no time.
func (l Look) limited() (wait time.Duration, ok bool) {
	for _, err := range []error{l.ChannelErr, l.CustomerErr, l.TaskErr} {
		if e := (*flex.LookupError)(nil); errors.As(err, &e) && e.Limited {
			wait, ok = max(wait, e.RetryAfter), true
		}
	}
	return wait, ok
}

// refused is why Flex does not let this set-up be read; nil: it does, or something else went wrong.
func (l Look) refused() error {
	for _, err := range []error{l.ChannelErr, l.CustomerErr} {
		if e := (*flex.LookupError)(nil); errors.As(err, &e) && e.Refused() {
			return err
		}
	}
	return nil
}

// gone says whether TaskRouter no longer has a task, as five minutes after its end.
func gone(err error) bool {
	e := (*flex.LookupError)(nil)
	return errors.As(err, &e) && e.HTTPStatus == http.StatusNotFound && e.TwilioCode != 0
}

const (
	// mostChecks is how many looks are made at a request at most. Four are the usual number; a fifth and more are made
	// only where the database's clock went back.
	mostChecks = 8
	// between is the time between two looks once the last of schedule is past: of a request whose word is late.
	between = 15 * time.Second
)

// schedule are the times after the creation at which looks are made.
var schedule = [...]time.Duration{FirstLook, 5 * time.Second, 15 * time.Second, 60 * time.Second}

// FirstLook is how long after the creation the first look is made.
const FirstLook = 2 * time.Second

// After says what follows from a look, the checks-th that counts, at a request that was created so long ago: its word or,
// where there is none yet, how long it is until the next look.
func (l Look) After(checks int, age time.Duration) (v Verdict, next time.Duration) {
	return l.Judge(isLast(checks, age, l.unread() == nil)), untilNext(age)
}

// isLast says whether a look is the last one: the checks-th, at this age of the creation. One that could not be read is
// repeated, where the earlier ones came late, until there were as many as usual.
func isLast(checks int, age time.Duration, read bool) bool {
	return checks >= mostChecks || age >= schedule[len(schedule)-1] && (read || checks >= len(schedule))
}

// untilNext is how long after a look at this age the next one is due.
func untilNext(age time.Duration) time.Duration {
	for _, at := range schedule {
		if at > age {
			return at - age
		}
	}
	return between
}
