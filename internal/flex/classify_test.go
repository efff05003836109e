package flex

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestClassify(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		f    facts
		want Kind
	}{
		{facts{}, Uncertain},
		{facts{unreached: true}, Refused},
		{facts{unreached: true, locked: true}, Blocked},
		{facts{sid: true}, Uncertain},

		{facts{status: 200, sid: true}, Created}, {facts{status: 201, sid: true}, Created}, {facts{status: 299, sid: true}, Created},
		{facts{status: 200}, Uncertain}, {facts{status: 204}, Uncertain}, {facts{status: 200, code: 20429}, Uncertain},
		{facts{status: 100}, Uncertain}, {facts{status: 101, sid: true}, Uncertain}, {facts{status: 199}, Uncertain},
		{facts{status: 300}, Uncertain}, {facts{status: 302, sid: true}, Uncertain}, {facts{status: 307, twilio: true, code: 20003}, Uncertain}, {facts{status: 399}, Uncertain},

		{facts{twilio: true, status: 400}, Rejected}, {facts{twilio: true, status: 404}, Rejected}, {facts{twilio: true, status: 405}, Rejected}, {facts{twilio: true, status: 409}, Rejected},
		{facts{twilio: true, status: 413}, Rejected}, {facts{twilio: true, status: 415}, Rejected}, {facts{twilio: true, status: 422}, Rejected}, {facts{twilio: true, status: 499}, Rejected},
		{facts{twilio: true, status: 401}, Blocked}, {facts{twilio: true, status: 403}, Blocked}, {facts{twilio: true, status: 407}, Rejected},
		{facts{twilio: true, status: 408}, Uncertain}, {facts{twilio: true, status: 408, code: 20001}, Uncertain}, {facts{twilio: true, status: 408, code: 20429}, Uncertain},
		{facts{twilio: true, status: 429}, Refused}, {facts{twilio: true, status: 429, code: 20003}, Refused}, {facts{twilio: true, status: 429, code: 20500}, Refused},

		{facts{twilio: true, status: 400, code: 20003}, Blocked}, {facts{twilio: true, status: 404, code: 20403}, Blocked}, {facts{twilio: true, status: 400, code: 45377}, Blocked},
		{facts{twilio: true, status: 400, code: 20429}, Refused}, {facts{twilio: true, status: 403, code: 45780}, Refused}, {facts{twilio: true, status: 409, code: 45010}, Refused},
		{facts{twilio: true, status: 400, code: 45352}, Uncertain}, {facts{twilio: true, status: 404, code: 20500}, Uncertain}, {facts{twilio: true, status: 403, code: 45770}, Uncertain},
		{facts{twilio: true, status: 400, code: 45372}, Uncertain}, {facts{twilio: true, status: 409, code: 45381}, Uncertain},
		{facts{twilio: true, status: 400, code: 20001}, Rejected}, {facts{twilio: true, status: 404, code: 45103}, Rejected}, {facts{twilio: true, status: 400, code: 99999}, Rejected},

		{facts{twilio: true, status: 404, code: 20404, astray: true}, Blocked}, {facts{twilio: true, status: 405, code: 20004, astray: true}, Blocked},
		{facts{status: 404, astray: true}, Uncertain}, {facts{twilio: true, status: 500, astray: true}, Uncertain}, {facts{twilio: true, status: 429, astray: true}, Refused},

		// Whoever says it without showing that he is Twilio proves nothing.
		{facts{status: 400}, Uncertain}, {facts{status: 401}, Uncertain}, {facts{status: 403}, Uncertain}, {facts{status: 404}, Uncertain},
		{facts{status: 407}, Uncertain}, {facts{status: 422}, Uncertain}, {facts{status: 429}, Uncertain}, {facts{status: 499}, Uncertain},
		{facts{status: 403, code: 20003}, Uncertain}, {facts{status: 429, code: 20429}, Uncertain}, {facts{status: 404, sid: true}, Uncertain},

		{facts{status: 500}, Uncertain}, {facts{status: 502}, Uncertain}, {facts{status: 503, code: 20429}, Uncertain},
		{facts{status: 504, code: 20003}, Uncertain}, {facts{status: 500, sid: true}, Uncertain}, {facts{status: 599, code: 20001}, Uncertain},
		{facts{status: 600}, Uncertain}, {facts{status: 999}, Uncertain}, {facts{status: -1}, Uncertain},
	} {
		if got := classify(tt.f); got != tt.want {
			t.Errorf("%+v: %v, want %v", tt.f, got, tt.want)
		}
	}
}

func FuzzClassify(f *testing.F) {
	f.Add(false, false, 0, 0, false, false, false)
	f.Add(true, false, 400, 20429, true, true, false)
	f.Add(false, true, 503, 20003, true, true, true)
	f.Fuzz(func(t *testing.T, unreached, locked bool, status, code int, twilio, sid, astray bool) {
		in := facts{unreached, locked, status, code, twilio, sid, astray}
		kind := classify(in)
		limited := twilio && (status == 429 || status >= 400 && status < 500 && codes[code].Kind == Refused)
		ok := true
		switch {
		case in == facts{}, status >= 500:
			ok = kind == Uncertain
		case kind == Created:
			ok = status >= 200 && status < 300 && sid
		case kind == Refused:
			ok = status == 0 && unreached || limited
		case kind == Rejected:
			ok = twilio && status >= 400 && status < 500
		case kind == Blocked:
			ok = status == 0 && locked || twilio && status >= 400 && status < 500
		case status >= 200 && status < 300 && sid:
			ok = false
		}
		if !ok {
			t.Errorf("%+v: %v", in, kind)
		}
	})
}

