package outbox

import (
	"fmt"
	"testing"
	"time"

	"flexworker/internal/flex"
)

// What calls bring, for breakers.
var (
	isCreated   = flex.Outcome{Kind: flex.Created, FromTwilio: true}
	isRejected  = flex.Outcome{Kind: flex.Rejected, HTTPStatus: 400, FromTwilio: true}
	isForbidden = flex.Outcome{Kind: flex.Blocked, HTTPStatus: 403, TwilioCode: 20403, FromTwilio: true, Message: "m"}
	isDenied    = flex.Outcome{Kind: flex.Blocked, HTTPStatus: 401, TwilioCode: 20003, FromTwilio: true, Message: "m"}
	isRefusing  = flex.Outcome{Kind: flex.Refused, Unreached: true, Message: "connection refused"}
	isFailing   = flex.Outcome{HTTPStatus: 500, FromTwilio: true, Message: "m"}
	isForeign   = flex.Outcome{HTTPStatus: 404, Message: "<html>"}
	isRedirect  = flex.Outcome{HTTPStatus: 302, Message: "redirected"}
	isAstray    = flex.Outcome{Kind: flex.Blocked, UnknownPath: true, HTTPStatus: 404, TwilioCode: 20404, FromTwilio: true, Message: "m"}
	isTimeout   = flex.Outcome{ErrorKind: "timeout", Message: "timeout"}
	isLimited   = flex.Outcome{Kind: flex.Refused, Limited: true, HTTPStatus: 429, FromTwilio: true}
)

func of(tenant string, n int) Lease {
	return Lease{RequestID: fmt.Sprint(tenant, "-", n), Source: tenant,
		Request: []byte(`{"routing":{"properties":{"workspace_sid":"WS1"}}}`)}
}

// A simple script of a breaker: each word is what happens, and the state after it.
type happens struct {
	tenant string // "": not a call
	o      flex.Outcome
	what   string // of what is not a call: good, bad (reads), nothing (due), shut (gate), or a time that passes
	want   breakerState
}

func call(tenant string, o flex.Outcome, want breakerState) happens {
	return happens{tenant: tenant, o: o, want: want}
}

func calls(n int, tenant string, o flex.Outcome, want breakerState) (all []happens) {
	for range n {
		all = append(all, call(tenant, o, want))
	}
	return all
}

func then(what string, want breakerState) happens { return happens{what: what, want: want} }

func story(parts ...any) (all []happens) {
	for _, p := range parts {
		switch p := p.(type) {
		case happens:
			all = append(all, p)
		case []happens:
			all = append(all, p...)
		}
	}
	return all
}

