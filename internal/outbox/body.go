package outbox

import (
	"bytes"
	"encoding/json"
	"unicode/utf8"
)

// encode is the body of a message. json.Marshal would write <, > and & with six bytes
// each, so that a request which the stream took had a result that it does not take.
func encode(body any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(body); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// Limits of a reduced result, in bytes.
const (
	shortMessage = 500
	shortName    = 200 // of each text that Flex chose
)

// reduced is a result without what the sender can look up for himself, and with the
// beginning of what may be long: it has a few kilobytes whatever it was.
func reduced(body any) any {
	r, ok := body.(Result)
	if !ok {
		return body
	}
	r.Metadata = json.RawMessage(`"left out: the result would be larger than the stream takes"`)
	if r.Channel != nil {
		short := *r.Channel
		cutAll(shortName, &short.SID, &short.Type)
		r.Channel = &short
	}
	if r.Routing != nil {
		short := *r.Routing
		short.Reservation = nil
		cutAll(shortName, &short.AssignmentStatus, &short.WorkspaceSID, &short.WorkflowSID, &short.WorkflowName, &short.QueueSID, &short.QueueName,
			&short.TaskChannelSID, &short.TaskChannelUniqueName, &short.ConversationSID)
		r.Routing = &short
	}
	if r.Error != nil {
		short := *r.Error
		short.Faults = json.RawMessage("null")
		cutAll(shortMessage, &short.Message)
		if r.Error.MoreInfo != nil {
			info := *r.Error.MoreInfo
			cutAll(shortMessage, &info)
			short.MoreInfo = &info
		}
		r.Error = &short
	}
	return r
}

// cutAll leaves of each text at most so many bytes, and no half character.
func cutAll(most int, texts ...*string) {
	for _, s := range texts {
		end := most
		if len(*s) <= end {
			continue
		}
		for end > 0 && !utf8.RuneStart((*s)[end]) {
			end--
		}
		*s = (*s)[:end]
	}
}
