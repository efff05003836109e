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
}

var causes = map[gate.Word]cause{
	gate.WordOK:       {"good", "It takes messages and sends requests.", "", ""},
	gate.WordLimited:  {"good", "The fleet's rate is used up for the moment.", "Requests go on at that rate.", "Where the backlog grows, raise the rate: worker rate N --why ..."},
	gate.WordFailing:  {"bad", "It makes calls, and none has succeeded for a minute, or TaskRouter cannot be asked.", "Calls go on.", "See what fails below, and status.twilio.com. Where Flex does not answer in time, set a longer FLEX_TIMEOUT for all workers."},
	gate.WordPaused:   {"warn", "Flex answered 429 with Retry-After: the whole fleet waits.", "Requests go on after that time.", ""},
	gate.WordHeld:     {"bad", "A person holds the fleet.", "It does not open by itself.", "Ask who held it whether the reason is still true. Then release it."},
	gate.WordDatabase: {"bad", "Postgres does not answer, can only read, lacks the schema, or does not do what it is asked to write.", "No message is taken: messages wait in the stream. What is known is kept in memory, and recorded when Postgres is back.", "Bring Postgres back. Where a session holds a lock, it is named below: ask its owner, or end it."},
	gate.WordNATS:     {"bad", "NATS does not answer, refuses a subject, or a stream is missing.", "What is stored is sent; results wait in the table.", "Bring NATS or the stream back. The reason names it."},
	gate.WordDraining: {"warn", "It was told to stop.", "Its attempts in flight finish.", ""},
	gate.WordUnauthorized: {"bad", "Flex refuses its credentials or its account.", "It stops alone, no request loses an attempt, and it asks every two seconds whether it can go on.",
		"Put the secret right: the file that TWILIO_AUTH_TOKEN_FILE or TWILIO_API_SECRET_FILE names is read again without a restart."},
	gate.WordUnreachable: {"bad", "It has no way to Flex.", "It stops alone, and asks every two seconds whether it can go on. The other replicas take its messages.",
		"See status.twilio.com, and FLEX_URL, proxy and network of that replica."},
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
