package flex

import (
	"net/http"
	"regexp"
	"strconv"
	"strings"

	"flexworker/internal/rawjson"
)

// fromTwilio tells whether an answer that refused shows that it is Twilio's, and reads
// Twilio's code out of it; 0: it has none. Nothing else proves a refusal: a gateway, a
// proxy or another program at our address says 403, 404 and 429 as well, even after it
// has passed the request on.
//
//	{"status":404,"message":"…","code":20404,"more_info":"https://www.twilio.com/docs/errors/20404"}
//
// The body must have that form: status, the same as the answer's, message, and code. So
// much other programs may write too, so one of two things has to come with it:
//
//   - more_info, which leads to Twilio's page about that code; further fields may stand there;
//   - a code that Twilio documents for these calls, and no field besides "details".
//
// Twilio may leave code and more_info out. Such an answer costs a lookup; to believe it
// could cost a second interaction, as Spring and others write "status" and "message" as
// well. A header of Twilio's proves nothing: a proxy that puts its own status and page in
// place of Twilio's answer often leaves the headers as they came, and then the request did
// reach Twilio. Nor does a body that was cut, or that says a thing twice, or that a cache had
// from another call.
// https://www.twilio.com/docs/usage/twilios-response
func (a answer) fromTwilio() (code int, proved bool) {
	if !a.whole || a.cached() || !isObject(a.body) {
		return 0, false
	}
	var status, message, foreign, twice bool
	var codeText, page string
	seen := make(map[string]bool, 8)
	var room [8]rawjson.Pair
	for _, field := range rawjson.AppendMembers(room[:0], a.body) {
		twice = twice || seen[string(field.Key)]
		seen[string(field.Key)] = true
		if string(field.Value) == "null" {
			continue // as good as missing
		}
		switch string(field.Key) {
		case "status":
			status = string(field.Value) == strconv.Itoa(a.status)
		case "message":
			message = field.Value[0] == '"'
		case "code":
			codeText = string(field.Value)
		case "more_info":
			page = string(field.Value)
		case "details": // of the fault; Twilio's newer errors have it
		default:
			foreign = true
		}
	}
	if codeForm.MatchString(codeText) {
		code, _ = strconv.Atoi(codeText) // five digits
	}
	switch {
	case !status || !message || code == 0 || twice:
	case page != "":
		on := pageForm.FindStringSubmatch(page)
		proved = on != nil && on[1] == codeText
	case !foreign:
		proved = documented(code)
	}
	if !proved {
		code = 0
	}
	return code, proved
}

// documented tells whether Twilio documents a code as an answer of its API or of Flex's interactions.
func documented(code int) bool {
	c, known := codes[code]
	return known && !c.warning
}

// unknownPath tells whether Twilio, whose code and message these are, says that it does not
// know the path of a call, or not the method there. The path of the create call ends in
// /Interactions, and hosts of Twilio's leave the version out of it. A path that ends
// otherwise, and a sid, stand in the request's body, or name what a read asked for.
//
//	{"status":404,"code":20404,"message":"The requested resource /v1/v1/Interactions was not found",…}
//	{"status":405,"code":20004,"message":"Method not allowed",…}
func unknownPath(status, code int, message string) bool {
	switch {
	case status == http.StatusMethodNotAllowed:
		return code == 20004
	case status != http.StatusNotFound || code != 20404:
		return false
	}
	for word := range strings.FieldsSeq(message) {
		if strings.HasSuffix(strings.TrimRight(word, `/.,:;"'`), "/Interactions") {
			return true
		}
	}
	return false
}

var (
	codeForm = regexp.MustCompile(`^[1-9][0-9]{4}$`)
	pageForm = regexp.MustCompile(`^"https?://(?:www\.)?twilio\.com/(?:docs/)?(?:api/)?errors/([0-9]{5})"$`)
)

// cached tells whether an answer says that it was not made for this very call: a cache on the
// way had it from another one, whether or not it has passed this one on. Age says so by itself
// (RFC 9111, 5.1); other headers are those that caches have of their own. That somebody is on
// the way (Via) says nothing.
func (a answer) cached() bool {
	if len(a.header["Age"]) > 0 {
		return true
	}
	for _, name := range [...]string{"X-Cache", "X-Cache-Status", "Cf-Cache-Status", "Cache-Status"} {
		for _, value := range a.header[name] {
			if hit.MatchString(value) {
				return true
			}
		}
	}
	for _, value := range a.header["Warning"] {
		if strings.HasPrefix(value, "110 ") || strings.HasPrefix(value, "111 ") {
			return true
		}
	}
	return false
}

// hit is how a cache says that it had the answer: HIT, Hit from cloudfront, TCP_MEM_HIT, hit; ttl=3.
var hit = regexp.MustCompile(`(?i)\b\w*hit\b`)

// hasTwilioHeader tells whether an answer carries one of the headers that Twilio adds,
// such as Twilio-Request-Id.
func hasTwilioHeader(h http.Header) bool {
	for name, values := range h {
		if strings.HasPrefix(name, "Twilio-") && len(values) > 0 && values[0] != "" {
			return true
		}
	}
	return false
}