// TestBreakerStories: what stops a replica, what does not, and how it goes on.
func TestBreakerStories(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name        string
		peerStopped bool
		story       []happens
		word        Word // when it does not work as usual at the end
	}{
		{"all is well", false, story(calls(20, "a", isCreated, breakerClosed), calls(20, "a", isRejected, breakerClosed), calls(20, "a", isLimited, breakerClosed)), ""},
		{"one 401", false, story(call("a", isDenied, breakerOpen)), WordUnauthorized},
		{"a suspended account", false, story(call("a", flex.Outcome{Kind: flex.Blocked, HTTPStatus: 403, TwilioCode: 20005}, breakerOpen)), WordUnauthorized},
		{"no credentials", false, story(call("a", flex.Outcome{Kind: flex.Blocked, Unreached: true, Message: "m"}, breakerOpen)), WordUnauthorized},
		{"a redirect", false, story(call("a", isRedirect, breakerOpen)), WordUnreachable},
		{"a redirect of calls while reads succeed", false, story(call("a", isRedirect, breakerOpen), then("good", breakerTrying), call("a", isRedirect, breakerOpen)), WordUnreachable},
		{"a path that Twilio does not know", false, story(call("a", isAstray, breakerOpen)), WordUnreachable},
		{"reads cannot tell whether it is known now", false, story(call("a", isAstray, breakerOpen), then("good", breakerTrying)), WordUnreachable},
		{"nor can that nothing is due", false, story(call("a", isAstray, breakerOpen), then("good", breakerTrying), then("nothing", breakerOpen), then("good", breakerTrying), then("shut", breakerOpen)), WordUnreachable},
		{"one call can, and it fails", false, story(call("a", isAstray, breakerOpen), then("good", breakerTrying), call("a", isAstray, breakerOpen), then("bad", breakerOpen), then("good", breakerTrying), call("a", isTimeout, breakerOpen), then("good", breakerTrying)), WordUnreachable},
		{"one call can, and it is answered", false, story(call("a", isAstray, breakerOpen), then("good", breakerTrying), call("a", isRejected, breakerClosed), calls(4, "a", isFailing, breakerClosed)), ""},
		{"a redirect of calls alone is forgotten by none but a call", false, story(call("a", isRedirect, breakerOpen), then("good", breakerTrying), then("nothing", breakerOpen)), WordUnreachable},
		{"a proxy that wants a login", false, story(call("a", flex.Outcome{Kind: flex.Blocked, HTTPStatus: 407}, breakerOpen)), WordUnreachable},
		{"no connection, one tenant", false, story(calls(4, "a", isRefusing, breakerClosed), call("a", isRefusing, breakerOpen)), WordUnreachable},
		{"no connection once, while another replica is stopped for it", true, story(call("a", isRefusing, breakerOpen)), WordUnreachable},
		{"an answer between", false, story(calls(4, "a", isRefusing, breakerClosed), call("a", isCreated, breakerClosed), calls(4, "a", isRefusing, breakerClosed)), ""},
		{"a 429 between says nothing", false, story(calls(4, "a", isRefusing, breakerClosed), call("a", isLimited, breakerClosed), call("a", isRefusing, breakerOpen)), WordUnreachable},
		{"somebody else answers all", false, story(call("a", isForeign, breakerClosed), call("b", isForeign, breakerClosed), calls(2, "a", isForeign, breakerClosed), call("a", isForeign, breakerOpen)), WordUnreachable},
		{"500 of two tenants", false, story(call("b", isFailing, breakerClosed), calls(3, "a", isFailing, breakerClosed), call("a", isFailing, breakerOpen)), WordUnreachable},
		{"500 of one, and nobody else's is due", false, story(calls(4, "a", isFailing, breakerClosed), call("a", isFailing, breakerChoosing), then("nothing", breakerOpen)), WordUnreachable},
		{"500 of one, another's fails too", false, story(calls(4, "a", isFailing, breakerClosed), calls(2, "a", isFailing, breakerChoosing), call("b", isTimeout, breakerOpen)), WordUnreachable},
		{"500 of one, another's is created", false, story(calls(4, "a", isFailing, breakerClosed), call("a", isFailing, breakerChoosing), call("b", isCreated, breakerClosed), calls(200, "a", isFailing, breakerClosed)), ""},
		{"timeouts of one, another's is created", false, story(calls(4, "a", isTimeout, breakerClosed), call("a", isTimeout, breakerChoosing), call("b", isRejected, breakerClosed), calls(200, "a", isTimeout, breakerClosed)), ""},
		{"then others' fail too", false, story(calls(4, "a", isFailing, breakerClosed), call("a", isFailing, breakerChoosing), call("b", isCreated, breakerClosed), calls(9, "a", isFailing, breakerClosed),
			calls(4, "b", isFailing, breakerClosed), call("b", isFailing, breakerChoosing), call("a", isFailing, breakerOpen)), WordUnreachable},
		{"an excuse lasts while others' are answered", false, story(calls(4, "a", isFailing, breakerClosed), call("a", isFailing, breakerChoosing), call("b", isCreated, breakerClosed),
			then("9s", breakerClosed), call("b", isCreated, breakerClosed), then("9s", breakerClosed), calls(9, "a", isFailing, breakerClosed), then("2s", breakerClosed), calls(4, "a", isFailing, breakerClosed), call("a", isFailing, breakerChoosing)), ""},
		{"an excused tenant that has no connection", false, story(calls(4, "a", isFailing, breakerClosed), call("a", isFailing, breakerChoosing), call("b", isCreated, breakerClosed), calls(4, "a", isRefusing, breakerClosed), call("a", isRefusing, breakerOpen)), WordUnreachable},
		{"403 of one tenant", false, story(calls(200, "a", isForbidden, breakerClosed)), ""},
		{"403 of two", false, story(call("b", isForbidden, breakerClosed), call("a", isForbidden, breakerClosed), call("a", isForbidden, breakerOpen)), WordUnauthorized},
		{"403 of many of one, then of another", false, story(calls(50, "a", isForbidden, breakerClosed), call("b", isForbidden, breakerOpen)), WordUnauthorized},
		{"an answer between 403s", false, story(call("b", isForbidden, breakerClosed), call("b", isForbidden, breakerClosed), call("b", isCreated, breakerClosed), call("a", isForbidden, breakerClosed)), ""},
		{"403s that a read contradicts", false, story(call("b", isForbidden, breakerClosed), calls(1, "a", isForbidden, breakerClosed), call("a", isForbidden, breakerOpen), then("good", breakerTrying),
			call("a", isForbidden, breakerClosed), calls(20, "a", isForbidden, breakerClosed), calls(20, "b", isForbidden, breakerClosed), then("50s", breakerClosed), calls(20, "c", isForbidden, breakerClosed)), ""},
		{"a minute later they may be everybody's", false, story(call("b", isForbidden, breakerClosed), call("b", isForbidden, breakerClosed), call("a", isForbidden, breakerOpen), then("good", breakerTrying),
			call("a", isForbidden, breakerClosed), then("61s", breakerClosed), call("b", isForbidden, breakerClosed), call("b", isForbidden, breakerClosed), call("a", isForbidden, breakerOpen)), WordUnauthorized},
		{"it stays stopped while reads fail", false, story(call("a", isDenied, breakerOpen), then("bad", breakerOpen), then("bad", breakerOpen)), WordUnauthorized},
		{"it goes on", false, story(call("a", isDenied, breakerOpen), then("bad", breakerOpen), then("good", breakerTrying), call("a", isCreated, breakerClosed), calls(4, "a", isFailing, breakerClosed)), ""},
		{"reads succeed and creates fail", false, story(calls(4, "a", isFailing, breakerClosed), call("a", isFailing, breakerChoosing), then("nothing", breakerOpen),
			then("good", breakerTrying), then("nothing", breakerTrying), call("a", isFailing, breakerOpen), then("good", breakerTrying), call("b", isFailing, breakerOpen)), WordFailing},
		{"and then no connection", false, story(call("a", isDenied, breakerOpen), then("good", breakerTrying), call("a", isRefusing, breakerOpen)), WordUnreachable},
		{"and then a 401", false, story(call("a", isDenied, breakerOpen), then("good", breakerTrying), call("a", isDenied, breakerOpen)), WordUnauthorized},
		{"and then reads fail", false, story(call("a", isDenied, breakerOpen), then("good", breakerTrying), call("a", isTimeout, breakerOpen), then("bad", breakerOpen)), WordUnauthorized},
		{"nothing is due", false, story(call("a", isDenied, breakerOpen), then("good", breakerTrying), then("nothing", breakerClosed)), ""},
		{"nothing was due: the first that fails stops it", false, story(calls(4, "a", isRefusing, breakerClosed), call("a", isRefusing, breakerOpen), then("good", breakerTrying), then("nothing", breakerTrying), then("nothing", breakerClosed), call("a", isRefusing, breakerOpen)), WordUnreachable},
		{"the gate is shut", false, story(call("a", isDenied, breakerOpen), then("good", breakerTrying), then("shut", breakerClosed)), ""},
		{"calls from before it stopped", false, story(call("a", isDenied, breakerOpen), calls(3, "a", isCreated, breakerOpen), call("a", isFailing, breakerOpen)), WordUnauthorized},
		{"a call from before it tries", false, story(call("a", isDenied, breakerOpen), then("good", breakerTrying), call("a", flex.Outcome{Took: time.Minute, HTTPStatus: 500}, breakerTrying),
			call("a", flex.Outcome{Took: time.Minute, Kind: flex.Created}, breakerTrying)), WordFailing},
		{"a claim fails while it chooses", false, story(calls(4, "a", isFailing, breakerClosed), call("a", isFailing, breakerChoosing), then("unclaimed", breakerOpen)), WordUnreachable},
		{"claims fail while it tries", false, story(calls(4, "a", isFailing, breakerClosed), call("a", isFailing, breakerChoosing), then("unclaimed", breakerOpen),
			then("good", breakerTrying), then("unclaimed", breakerTrying), then("unclaimed", breakerOpen), then("good", breakerTrying), call("a", isCreated, breakerClosed)), ""},
		{"a 429 to a read is an answer", false, story(call("a", isDenied, breakerOpen), then("limited", breakerTrying), call("a", isLimited, breakerTrying), then("shut", breakerClosed)), ""},
		{"a 429 to a read that is not Flex's", false, story(call("a", isDenied, breakerOpen), then("busy", breakerOpen)), WordUnreachable},
		{"a 5xx to a read", false, story(call("a", isDenied, breakerOpen), then("failing", breakerOpen)), WordUnreachable},
		{"a good call from before it chooses", false, story(calls(4, "a", isFailing, breakerClosed), call("a", isFailing, breakerChoosing), call("b", flex.Outcome{Took: time.Minute, Kind: flex.Created}, breakerChoosing)), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := breaker{peerStopped: func() bool { return tt.peerStopped }}
			now := time.Now()
			for i, h := range tt.story {
				now = now.Add(time.Millisecond)
				switch h.what {
				case "":
					b.observe(of(h.tenant, i), h.o, now)
				case "good":
					b.asked(flex.Outcome{Kind: flex.Rejected}, now)
				case "bad":
					b.asked(isDenied, now)
				case "limited":
					b.asked(isLimited, now)
				case "busy":
					b.asked(flex.Outcome{HTTPStatus: 429, Message: "<html>"}, now)
				case "failing":
					b.asked(isFailing, now)
				case "unclaimed":
					b.claimFailed(now)
				case "nothing":
					b.nothingDue(now)
				case "shut":
					b.gateShut(now)
				default:
					passed, err := time.ParseDuration(h.what)
					if err != nil {
						t.Fatal(err)
					}
					now = now.Add(passed)
				}
				if b.state != h.want {
					t.Fatalf("after step %d, %s %s: state %d, want %d", i+1, h.tenant, h.what, b.state, h.want)
				}
			}
			word, reason, stopped := b.stopped()
			if why := b.failing(); why != "" && !stopped {
				word, reason, stopped = WordFailing, why, true
			}
			if stopped != (tt.word != "") || stopped && (word != tt.word || reason == "") {
				t.Errorf("stopped %t as %s: %q, want %q", stopped, word, reason, tt.word)
			}
		})
	}
}

