package page

import (
	"flexworker/internal/outbox/gate"
	"flexworker/internal/outbox/request"
)

// means says of each state what it means, for who sees it for the first time.
var means = map[request.State]string{
	request.Pending:   "waits until it is due and a worker may send it",
	request.Sending:   "a call to Flex may be under way",
	request.Uncertain: "may exist in Flex: a lookup finds out, or a person decides",
	request.Created:   "exists in Flex",
	request.Rejected:  "Flex, or the check before it, will never take it",
	request.Abandoned: "given up: its attempts are used up",
	request.Expired:   "its deadline passed before it was sent",
	request.Cancelled: "a person stopped it",
	"unpublished":     "settled; its result is not yet on the result stream",
}

// A cause is what a word of a replica means, what happens by itself, and what a person does about it.
type cause struct {
	Tone  string // good, warn or bad
	Means string
	Then  string // what happens by itself
	Do    string // "": nothing
	All   string // what is said first where all replicas fare so; "": they still send
}

var causes = map[gate.Word]cause{
	gate.WordOK:      {Tone: "good", Means: "It takes messages and sends requests."},
	gate.WordLimited: {Tone: "good", Means: "The fleet's rate is used up for the moment.", Then: "Requests go on at that rate.", Do: "Where the backlog grows, raise the rate: worker rate N --why ..."},
	gate.WordFailing: {Tone: "bad", Means: "Calls are made, and none has succeeded for a minute, or TaskRouter cannot be asked.", Then: "Calls go on.",
		Do: "See below what fails and what is uncertain, and status.twilio.com. Where Flex does not answer in time, set a longer FLEX_TIMEOUT for all workers.", All: "no call to Flex succeeds"},
	gate.WordPaused: {Tone: "warn", Means: "Flex answered 429 with Retry-After: the whole fleet waits.", Then: "Requests go on after that time."},
	gate.WordHeld:   {Tone: "bad", Means: "A person holds the fleet.", Then: "It does not open by itself.", Do: "Ask who held it whether the reason is still true. Then release it."},
	gate.WordDatabase: {Tone: "bad", Means: "Postgres does not answer, can only read, lacks the schema, or does not do what it is asked to write.",
		Then: "No message is taken: messages wait in the stream. What is known is kept in memory, and recorded when Postgres is back.",
		Do:   "Bring Postgres back. Where a session holds a lock, it is named below: ask its owner, or end it.", All: "Postgres does not answer, or cannot be written to"},
	gate.WordNATS: {Tone: "bad", Means: "NATS does not answer, refuses a subject, or a stream is missing.", Then: "What is stored is sent; results wait in the table.",
		Do: "Bring NATS or the stream back. The reason names it.", All: "NATS does not answer, or a stream is missing"},
	gate.WordDraining: {Tone: "warn", Means: "Told to stop.", Then: "The attempts in flight finish.", All: "all replicas are stopping"},
	gate.WordUnauthorized: {Tone: "bad", Means: "Flex refuses the credentials or the account.",
		Then: "No request loses an attempt. Flex is asked every two seconds, and sending goes on by itself once it accepts them.",
		Do:   "Put the secret right: the file that TWILIO_AUTH_TOKEN_FILE or TWILIO_API_SECRET_FILE names is read again without a restart.", All: "Flex refuses the credentials of all replicas"},
	gate.WordUnreachable: {Tone: "bad", Means: "There is no way to Flex.", Then: "No request loses an attempt. Flex is asked every two seconds, and sending goes on by itself once it answers.",
		Do: "See status.twilio.com. Where Twilio reports nothing, look from the replicas that are named here: FLEX_URL, the proxy, DNS and the network.", All: "no replica reaches Flex"},
}

// gateWord is the gate in a word, as it stands on every screen.
type gateWord struct{ Tone, Text string }

func (m *moment) word() gateWord {
	if m.gateErr() != nil {
		return gateWord{"bad", "gate: cannot be read"}
	}
	switch m.now.Gate.State {
	case gate.Held:
		return gateWord{"bad", "gate: held"}
	case gate.Paused:
		return gateWord{"warn", "gate: paused"}
	default:
		return gateWord{"good", "gate: open"}
	}
}

// deeds are the acts by their names, as buttons say them.
var deeds = map[string]string{
	"retry":     "Retry",
	"cancel":    "Cancel",
	"lookup":    "Look it up now",
	"republish": "Publish its result again",
}

// comesOf is what comes of some of them, where what the request becomes would say no more than the button.
var comesOf = map[string]string{
	"lookup":    "TaskRouter is asked within seconds whether an attempt created it, not only when its next lookup is due. Nothing is sent by that.",
	"republish": "Its sender gets the same result once more, under the same message id. Where the result stream still remembers that id, it drops the message. Nothing is sent to Flex.",
}
