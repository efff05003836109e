package flex

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"flexworker/internal/rawjson"
)

var userInfo = regexp.MustCompile(`://[^/@\s]+@`)

const (
	maxMessage = 500 // bytes of a message, a more_info, a request id
	maxExcerpt = 200 // bytes of a body that is no Twilio error
)

// outcome judges an answer to a call that began at began.
func (a answer) outcome(began time.Time) Outcome {
	now := time.Now()
	o := Outcome{HTTPStatus: a.status, Unreached: a.unreached, Took: now.Sub(began)}
	sid, fit := "", a.whole && len(rawjson.Check(a.body)) == 0
	if o.Answered = 200 <= a.status && a.status < 300; o.Answered {
		sid = a.sid(fit)
		o.FromTwilio = sid != "" || hasTwilioHeader(a.header)
	} else if o.TwilioCode, o.FromTwilio = a.fromTwilio(); o.FromTwilio {
		message := textAt(a.body, "message")
		if o.UnknownPath = unknownPath(a.status, o.TwilioCode, message); o.UnknownPath {
			message = wrongAddress + ": " + message
		}
		o.Message = a.clean(message, maxMessage)
	}
	o.Kind = classify(facts{a.unreached, a.locked, a.status, o.TwilioCode, o.FromTwilio, sid != "", o.UnknownPath})
	o.Limited = o.Kind == Refused && a.status != 0
	o.RequestID = a.clean(a.header.Get("Twilio-Request-Id"), maxMessage)
	o.RetryAfter = retryAfter(a.header.Get("Retry-After"), now)
	o.Response = a.response(fit)
	if o.Kind == Created {
		o.InteractionSID = sid
		o.TaskSID, o.AssignmentStatus = taskOf(a.body)
		return o
	}
	o.ErrorKind = a.errorKind()
	if o.Message == "" {
		o.Message = a.message()
	}
	return o
}

// sid is the interaction's sid in a 2xx body, or "". A body that was cut, or cut
// off, still names it when the sid stands before the cut: then the interaction is
// known to exist, and asking for it would be waste. A whole body must be JSON, which
// one that is fit is.
func (a answer) sid(fit bool) string {
	if a.whole && !fit && !json.Valid(a.body) {
		return ""
	}
	sid := textAt(a.body, "sid")
	if !interactionSID.MatchString(sid) {
		return ""
	}
	return sid
}

// taskOf reads the task out of a 2xx body; all of it is optional.
func taskOf(body []byte) (sid, status string) {
	if sid = textAt(body, "routing", "properties", "sid"); !taskSID.MatchString(sid) {
		sid = ""
	}
	if status = textAt(body, "routing", "properties", "assignment_status"); len(status) > 64 {
		status = ""
	}
	return sid, status
}

// response is the body if it may be stored: whole, fit for Postgres's json, and
// without our password in it.
func (a answer) response(fit bool) json.RawMessage {
	if !fit {
		return nil
	}
	for _, secret := range a.secrets {
		if bytes.Contains(a.body, secret) {
			return nil
		}
	}
	return a.body
}

// errorKind is one word for what is not Created.
func (a answer) errorKind() string {
	switch {
	case a.status == 0:
		return a.broken
	case a.status < 200 || a.status >= 300:
		return "http_" + strconv.Itoa(a.status)
	case a.broken != "":
		return a.broken
	case !json.Valid(a.body) && len(a.body) > 0:
		return "body_not_json"
	default:
		return "no_sid"
	}
}

const (
	// notShown is why a 4xx proves nothing.
	notShown = "the answer does not show that it is Twilio's"
	// wrongAddress is what a person has to mend.
	wrongAddress = "FLEX_URL leads to a path that Twilio does not know"
)

// message says what went wrong where Twilio did not.
func (a answer) message() string {
	switch {
	case a.status/100 == 3:
		return a.clean("redirected to "+originOf(a.header.Get("Location"))+", which is not followed", maxMessage)
	case a.err != nil:
		return a.clean(a.err.Error(), maxMessage)
	case a.status/100 == 2 && isObject(a.body): // whose data should not go to a log
		return "the answer names no interaction"
	case a.status/100 == 4 && len(a.body) > 0:
		return a.clean(notShown+": "+string(a.body), maxExcerpt)
	case a.status/100 == 4:
		return notShown + ": " + http.StatusText(a.status)
	case len(a.body) > 0:
		return a.clean(string(a.body), maxExcerpt)
	case a.status/100 == 2:
		return "the answer is empty"
	default:
		return http.StatusText(a.status)
	}
}

// originOf is scheme and host of an address; the rest may hold a secret.
func originOf(address string) string {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" {
		return "another path"
	}
	return u.Scheme + "://" + u.Host
}

// clean is text without secrets, in printable characters and at most limit bytes.
func (a answer) clean(text string, limit int) string {
	for _, secret := range a.secrets { // before the cut, which could leave a part
		text = strings.ReplaceAll(text, string(secret), "[hidden]")
	}
	for _, path := range a.paths {
		text = strings.ReplaceAll(text, path, "/[hidden]")
	}
	if len(text) <= limit && isWord(text) {
		return text
	}
	if strings.Contains(text, "://") {
		text = userInfo.ReplaceAllString(text, "://[hidden]@") // a proxy's
	}
	text = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case r == utf8.RuneError, !unicode.IsPrint(r):
			return '?'
		}
		return r
	}, text)
	text = strings.Join(strings.Fields(text), " ")
	if len(text) <= limit {
		return text
	}
	for limit -= len("…"); !utf8.RuneStart(text[limit]); {
		limit--
	}
	return text[:limit] + "…"
}

// isWord tells whether text is one word of letters, digits and the like: nothing in
// it needs to be cleaned.
func isWord(text string) bool {
	for i := range len(text) {
		if c := text[i]; c <= ' ' || c >= 0x7f || c == ':' {
			return false
		}
	}
	return true
}

// textAt is the string at path in JSON text, or "" when there is none.
func textAt(text []byte, path ...string) string {
	raw, _ := rawjson.Member(text, path...)
	return textOf(raw)
}

// textOf is what the JSON string raw means, or "" when it is none.
func textOf(raw []byte) string {
	text, _ := rawjson.Text(raw)
	return string(text)
}
