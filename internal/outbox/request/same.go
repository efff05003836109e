package request

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	"flexworker/internal/rawjson"
)

// whatIsAsked are the members that make a request what it is: what Flex gets.
var whatIsAsked = [...]string{"channel", "routing", "interaction_context_sid", "webhook_ttid"}

// Differs names what a request asks otherwise than the first under its id, as JSON
// values; nil: it is the same. A member that is absent is null. All else may differ,
// times, priority and metadata too: a service that asks again computes them anew, and
// the first's stand. What is no object, or could not be read, has no members: it is
// compared whole.
func Differs(e Event, request, raw []byte) (names []string) {
	if e.Request == nil || request == nil {
		if e.Request == nil && request == nil && bytes.Equal(e.Raw, raw) {
			return nil
		}
		return []string{"its text"}
	}
	if !isObject(e.Request) || !isObject(request) {
		if rawjson.Equal(e.Request, request) {
			return nil
		}
		return []string{"its text"}
	}
	var rooms [2][16]rawjson.Pair
	asked, first := rawjson.AppendMembers(rooms[0][:0], e.Request), rawjson.AppendMembers(rooms[1][:0], request)
	for _, name := range whatIsAsked {
		if !rawjson.Equal(orJSONNull(asked.Get(name)), orJSONNull(first.Get(name))) {
			names = append(names, name)
		}
	}
	return names
}

// First is the request that has an id, as a conflict with it is told.
type First struct {
	Sequence   int64
	Source     string // as it is shown: not too long
	State      State
	ForPerson  bool // uncertain, and waits for a person
	ReceivedAt time.Time
	SettledAt  *time.Time
	Erased     bool // its content is no longer known: nothing can be compared with it
}

// Conflict says whose the id is and where that request stands. It goes on untouched
// only where it goes on. Of a request that was erased it says that nobody can tell whether this is the same.
func (f *First) Conflict(requestID string, differs []string) string {
	stands := map[State]string{
		Pending: "waits to be sent", Sending: "is being sent", Uncertain: "may exist already, which is being looked up",
		Created: "was created", Rejected: "was rejected", Abandoned: "was abandoned", Expired: "expired", Cancelled: "was cancelled",
	}[f.State]
	switch {
	case f.SettledAt != nil:
		stands += " at " + f.SettledAt.UTC().Format(time.RFC3339)
	case f.State == Uncertain && f.ForPerson:
		stands = "may exist already, and waits for a person to decide"
	default:
		stands += ", and goes on untouched"
	}
	taken := "is taken by another request, which differs in " + strings.Join(differs, ", ")
	if f.Erased {
		taken = "belongs to a request whose content was erased, so that nobody can tell whether this is the same"
	}
	return fmt.Sprintf("request_id %s %s: message %d, received from %s at %s; it %s. "+
		"This message was not carried out: ask again under a new request_id",
		requestID, taken, f.Sequence, f.Source, f.ReceivedAt.UTC().Format(time.RFC3339), stands)
}

func orJSONNull(value []byte) []byte {
	if value == nil {
		return []byte("null")
	}
	return value
}

func isObject(text []byte) bool {
	text = bytes.TrimSpace(text)
	return len(text) > 0 && text[0] == '{'
}
