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
// The body must have that form: status, the same as the answer's, and message. So much
// many programs write, so one of three things has to come with it:
//
//   - more_info, which leads to Twilio's page about the code; further fields may stand there;
//   - a code of the families with which Flex answers, 20xxx and 45xxx;
//   - a header of Twilio's; code and more_info, which may be missing, then may both be.
//
// Without more_info the body must have no further field: "status" and "message" stand in
// Spring's errors too, beside "timestamp" and "path". A header alone proves nothing: a
// proxy that puts its own status and page in place of Twilio's often leaves the headers as
// they came. Nor does a body that was cut.
// https://www.twilio.com/docs/usage/twilios-response
func (a answer) fromTwilio() (code int, proved bool) {
	if !a.whole || !isObject(a.body) {
		return 0, false
	}
	var status, message, foreign bool
	var codeText, page string
	var room [8]rawjson.Pair
	for _, field := range rawjson.AppendMembers(room[:0], a.body) {
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
	case !status || !message || code == 0 && codeText != "":
	case page != "":
		on := pageForm.FindStringSubmatch(page)
		proved = on != nil && on[1] == codeText
	case !foreign:
		proved = code/1000 == 20 || code/1000 == 45 || hasTwilioHeader(a.header)
	}
	if !proved {
		code = 0
	}
	return code, proved
}

var (
	codeForm = regexp.MustCompile(`^[1-9][0-9]{4}$`)
	pageForm = regexp.MustCompile(`^"https?://(?:www\.)?twilio\.com/(?:docs/)?(?:api/)?errors/([0-9]{5})"$`)
)

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
