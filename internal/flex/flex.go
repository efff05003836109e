// Package flex makes calls to Twilio and says what was learned from them.
//
// It promises two things. A call that creates, closes or reads one thing is at most
// one request on the wire; SearchTasks, Events, Channels and HasCustomer make several,
// each at most once. Nothing here repeats, follows or hides one, and nothing sleeps. And an Outcome
// never claims more than was seen: what is not known to be false may be true, so
// the zero Outcome is Uncertain.
//
// The Kind of an Outcome says what a create call told of its interaction: Created,
// Rejected for good, Refused or Blocked (surely not created, and another attempt may
// create it), or Uncertain. The outcome of a result is another thing: the word in its
// subject, as package outbox explains. docs/internals.md, "Where a change begins", lists
// what a new kind needs.
//
//	Create       makes one interaction
//	CloseChannel closes a channel, for a person: no other call changes anything
//	Channels     reads the channels of one interaction
//	HasCustomer  reads whether a customer is in one of these
//	Task         reads how far one task has come
//	Fetch        reads one interaction
//	Check        reads one that cannot exist: do our credentials and address work?
//	SearchTasks  asks TaskRouter for tasks by our lookup key   (presence)
//	Events       asks TaskRouter's log for the same            (and absence)
//	Setup        reads how Flex is set up in the account, for worker doctor
//	Workflows    reads which workflows a workspace has, likewise
//	Describe     reads channel and routing out of a stored answer
//
// Was anything sent? The transport tells it by its trace, added up over the whole
// call:
//
//	there are no credentials to send                 nothing left      Blocked
//	no connection was got (DNS, dial, TLS, proxy)    nothing left      Refused
//	the request's headers were not written           nothing left      Refused
//	they were written, and no status line was read   nobody can know   Uncertain
//	a status line was read                           classify          by its table
//
// Only an answer that shows that it is Twilio's proves a refusal (proof.go). Whoever
// stands between us and Flex can say 403, 404 or 429 as well, after he has passed the
// request on.
//
// What was given up cannot arrive later (giveup.go): the kernel keeps nothing of a call
// that has ended.
//
// What it leaves to others: whether and when to try again, how fast to go, what
// to store (package outbox), and what a valid request is (package consumer).
//
// Files: config.go the client and its transport, login.go its credentials, call.go one exchange
// on the wire, giveup.go its end, proxy.go the way, judge.go, proof.go, classify.go and codes.go
// what it means, read.go Fetch and Check, setup.go how Flex is set up, channels.go and customer.go
// how far an interaction's channels and its task have come, lookup.go, events.go and list.go
// TaskRouter, describe.go, key.go and sid.go the pure rest; outcome.go the kinds and all that a
// call tells, replica.go what an outcome says about this replica.
package flex

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"flexworker/internal/rawjson"
)

// Interaction is the wish for one interaction.
type Interaction struct {
	Channel, Routing json.RawMessage // sent as they are; Routing may be empty
	ContextSID       string          // InteractionContextSid; "": not sent
	WebhookTTID      string          // WebhookTtid; "": not sent

	// LookupKey goes into the task's attributes when the client has a
	// LookupAttribute and Routing names a workspace, where alone a task can be
	// looked for. "": it does not.
	LookupKey string
}

// Create asks Flex once for an interaction. The end of ctx cuts a call that has
// begun, which leaves it Uncertain: a caller who is to stop should rather wait.
func (c *Client) Create(ctx context.Context, in Interaction) Outcome {
	began := time.Now()
	form, err := c.form(in)
	if err != nil {
		return Outcome{Kind: Rejected, Unreached: true, ErrorKind: "request", Message: err.Error()}
	}
	a := c.exchange(ctx, http.MethodPost, c.flexURL+"/v1/Interactions", form, nil)
	o := a.outcome(began)
	if o.Kind != Created {
		return o
	}
	key := ""
	if c.lookupAttribute != "" && in.LookupKey != "" {
		key = KeyIn(o.Response, c.lookupAttribute)
	}
	switch o.Mine = key != "" && key == in.LookupKey; {
	case o.Mine:
		return o
	case key != "": // a cache on the way answers with what it has of another request
		return o.OfAnother("the answer names interaction " + o.InteractionSID + " of another request")
	case a.cached():
		return o.OfAnother("the answer, which names interaction " + o.InteractionSID + ", comes from a cache, and nothing in it shows that it is to this request")
	default:
		return o
	}
}

// form is the body of a create call.
func (c *Client) form(in Interaction) (string, error) {
	if len(in.Channel) == 0 {
		return "", errors.New("channel: is missing")
	}
	routing := in.Routing
	if string(routing) == "null" {
		routing = nil
	}
	if _, searchable := rawjson.Member(routing, "properties", "workspace_sid"); searchable &&
		c.lookupAttribute != "" && in.LookupKey != "" {
		var err error
		if routing, err = AddLookupKey(routing, c.lookupAttribute, in.LookupKey); err != nil {
			return "", fmt.Errorf("the lookup key cannot be added: %w", err)
		}
	}
	form := make([]byte, 0, 2*(len(in.Channel)+len(routing)+len(in.WebhookTTID))+128) // JSON nearly doubles
	form = appendField(form, "Channel", in.Channel)
	form = appendField(form, "InteractionContextSid", []byte(in.ContextSID))
	form = appendField(form, "Routing", routing)
	form = appendField(form, "WebhookTtid", []byte(in.WebhookTTID))
	return string(form), nil
}

// appendField appends one field to a form, unless it is empty, in the words of
// url.Values.Encode. That copies each value three times, and JSON is full of what
// has to be escaped.
func appendField(form []byte, name string, value []byte) []byte {
	if len(value) == 0 {
		return form
	}
	if len(form) > 0 {
		form = append(form, '&')
	}
	form = append(append(form, name...), '=')
	for _, c := range value {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c == '.', c == '~':
			form = append(form, c)
		case c == ' ':
			form = append(form, '+')
		default:
			form = append(form, '%', "0123456789ABCDEF"[c>>4], "0123456789ABCDEF"[c&15])
		}
	}
	return form
}