func TestErrorAnswers(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		status  int
		headers map[string]string
		body    string
		want    Outcome
		stored  bool
	}{
		{"limited", 429, map[string]string{"Retry-After": "7", "Twilio-Request-Id": "RQ\t2"},
			`{"status":429,"message":"Too Many Requests","code":20429,"more_info":"https://www.twilio.com/docs/errors/20429"}`,
			Outcome{Kind: Refused, Limited: true, TwilioCode: 20429, Message: "Too Many Requests", RequestID: "RQ 2", RetryAfter: 7 * time.Second, FromTwilio: true}, true},
		{"no code, no more_info", 400, map[string]string{"Twilio-Request-Id": "RQ1"}, `{"status":400,"message":"bad"}`,
			Outcome{Message: notShown + `: {"status":400,"message":"bad"}`, RequestID: "RQ1"}, true},
		{"code as text", 400, nil, `{"code":"20003"}`, Outcome{Message: notShown + `: {"code":"20003"}`}, true},
		{"fields of other types", 422, nil, `{"code":[1],"message":{"a":1},"more_info":3}`,
			Outcome{Message: notShown + `: {"code":[1],"message":{"a":1},"more_info":3}`}, true},
		{"limited by code", 403, nil, `{"status":403,"code":45780,"message":"x"}`,
			Outcome{Kind: Refused, Limited: true, TwilioCode: 45780, Message: "x", FromTwilio: true}, true},
		{"limited by another", 429, map[string]string{"Retry-After": "7"}, "<html>slow down</html>",
			Outcome{Message: notShown + ": <html>slow down</html>", RetryAfter: 7 * time.Second}, false},
		{"HTML", 502, nil, "<html>\n<b>Bad\x00 Gateway</b>\r\n</html>", Outcome{Message: "<html> <b>Bad? Gateway</b> </html>"}, false},
		{"empty", 503, map[string]string{"Retry-After": "soon"}, "", Outcome{Message: "Service Unavailable"}, false},
		{"long", 500, nil, strings.Repeat("é", 300), Outcome{Message: strings.Repeat("é", 98) + "…"}, false},
		{"lone surrogate", 400, nil, `{"message":"\ud800","code":20001,"status":400}`, Outcome{Kind: Rejected, TwilioCode: 20001, Message: "?", FromTwilio: true}, false},
		{"a sid in an error", 500, nil, created, Outcome{Message: created[:197] + "…"}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				for k, v := range tt.headers {
					w.Header().Set(k, v)
				}
				w.WriteHeader(tt.status)
				io.WriteString(w, tt.body)
			})
			o := newClient(t, s.URL).Create(t.Context(), wish)
			if (string(o.Response) == tt.body) != tt.stored && tt.body != "" {
				t.Errorf("stored %q", o.Response)
			}
			o.Took, o.Response = 0, nil
			tt.want.HTTPStatus, tt.want.ErrorKind = tt.status, fmt.Sprintf("http_%d", tt.status)
			if fmt.Sprintf("%+v", o) != fmt.Sprintf("%+v", tt.want) {
				t.Errorf("\n got %+v\nwant %+v", o, tt.want)
			}
		})
	}
}

var someday = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	for header, want := range map[string]time.Duration{
		"": 0, "0": 0, "1": time.Second, " 30 ": 30 * time.Second, "3600": time.Hour, "3601": time.Hour, "99999999999999999999": time.Hour,
		"-5": 0, "1.5": 0, "soon": 0, "+5": 0, "5s": 0, "0x10": 0,
		"Sun, 22 Nov 2026 12:00:10 GMT": 10 * time.Second, "Sun, 22 Nov 2026 11:00:00 GMT": 0, "Sun, 22 Nov 2099 11:00:00 GMT": time.Hour,
		"Sunday, 22-Nov-26 12:01:00 GMT": time.Minute, "Sun Nov 22 12:00:02 2026": 2 * time.Second, "Fri, 31 Feb 2026 12:00:00 GMT": 0,
	} {
		if got := retryAfter(header, someday); got != want {
			t.Errorf("%q: %v, want %v", header, got, want)
		}
	}
}

func FuzzRetryAfter(f *testing.F) {
	f.Add("30", int64(0))
	f.Add("Sun, 22 Nov 2026 12:00:10 GMT", int64(1795305600))
	f.Fuzz(func(t *testing.T, header string, now int64) {
		if d := retryAfter(header, time.Unix(now, 0)); d < 0 || d > time.Hour {
			t.Errorf("%q: %v", header, d)
		}
		if seconds := now & 0xfff; retryAfter(fmt.Sprint(seconds), someday) != min(time.Duration(seconds)*time.Second, time.Hour) {
			t.Errorf("%d seconds", seconds)
		}
		wait := time.Duration(now&0xfff) * time.Second
		if got := retryAfter(someday.Add(wait).Format(http.TimeFormat), someday); got != min(wait, time.Hour) {
			t.Errorf("a date %v ahead: %v", wait, got)
		}
	})
}

func FuzzClean(f *testing.F) {
	const password = "very+secret/password" // one with a space could arise from another kind of it
	f.Add("abc\x00\xff a very+secret/password é", 20)
	f.Fuzz(func(t *testing.T, text string, limit int) {
		if limit < 10 || limit > 500 {
			return
		}
		got := answer{secrets: secretsOf(testUser, password)}.clean(text, limit)
		if len(got) > limit || !utf8.ValidString(got) || strings.Contains(got, password) || strings.ContainsAny(got, "\x00\n\r") {
			t.Errorf("%q, %d: %q", text, limit, got)
		}
	})
}
