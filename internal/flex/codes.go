package flex

// A Code is what one of Twilio's error codes means when it comes as the answer to a create call, and what a person
// can do about it. The zero Code is none that is known.
type Code struct {
	Kind   Kind   // what the code says of the interaction, in a 4xx that shows that it is Twilio's
	Cause  string // a sentence
	Remedy string // a sentence; of an uncertain code it never says that anything is to be sent
	// warning: Twilio puts it into its own log, or into the state of a channel. As an answer it proves nothing of who
	// answers.
	warning bool
}

// CodeOf says what one of Twilio's codes means; false: nothing is known of it.
func CodeOf(code int) (Code, bool) {
	c, known := codes[code]
	return c, known
}

// What is to be done about codes that differ in their cause alone.
const (
	waitsForRate   = "Nothing has to be done: the worker goes on more slowly by itself; where it lasts, lower FLEX_RATE or look for other clients of the account."
	secret         = "Put the account sid and its token, or the API key and its secret, right: the worker asks every two seconds and goes on by itself."
	accountOwner   = "Look at the account in Twilio's Console, or ask Twilio's support to open it: the worker asks every two seconds and goes on by itself."
	wrongRequest   = "Twilio's message names what is wrong: publish the corrected request under a new request_id."
	wrongSID       = "Compare the sids in the request with those of the account that the worker uses: publish the corrected request under a new request_id."
	lookedForFirst = "Nothing has to be done: the worker looks for the interaction, which may exist; where many requests meet this, see status.twilio.com, and give Twilio's support the Twilio-Request-Id."
)

