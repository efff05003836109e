package gate

import (
	"fmt"
	"testing"
	"time"

	"flexworker/internal/flex"
)

// What calls bring, for breakers.
var (
	gotCreated   = flex.Outcome{Kind: flex.Created, FromTwilio: true}
	gotRejected  = flex.Outcome{Kind: flex.Rejected, HTTPStatus: 400, FromTwilio: true}
	gotUnsent    = flex.Outcome{Kind: flex.Rejected, Unreached: true, ErrorKind: "request", Message: "the lookup key cannot be added"}
	gotForbidden = flex.Outcome{Kind: flex.Blocked, HTTPStatus: 403, TwilioCode: 20403, FromTwilio: true, Message: "m"}
	gotDenied    = flex.Outcome{Kind: flex.Blocked, HTTPStatus: 401, TwilioCode: 20003, FromTwilio: true, Message: "m"}
	gotRefusing  = flex.Outcome{Kind: flex.Refused, Unreached: true, Message: "connection refused"}
	gotFailing   = flex.Outcome{HTTPStatus: 500, FromTwilio: true, Message: "m"}
	gotForeign   = flex.Outcome{HTTPStatus: 404, Message: "<html>"}
	gotRedirect  = flex.Outcome{HTTPStatus: 302, Message: "redirected"}
	gotAstray    = flex.Outcome{Kind: flex.Blocked, UnknownPath: true, HTTPStatus: 404, TwilioCode: 20404, FromTwilio: true, Message: "m"}
	gotTimeout   = flex.Outcome{ErrorKind: "timeout", Message: "timeout"}
	gotLimited   = flex.Outcome{Kind: flex.Refused, Limited: true, HTTPStatus: 429, FromTwilio: true}
)

func callFor(tenant string, n int) Call {
	return Call{RequestID: fmt.Sprint(tenant, "-", n), Source: tenant,
		Request: []byte(`{"routing":{"properties":{"workspace_sid":"WS1"}}}`)}
}

// A simple script of a breaker: each word is what happens, and the state after it.
type happens struct {
	tenant string // "": not a call
	o      flex.Outcome
	what   string // of what is not a call: good, bad (reads), nothing (due), shut (gate), or a time that passes
	want   BreakerState
}

func call(tenant string, o flex.Outcome, want BreakerState) happens {
	return happens{tenant: tenant, o: o, want: want}
}

func calls(n int, tenant string, o flex.Outcome, want BreakerState) (all []happens) {
	for range n {
		all = append(all, call(tenant, o, want))
	}
	return all
}