// TestBreakerAsks: a stopped replica asks at once, then every two seconds with jitter,
// also when it stops again right after it went on.
func TestBreakerAsks(t *testing.T) {
	t.Parallel()
	var b breaker
	now := time.Now()
	if _, stopped := b.asksIn(now); stopped {
		t.Error("a replica asks that is not stopped")
	}
	b.observe(of("a", 1), isDenied, now)
	for range 100 {
		if in, stopped := b.asksIn(now); !stopped || in != 0 {
			t.Fatalf("asks in %v, %t", in, stopped)
		}
		b.asked(isDenied, now)
		in, _ := b.asksIn(now)
		if in < 3*askEvery/4 || in > 5*askEvery/4 {
			t.Fatalf("it asks again in %v", in)
		}
		now = now.Add(in)
	}
	b.asked(flex.Outcome{Kind: flex.Rejected}, now)
	b.observe(of("a", 2), isDenied, now)
	if in, stopped := b.asksIn(now); !stopped || in < 3*askEvery/4 {
		t.Errorf("stopped again it asks in %v, %t", in, stopped)
	}
}

// TestTenants: which refusals may be one tenant's, and what is no answer.
func TestTenants(t *testing.T) {
	t.Parallel()
	blocked := func(status, code int) flex.Outcome {
		return flex.Outcome{Kind: flex.Blocked, HTTPStatus: status, TwilioCode: code}
	}
	for _, tt := range []struct {
		outcome              flex.Outcome
		oneTenants, noAnswer bool
	}{
		{blocked(403, 20403), true, false}, {blocked(400, 45002), true, false}, {blocked(401, 45002), false, false}, {blocked(407, 0), false, false},
		{isRedirect, false, false}, {isAstray, false, false}, {blocked(403, 20005), false, false}, {blocked(0, 0), false, false},
		{flex.Outcome{}, false, true}, {isRefusing, false, true}, {isLimited, false, false}, {isCreated, false, false}, {isRejected, false, false}, {isForeign, false, true},
	} {
		if one, no := oneTenants(tt.outcome), noAnswer(tt.outcome); one != tt.oneTenants || no != tt.noAnswer {
			t.Errorf("%+v: one tenant's %t, no answer %t", tt.outcome, one, no)
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