// codes are Twilio's codes for its API as a whole and for Flex's interactions, by https://www.twilio.com/docs/api/errors
// and a code. No page was found of 20004, 20005, 20006, 20008, 20409, 20413, 20422, 45001, 45006, 45007, 45350, 45351,
// 45369, 45370, 45377 and 45771: of these no more is said than with what they stand together. Which of them comes with
// which HTTP status is not documented.
var codes = map[int]Code{
	// Not processed: too many calls at once, or too fast.
	20429: {Kind: Refused, Cause: "The account has too many calls to Twilio's API under way; Twilio has not processed this one.", Remedy: waitsForRate},
	45010: {Kind: Refused, Cause: "Flex gets more calls than the account's limit allows.", Remedy: waitsForRate},
	45780: {Kind: Refused, Cause: "The account makes more calls to Flex at once than it may.", Remedy: waitsForRate},

	// Credentials, account, permissions.
	20003: {Kind: Blocked, Cause: "Twilio does not take the credentials: they are wrong, deleted, of another account or region, or something in between has removed them.", Remedy: secret},
	20005: {Kind: Blocked, Cause: "The account is not active.", Remedy: accountOwner},
	20006: {Kind: Blocked, Cause: "The account, or its credentials, may not make this call.", Remedy: accountOwner},
	20008: {Kind: Blocked, Cause: "The credentials are test credentials, which Flex does not take.", Remedy: secret},
	20101: {Kind: Blocked, Cause: "Twilio cannot validate the access token that came with the call.", Remedy: secret},
	20403: {Kind: Blocked, Cause: "The account may not use Twilio's API: mostly it is suspended or closed.", Remedy: accountOwner},
	45002: {Kind: Blocked, Cause: "Flex got no credentials, or wrong ones.", Remedy: secret},
	45003: {Kind: Blocked, Cause: "Flex does not let these credentials use what the request names.", Remedy: "Give the credentials the right to it, or correct the sid that names it: until then such requests are tried again by themselves."},
	45377: {Kind: Blocked, Cause: "The account, or its credentials, may not make this call.", Remedy: accountOwner},

	// Twilio's own trouble, half-way perhaps, also where its page says to retry.
	20500: {Kind: Uncertain, Cause: "Twilio failed, or timed out, while it worked on the call, which may have been carried out.", Remedy: lookedForFirst},
	20503: {Kind: Uncertain, Cause: "The service was unavailable for the moment; the call may have been carried out.", Remedy: lookedForFirst},
	45001: {Kind: Uncertain, Cause: "Flex failed; the call may have been carried out.", Remedy: lookedForFirst},
	45005: {Kind: Uncertain, Cause: "Flex, or a service that it needs, did not answer in time.", Remedy: lookedForFirst},
	45350: {Kind: Uncertain, Cause: "Flex failed at the channel, which may exist.", Remedy: lookedForFirst},
	45352: {Kind: Uncertain, Cause: "Flex could not create the conversation, since Twilio's Conversations service failed.", Remedy: lookedForFirst},
	45356: {Kind: Uncertain, Cause: "Flex could not read the conversation of the channel, since Twilio's Conversations service failed.", Remedy: lookedForFirst},
	45357: {Kind: Uncertain, Cause: "Flex could not read the participants of the conversation, since Twilio's Conversations service failed.", Remedy: lookedForFirst},
	45369: {Kind: Uncertain, Cause: "Flex failed at the channel, which may exist.", Remedy: lookedForFirst},
	45370: {Kind: Uncertain, Cause: "Flex failed at the channel, which may exist.", Remedy: lookedForFirst},
	45372: {Kind: Uncertain, Cause: "Flex failed inside while it put a participant into the channel, which may exist without them.", Remedy: lookedForFirst},
	45381: {Kind: Uncertain, Cause: "Flex could not make the channel active, since Twilio's Conversations service failed.", Remedy: lookedForFirst},
	45701: {Kind: Uncertain, Cause: "Flex's web chat was unavailable while it worked on the call.", Remedy: lookedForFirst},
	45770: {Kind: Uncertain, Cause: "A service behind Flex failed while Flex created the channel.", Remedy: lookedForFirst},
	45771: {Kind: Uncertain, Cause: "Flex failed at the channel, which may exist.", Remedy: lookedForFirst},

	// Refused for good.
	20001: {Kind: Rejected, Cause: "A parameter is unknown to Twilio, or its value is wrong.", Remedy: wrongRequest},
	20004: {Kind: Rejected, Cause: "Twilio does not take such a call.", Remedy: wrongRequest},
	20404: {Kind: Rejected, Cause: "What the request names does not exist in this account.", Remedy: wrongSID},
	20409: {Kind: Rejected, Cause: "The request conflicts with what exists already.", Remedy: wrongRequest},
	20413: {Kind: Rejected, Cause: "The request is too large.", Remedy: "Leave out of the request what the desk does not need, and publish the smaller one under a new request_id."},
	20422: {Kind: Rejected, Cause: "A value in the request is not allowed.", Remedy: wrongRequest},
	45004: {Kind: Rejected, Cause: "The content of the request does not pass Flex's validation.", Remedy: wrongRequest},
	45006: {Kind: Rejected, Cause: "What the request names does not exist in this account.", Remedy: wrongSID},
	45007: {Kind: Rejected, Cause: "The request conflicts with what exists already.", Remedy: wrongRequest},
	45008: {Kind: Rejected, Cause: "Flex understood the request and cannot do it: a value, the state of what it names, or something that has to be set up first is in the way.", Remedy: wrongRequest},
	45009: {Kind: Rejected, Cause: "A part of Flex is not configured as it should be.", Remedy: "Check Flex's configuration in Twilio's Console; when it is right, worker retry sends what was rejected."},
	45103: {Kind: Rejected, Cause: "Flex's configuration has no workspace.", Remedy: "Set the workspace in Flex's configuration; then worker retry sends what was rejected."},
	45351: {Kind: Rejected, Cause: "Flex refuses to create the channel.", Remedy: wrongRequest},
	45354: {Kind: Rejected, Cause: "The conversation that the request names is closed, so it gets no channel.", Remedy: "Begin a new conversation, and publish a request for that under a new request_id."},
	45355: {Kind: Rejected, Cause: "The conversation that the request names has no participant.", Remedy: "Close that conversation, begin a new one with the customer in it, and publish a request for that under a new request_id."},
	45366: {Kind: Rejected, Cause: "Parameters of the channel are missing or invalid.", Remedy: wrongRequest},

	// Warnings of Twilio that are no answers to a create call: a channel, or Twilio's log, has them.
	45353: {Kind: Rejected, warning: true, Cause: "The conversation has a channel already, so Twilio dropped a second request for one.", Remedy: "Nothing has to be done: Twilio keeps the first channel."},
	50416: {Kind: Rejected, warning: true, Cause: "The customer's address and the business's address are together in another conversation that is not closed.", Remedy: "Close that conversation, or take the customer out of it."},
	80102: {Kind: Rejected, warning: true, Cause: "The customer is in another interaction already, so the task may have nobody in its conversation.", Remedy: "Look in Flex for the customer's other conversation, and close the one that is not needed."},
	80906: {Kind: Rejected, warning: true, Cause: "The interaction was closed already.", Remedy: "Nothing has to be done: it is closed."},
}
