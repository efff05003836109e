package flex

// suspended are the codes that concern the account whoever asks.
// https://www.twilio.com/docs/api/errors/20005
var suspended = map[int]bool{20003: true, 20005: true, 20006: true, 20008: true, 20101: true}

// MayBeOneTenants says whether a refusal may concern those alone who share something with
// this request, such as a workspace: a 403, or another 4xx with a code that says so.
// A 401 or a 407, a redirect, a path that Twilio does not know and missing credentials
// concern every call of this replica.
func MayBeOneTenants(o Outcome) bool {
	s := o.HTTPStatus
	return o.Kind == Blocked && 400 <= s && s < 500 && s != 401 && s != 407 && !suspended[o.TwilioCode] && !o.UnknownPath
}

// Unsendable says whether a request could not be sent for what is in it. Flex was not asked: such a
// call tells nothing of the way to Flex, nor of our credentials.
func Unsendable(o Outcome) bool { return o.Kind == Rejected && o.Unreached }

// Unanswered says whether a call brought nothing that Flex itself decided: Flex was
// not reached, or did not answer in time, or failed, or somebody else answered. A
// redirect is apart: one is enough to stop this replica.
func Unanswered(o Outcome) bool {
	return o.Kind == Refused && o.Unreached || o.Kind == Uncertain && !Redirected(o)
}

// Redirected says whether somebody sent this replica elsewhere. Flex does not: FLEX_URL, or
// who stands before Flex, is at fault. Whether the request was passed on before is not known.
func Redirected(o Outcome) bool { return o.HTTPStatus/100 == 3 }
