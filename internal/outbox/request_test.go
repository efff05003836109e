package outbox

import (
	"math"
	"testing"
	"time"

	"flexworker/internal/flex"
	"flexworker/internal/outbox/request"
)

var testPolicy = request.Policy{MinDelay: time.Second, MaxDelay: 5 * time.Minute}

func TestAfter(t *testing.T) {
	t.Parallel()
	const half = 0.5
	for _, tt := range []struct {
		name    string
		attempt int
		outcome flex.Outcome
		want    request.Move
	}{
		{"nothing known", 1, flex.Outcome{}, request.Move{To: request.Uncertain, Delay: request.FirstLookup}},
		{"uncertain", 3, flex.Outcome{Kind: flex.Uncertain, HTTPStatus: 503, RetryAfter: time.Hour}, request.Move{To: request.Uncertain, Delay: request.FirstLookup}},
		{"uncertain, answered", 1, flex.Outcome{Kind: flex.Uncertain, Answered: true}, request.Move{To: request.Uncertain, Delay: request.FirstLookup}},
		{"uncertain, said to be unreached", 1, flex.Outcome{Kind: flex.Uncertain, Unreached: true}, request.Move{To: request.Uncertain, Delay: request.FirstLookup}},
		{"a kind nobody knows", 1, flex.Outcome{Kind: 200}, request.Move{To: request.Uncertain, Delay: request.FirstLookup}},
		{"created", 7, flex.Outcome{Kind: flex.Created}, request.Move{To: request.Created}},
		{"rejected", 1, flex.Outcome{Kind: flex.Rejected}, request.Move{To: request.Rejected}},
		{"refused", 1, flex.Outcome{Kind: flex.Refused}, request.Move{To: request.Pending, Uncounted: true, Delay: 625 * time.Millisecond}},
		{"refused again", 3, flex.Outcome{Kind: flex.Refused}, request.Move{To: request.Pending, Uncounted: true, Delay: 2500 * time.Millisecond}},
		{"limited, told when", 1, flex.Outcome{Kind: flex.Refused, Limited: true, RetryAfter: time.Minute}, request.Move{To: request.Pending, Uncounted: true, Delay: 67500 * time.Millisecond}},
		{"limited, told too soon", 9, flex.Outcome{Kind: flex.Refused, Limited: true, RetryAfter: time.Second}, request.Move{To: request.Pending, Uncounted: true, Delay: 160 * time.Second}},
		{"blocked", 9, flex.Outcome{Kind: flex.Blocked}, request.Move{To: request.Pending, Uncounted: true, Delay: 160 * time.Second}},
	} {
		if got := testPolicy.After(tt.attempt, tt.outcome, half); got != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
}

// TestAfterOthers: an answer that names the interaction of another request is worth no more than that something has
// answered. The request is uncertain, and that no task is found proves nothing.
func TestAfterOthers(t *testing.T) {
	t.Parallel()
	told := flex.Outcome{Kind: flex.Created, InteractionSID: sidA, TaskSID: "WT1", Answered: true, FromTwilio: true, HTTPStatus: 201, RequestID: "RQ1", Took: time.Second}
	o, m := testPolicy.AfterOthers(3, told, "the-other", 0.5)
	if want := (request.Move{To: request.Uncertain, Delay: request.FirstLookup}); m != want {
		t.Errorf("%+v, want %+v", m, want)
	}
	if o.Kind != flex.Uncertain || !o.Answered || o.FromTwilio || o.InteractionSID != "" || o.TaskSID != "" || o.ErrorKind != "other_request" || o.HTTPStatus != 201 ||
		o.RequestID != "RQ1" || o.Took != time.Second || o.Message != "the answer names interaction "+sidA+", which is that of request the-other" {
		t.Errorf("%+v", o)
	}
}

// TestDelay: it doubles up to the cap, jitter only takes off, and no number of
// attempts makes it negative.
func TestDelay(t *testing.T) {
	t.Parallel()
	const almost = 0.999999999
	for _, tt := range []struct {
		attempt     int
		least, most time.Duration
	}{
		{math.MinInt, 250 * time.Millisecond, time.Second},
		{0, 250 * time.Millisecond, time.Second},
		{1, 250 * time.Millisecond, time.Second},
		{2, 500 * time.Millisecond, 2 * time.Second},
		{9, 64 * time.Second, 256 * time.Second},
		{10, 75 * time.Second, 5 * time.Minute},
		{310, 75 * time.Second, 5 * time.Minute},
		{math.MaxInt, 75 * time.Second, 5 * time.Minute},
	} {
		least, most := testPolicy.Delay(tt.attempt, 0), testPolicy.Delay(tt.attempt, almost)
		if least != tt.least {
			t.Errorf("attempt %d: at least %v, want %v", tt.attempt, least, tt.least)
		}
		if most > tt.most || most < tt.most-time.Millisecond {
			t.Errorf("attempt %d: at most %v, want %v", tt.attempt, most, tt.most)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		asked       time.Duration
		least, most time.Duration
	}{
		{-time.Hour, 0, 0},
		{math.MinInt64, 0, 0},
		{0, 0, 0},
		{4 * time.Second, 4 * time.Second, 5 * time.Second},
		{2 * time.Minute, 2 * time.Minute, 2*time.Minute + 30*time.Second},
		{time.Hour, time.Hour, time.Hour + 30*time.Second},
		{math.MaxInt64, time.Hour, time.Hour + 30*time.Second},
	} {
		if least, most := request.RetryAfter(tt.asked, 0), request.RetryAfter(tt.asked, 1); least != tt.least || most != tt.most {
			t.Errorf("%v: within [%v, %v], want [%v, %v]", tt.asked, least, most, tt.least, tt.most)
		}
	}
}

func TestFinal(t *testing.T) {
	t.Parallel()
	for _, s := range request.States {
		if want := s != request.Pending && s != request.Sending && s != request.Uncertain; s.Final() != want {
			t.Errorf("%s: final %t, want %t", s, s.Final(), want)
		}
	}
	if request.State("").Final() {
		t.Error("no state at all is final")
	}
}

// FuzzAfter: nothing but Refused and Blocked leads back to pending, only Created
// and Rejected settle, and every wait is within its bounds.
func FuzzAfter(f *testing.F) {
	f.Add(uint8(flex.Uncertain), 1, int64(0), 0.0, int64(time.Second), int64(5*time.Minute), true, true)
	f.Add(uint8(flex.Refused), 310, int64(time.Hour), 0.99, int64(time.Second), int64(5*time.Minute), false, true)
	f.Add(uint8(flex.Blocked), -1, int64(-1), 0.5, int64(1), int64(1), true, false)
	f.Add(uint8(flex.Refused), math.MaxInt, int64(math.MaxInt64), 0.999999, int64(1), int64(math.MaxInt64), true, false)
	f.Fuzz(func(t *testing.T, kind uint8, attempt int, after int64, random float64, least, most int64, answered, limited bool) {
		if !(random >= 0 && random < 1) || least < 1 || most < least {
			return // outside the contract
		}
		p := request.Policy{MinDelay: time.Duration(least), MaxDelay: time.Duration(most)}
		o := flex.Outcome{Kind: flex.Kind(kind), RetryAfter: time.Duration(after), Answered: answered, Limited: limited}
		m := p.After(attempt, o, random)
		if again := o.Kind == flex.Refused || o.Kind == flex.Blocked; (m.To == request.Pending) != again || m.Uncounted != again {
			t.Errorf("%v leads to %+v", o.Kind, m)
		}
		if m.To == request.Created != (o.Kind == flex.Created) || m.To == request.Rejected != (o.Kind == flex.Rejected) {
			t.Errorf("%v leads to %s", o.Kind, m.To)
		}
		if m.To.Final() && o.Kind != flex.Created && o.Kind != flex.Rejected {
			t.Errorf("%v settles as %s", o.Kind, m.To)
		}
		if m.Delay < 0 || m.Delay > max(p.MaxDelay, time.Hour+30*time.Second) {
			t.Errorf("a wait of %v", m.Delay)
		}
	})
}

// FuzzRetryAfter: never sooner than asked within the hour, never more than a
// quarter and half a minute later.
func FuzzRetryAfter(f *testing.F) {
	f.Add(int64(0), 0.0)
	f.Add(int64(math.MinInt64), 0.999)
	f.Add(int64(math.MaxInt64), 0.999)
	f.Fuzz(func(t *testing.T, asked int64, random float64) {
		if !(random >= 0 && random < 1) {
			return // outside the contract
		}
		least := min(max(time.Duration(asked), 0), time.Hour)
		if got := request.RetryAfter(time.Duration(asked), random); got < least || got > least+min(least/4, 30*time.Second) {
			t.Errorf("asked for %v, waits %v", time.Duration(asked), got)
		}
	})
}

// FuzzAfterLookup: without a person or UNCERTAIN_POLICY=retry nothing leads back
// to pending but absence that counts, and attempts that are used up stay so.
func FuzzAfterLookup(f *testing.F) {
	f.Add(uint8(request.Absent), 1, 1, 1, int64(time.Minute), int64(time.Minute), 3, "", false, true, 0.5)
	f.Add(uint8(request.Unclear), 3, 3, 40, int64(time.Hour), int64(time.Minute), 3, "retry", true, true, 0.0)
	f.Add(uint8(request.Found), 310, 0, math.MaxInt, int64(-1), int64(0), 1, "fail", true, false, 0.9)
	f.Fuzz(func(t *testing.T, kind uint8, attempt, counted, lookups int, age, settle int64, most int, undecided string, answered, askable bool, random float64) {
		if !(random >= 0 && random < 1) || lookups < 0 || settle < 0 || settle > math.MaxInt64/request.PatienceOver || kind > uint8(request.Absent) {
			return // outside the contract
		}
		p := testPolicy
		p.MaxAttempts, p.Settle, p.Undecided = most, time.Duration(settle), request.Undecided(undecided)
		d := request.LookupInput{Attempt: attempt, Counted: counted, Lookups: lookups, Age: time.Duration(age), Answered: answered, Askable: askable}
		m := p.AfterLookup(d, request.Finding{Kind: request.FindingKind(kind)}, random)
		found := request.FindingKind(kind) == request.Found
		proved := request.FindingKind(kind) == request.Absent && askable && !answered && d.Age >= p.Settle
		switch {
		case (m.To == request.Created) != found:
			t.Errorf("%v leads to %+v", request.FindingKind(kind), m)
		case m.To == request.Pending && !proved && p.Undecided != request.Retry:
			t.Errorf("%v, %+v: sent again without a proof", request.FindingKind(kind), d)
		case m.To == request.Pending && counted >= most:
			t.Errorf("%+v: sent again at %d attempts of %d", d, counted, most)
		case m.To == request.Abandoned && !proved && p.Undecided != request.Retry && p.Undecided != request.Fail:
			t.Errorf("%v, %+v: given up unasked", request.FindingKind(kind), d)
		case m.To == request.Rejected || m.To == request.Expired || m.To == request.Cancelled || m.To == request.Sending:
			t.Errorf("a lookup leads to %s", m.To)
		case m.Person && m.To != request.Uncertain, m.Delay < 0, m.Delay > max(p.MaxDelay, request.MaxLookup, p.Settle, request.MaxBesidePerson):
			t.Errorf("%+v", m)
		}
	})
}