func then(what string, want BreakerState) happens { return happens{what: what, want: want} }

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
		{"all is well", false, story(calls(20, "a", gotCreated, BreakerClosed), calls(20, "a", gotRejected, BreakerClosed), calls(20, "a", gotLimited, BreakerClosed)), ""},
		{"one 401", false, story(call("a", gotDenied, BreakerOpen)), WordUnauthorized},
		{"a suspended account", false, story(call("a", flex.Outcome{Kind: flex.Blocked, HTTPStatus: 403, TwilioCode: 20005}, BreakerOpen)), WordUnauthorized},
		{"no credentials", false, story(call("a", flex.Outcome{Kind: flex.Blocked, Unreached: true, Message: "m"}, BreakerOpen)), WordUnauthorized},
		{"a redirect", false, story(call("a", gotRedirect, BreakerOpen)), WordUnreachable},
		{"a redirect of calls while reads succeed", false, story(call("a", gotRedirect, BreakerOpen), then("good", BreakerTrying), call("a", gotRedirect, BreakerOpen)), WordUnreachable},
		{"a path that Twilio does not know", false, story(call("a", gotAstray, BreakerOpen)), WordUnreachable},
		{"reads cannot tell whether it is known now", false, story(call("a", gotAstray, BreakerOpen), then("good", BreakerTrying)), WordUnreachable},
		{"nor can that nothing is due", false, story(call("a", gotAstray, BreakerOpen), then("good", BreakerTrying), then("nothing", BreakerOpen), then("good", BreakerTrying), then("shut", BreakerOpen)), WordUnreachable},
		{"one call can, and it fails", false, story(call("a", gotAstray, BreakerOpen), then("good", BreakerTrying), call("a", gotAstray, BreakerOpen), then("bad", BreakerOpen), then("good", BreakerTrying), call("a", gotTimeout, BreakerOpen), then("good", BreakerTrying)), WordUnreachable},
		{"one call can, and it is answered", false, story(call("a", gotAstray, BreakerOpen), then("good", BreakerTrying), call("a", gotRejected, BreakerClosed), calls(4, "a", gotFailing, BreakerClosed)), ""},
		{"a redirect of calls alone is forgotten by none but a call", false, story(call("a", gotRedirect, BreakerOpen), then("good", BreakerTrying), then("nothing", BreakerOpen)), WordUnreachable},
		{"a proxy that wants a login", false, story(call("a", flex.Outcome{Kind: flex.Blocked, HTTPStatus: 407}, BreakerOpen)), WordUnreachable},
		{"no connection, one tenant", false, story(calls(4, "a", gotRefusing, BreakerClosed), call("a", gotRefusing, BreakerOpen)), WordUnreachable},
		{"no connection once, while another replica is stopped for it", true, story(call("a", gotRefusing, BreakerOpen)), WordUnreachable},
		{"an answer between", false, story(calls(4, "a", gotRefusing, BreakerClosed), call("a", gotCreated, BreakerClosed), calls(4, "a", gotRefusing, BreakerClosed)), ""},
		{"a 429 between says nothing", false, story(calls(4, "a", gotRefusing, BreakerClosed), call("a", gotLimited, BreakerClosed), call("a", gotRefusing, BreakerOpen)), WordUnreachable},
		{"somebody else answers all", false, story(call("a", gotForeign, BreakerClosed), call("b", gotForeign, BreakerClosed), calls(2, "a", gotForeign, BreakerClosed), call("a", gotForeign, BreakerOpen)), WordUnreachable},
		{"what could not be sent tells nothing", false, story(calls(4, "a", gotRefusing, BreakerClosed), call("a", gotUnsent, BreakerClosed), call("a", gotRefusing, BreakerOpen)), WordUnreachable},
		{"nor while it tries: another is tried", false, story(call("a", gotDenied, BreakerOpen), then("good", BreakerTrying), calls(2, "a", gotUnsent, BreakerTrying), call("a", gotDenied, BreakerOpen)), WordUnauthorized},
		{"nor while it chooses", false, story(calls(4, "a", gotFailing, BreakerClosed), call("a", gotFailing, BreakerChoosing), call("b", gotUnsent, BreakerChoosing), call("b", gotTimeout, BreakerOpen)), WordUnreachable},
		{"nor is it the call that had to show that all is well", false, story(call("a", gotDenied, BreakerOpen), then("good", BreakerTrying), then("nothing", BreakerClosed), call("a", gotUnsent, BreakerClosed), call("a", gotRefusing, BreakerOpen)), WordUnreachable},
		{"500 of two tenants", false, story(call("b", gotFailing, BreakerClosed), calls(3, "a", gotFailing, BreakerClosed), call("a", gotFailing, BreakerOpen)), WordUnreachable},
		{"500 of one, and nobody else's is due", false, story(calls(4, "a", gotFailing, BreakerClosed), call("a", gotFailing, BreakerChoosing), then("nothing", BreakerOpen)), WordUnreachable},
		{"500 of one, another's fails too", false, story(calls(4, "a", gotFailing, BreakerClosed), calls(2, "a", gotFailing, BreakerChoosing), call("b", gotTimeout, BreakerOpen)), WordUnreachable},
		{"500 of one, another's is created", false, story(calls(4, "a", gotFailing, BreakerClosed), call("a", gotFailing, BreakerChoosing), call("b", gotCreated, BreakerClosed), calls(200, "a", gotFailing, BreakerClosed)), ""},
		{"timeouts of one, another's is created", false, story(calls(4, "a", gotTimeout, BreakerClosed), call("a", gotTimeout, BreakerChoosing), call("b", gotRejected, BreakerClosed), calls(200, "a", gotTimeout, BreakerClosed)), ""},
		{"then others' fail too", false, story(calls(4, "a", gotFailing, BreakerClosed), call("a", gotFailing, BreakerChoosing), call("b", gotCreated, BreakerClosed), calls(9, "a", gotFailing, BreakerClosed),
			calls(4, "b", gotFailing, BreakerClosed), call("b", gotFailing, BreakerChoosing), call("a", gotFailing, BreakerOpen)), WordUnreachable},
		{"an excuse lasts while others' are answered", false, story(calls(4, "a", gotFailing, BreakerClosed), call("a", gotFailing, BreakerChoosing), call("b", gotCreated, BreakerClosed),
			then("9s", BreakerClosed), call("b", gotCreated, BreakerClosed), then("9s", BreakerClosed), calls(9, "a", gotFailing, BreakerClosed), then("2s", BreakerClosed), calls(4, "a", gotFailing, BreakerClosed), call("a", gotFailing, BreakerChoosing)), ""},
		{"an excused tenant that has no connection", false, story(calls(4, "a", gotFailing, BreakerClosed), call("a", gotFailing, BreakerChoosing), call("b", gotCreated, BreakerClosed), calls(4, "a", gotRefusing, BreakerClosed), call("a", gotRefusing, BreakerOpen)), WordUnreachable},
		{"403 of one tenant", false, story(calls(200, "a", gotForbidden, BreakerClosed)), ""},
		{"403 of two", false, story(call("b", gotForbidden, BreakerClosed), call("a", gotForbidden, BreakerClosed), call("a", gotForbidden, BreakerOpen)), WordUnauthorized},
		{"403 of many of one, then of another", false, story(calls(50, "a", gotForbidden, BreakerClosed), call("b", gotForbidden, BreakerOpen)), WordUnauthorized},
		{"an answer between 403s", false, story(call("b", gotForbidden, BreakerClosed), call("b", gotForbidden, BreakerClosed), call("b", gotCreated, BreakerClosed), call("a", gotForbidden, BreakerClosed)), ""},
		{"403s that a read contradicts", false, story(call("b", gotForbidden, BreakerClosed), calls(1, "a", gotForbidden, BreakerClosed), call("a", gotForbidden, BreakerOpen), then("good", BreakerTrying),
			call("a", gotForbidden, BreakerClosed), calls(20, "a", gotForbidden, BreakerClosed), calls(20, "b", gotForbidden, BreakerClosed), then("50s", BreakerClosed), calls(20, "c", gotForbidden, BreakerClosed)), ""},
		{"a minute later they may be everybody's", false, story(call("b", gotForbidden, BreakerClosed), call("b", gotForbidden, BreakerClosed), call("a", gotForbidden, BreakerOpen), then("good", BreakerTrying),
			call("a", gotForbidden, BreakerClosed), then("61s", BreakerClosed), call("b", gotForbidden, BreakerClosed), call("b", gotForbidden, BreakerClosed), call("a", gotForbidden, BreakerOpen)), WordUnauthorized},
		{"it stays stopped while reads fail", false, story(call("a", gotDenied, BreakerOpen), then("bad", BreakerOpen), then("bad", BreakerOpen)), WordUnauthorized},
		{"it goes on", false, story(call("a", gotDenied, BreakerOpen), then("bad", BreakerOpen), then("good", BreakerTrying), call("a", gotCreated, BreakerClosed), calls(4, "a", gotFailing, BreakerClosed)), ""},
		{"reads succeed and creates fail", false, story(calls(4, "a", gotFailing, BreakerClosed), call("a", gotFailing, BreakerChoosing), then("nothing", BreakerOpen),
			then("good", BreakerTrying), then("nothing", BreakerTrying), call("a", gotFailing, BreakerOpen), then("good", BreakerTrying), call("b", gotFailing, BreakerOpen)), WordFailing},
		{"and then no connection", false, story(call("a", gotDenied, BreakerOpen), then("good", BreakerTrying), call("a", gotRefusing, BreakerOpen)), WordUnreachable},
		{"and then a 401", false, story(call("a", gotDenied, BreakerOpen), then("good", BreakerTrying), call("a", gotDenied, BreakerOpen)), WordUnauthorized},
		{"and then reads fail", false, story(call("a", gotDenied, BreakerOpen), then("good", BreakerTrying), call("a", gotTimeout, BreakerOpen), then("bad", BreakerOpen)), WordUnauthorized},
		{"nothing is due", false, story(call("a", gotDenied, BreakerOpen), then("good", BreakerTrying), then("nothing", BreakerClosed)), ""},
		{"nothing was due: the first that fails stops it", false, story(calls(4, "a", gotRefusing, BreakerClosed), call("a", gotRefusing, BreakerOpen), then("good", BreakerTrying), then("nothing", BreakerTrying), then("nothing", BreakerClosed), call("a", gotRefusing, BreakerOpen)), WordUnreachable},
		{"the gate is shut", false, story(call("a", gotDenied, BreakerOpen), then("good", BreakerTrying), then("shut", BreakerClosed)), ""},
		{"calls from before it stopped", false, story(call("a", gotDenied, BreakerOpen), calls(3, "a", gotCreated, BreakerOpen), call("a", gotFailing, BreakerOpen)), WordUnauthorized},
		{"a call from before it tries", false, story(call("a", gotDenied, BreakerOpen), then("good", BreakerTrying), call("a", flex.Outcome{Took: time.Minute, HTTPStatus: 500}, BreakerTrying),
			call("a", flex.Outcome{Took: time.Minute, Kind: flex.Created}, BreakerTrying)), WordFailing},
		{"a claim fails while it chooses", false, story(calls(4, "a", gotFailing, BreakerClosed), call("a", gotFailing, BreakerChoosing), then("unclaimed", BreakerOpen)), WordUnreachable},
		{"claims fail while it tries", false, story(calls(4, "a", gotFailing, BreakerClosed), call("a", gotFailing, BreakerChoosing), then("unclaimed", BreakerOpen),
			then("good", BreakerTrying), then("unclaimed", BreakerTrying), then("unclaimed", BreakerOpen), then("good", BreakerTrying), call("a", gotCreated, BreakerClosed)), ""},
		{"a 429 to a read is an answer", false, story(call("a", gotDenied, BreakerOpen), then("limited", BreakerTrying), call("a", gotLimited, BreakerTrying), then("shut", BreakerClosed)), ""},
		{"a 429 to a read that is not Flex's", false, story(call("a", gotDenied, BreakerOpen), then("busy", BreakerOpen)), WordUnreachable},
		{"a 5xx to a read", false, story(call("a", gotDenied, BreakerOpen), then("failing", BreakerOpen)), WordUnreachable},
		{"a good call from before it chooses", false, story(calls(4, "a", gotFailing, BreakerClosed), call("a", gotFailing, BreakerChoosing), call("b", flex.Outcome{Took: time.Minute, Kind: flex.Created}, BreakerChoosing)), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := Breaker{PeerStopped: func() bool { return tt.peerStopped }}
			now := time.Now()
			for i, h := range tt.story {
				now = now.Add(time.Millisecond)
				switch h.what {
				case "":
					b.Observe(callFor(h.tenant, i), h.o, now)
				case "good":
					b.Asked(flex.Outcome{Kind: flex.Rejected}, now)
				case "bad":
					b.Asked(gotDenied, now)
				case "limited":
					b.Asked(gotLimited, now)
				case "busy":
					b.Asked(flex.Outcome{HTTPStatus: 429, Message: "<html>"}, now)
				case "failing":
					b.Asked(gotFailing, now)
				case "unclaimed":
					b.ClaimFailed(now)
				case "nothing":
					b.NothingDue(now)
				case "shut":
					b.GateShut(now)
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
			word, reason, stopped := b.Stopped()
			if why := b.Failing(); why != "" && !stopped {
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
	var b Breaker
	now := time.Now()
	if _, stopped := b.AsksIn(now); stopped {
		t.Error("a replica asks that is not stopped")
	}
	b.Observe(callFor("a", 1), gotDenied, now)
	for range 100 {
		if in, stopped := b.AsksIn(now); !stopped || in != 0 {
			t.Fatalf("asks in %v, %t", in, stopped)
		}
		b.Asked(gotDenied, now)
		in, _ := b.AsksIn(now)
		if in < 3*AskEvery/4 || in > 5*AskEvery/4 {
			t.Fatalf("it asks again in %v", in)
		}
		now = now.Add(in)
	}
	b.Asked(flex.Outcome{Kind: flex.Rejected}, now)
	b.Observe(callFor("a", 2), gotDenied, now)
	if in, stopped := b.AsksIn(now); !stopped || in < 3*AskEvery/4 {
		t.Errorf("stopped again it asks in %v, %t", in, stopped)
	}
}
