package results

import (
	"bytes"
	"encoding/json"
	"fmt"
	"unicode/utf8"

	"flexworker/internal/outbox/request"
)

// Encode is the body of a message. json.Marshal would write <, > and & with six bytes
// each, so that a request which the stream took had a result that it does not take.
func Encode(body any) ([]byte, error) {
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
	shortMetadata = 512 // what senders know their requests by has room
	shortMessage  = 500
	shortFaults   = 1000
	ShortName     = 200 // of each text that Flex chose
)

// Reduced is a result without what the sender can look up for himself, and with the
// beginning of what may be long: it has a few kilobytes whatever it was. It says
// what was left out, or cut, so that nothing seems not to have been there.
func Reduced(r Result) Result {
	if len(r.Metadata) > shortMetadata {
		r.Metadata, r.MetadataLeftOut = JSONNull, true
	}
	if r.Channel != nil {
		short := *r.Channel
		cutAll(ShortName, &short.SID, &short.Type)
		r.Channel = &short
	}
	if r.Routing != nil {
		short := *r.Routing
		if len(short.Reservation) > ShortName {
			short.Reservation = nil // null
		}
		cutAll(ShortName, &short.AssignmentStatus, &short.WorkspaceSID, &short.WorkflowSID, &short.WorkflowName, &short.QueueSID, &short.QueueName,
			&short.TaskChannelSID, &short.TaskChannelUniqueName, &short.ConversationSID)
		r.Routing = &short
	}
	if r.Error != nil {
		short := *r.Error
		short.Message = Shorten(shortMessage, short.Message)
		short.Faults = fewer(short.Faults)
		cutAll(shortMessage, &short.MoreInfo)
		r.Error = &short
	}
	return r
}

// fewer are the first faults of many, and one that counts the others.
func fewer(faults json.RawMessage) json.RawMessage {
	var all []request.ShownFault
	if len(faults) <= shortFaults || json.Unmarshal(faults, &all) != nil {
		return faults
	}
	n, size := 0, 0
	for n < len(all) && size+len(all[n].Path)+len(all[n].Problem) <= shortFaults {
		size += len(all[n].Path) + len(all[n].Problem)
		n++
	}
	return request.FaultList(append(all[:n:n], request.ShownFault{Problem: fmt.Sprintf("and %d more, left out: the result would be larger than the stream takes", len(all)-n)}))
}

// cutAll cuts each text that is there.
func cutAll(most int, texts ...**string) {
	for _, s := range texts {
		if *s != nil {
			short := Shorten(most, **s)
			*s = &short
		}
	}
}

// Shorten leaves of a text at most so many bytes, and no half character, and shows
// where it was cut.
func Shorten(most int, s string) string {
	if len(s) <= most {
		return s
	}
	end := most
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + "…"
}
