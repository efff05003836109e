package request

import (
	"encoding/json"
	"strings"
	"time"

	"flexworker/internal/flex"
	"flexworker/internal/rawjson"
)

// What stays of a request and of Flex's answer when they are erased: sids at the places where they are known, each with
// its prefix. A name or a value that anybody could choose is not among them.
var (
	requestSIDs = map[string]string{
		"interaction_context_sid": "HQ", "channel.sid": "UO", "channel.properties.media_channel_sid": "CH",
		"routing.properties.workspace_sid": "WS", "routing.properties.workflow_sid": "WW", "routing.properties.queue_sid": "WQ",
		"routing.properties.worker_sid": "WK", "routing.properties.task_channel_sid": "TC",
	}
	answerSIDs = map[string]string{
		"sid": "KD", "channel.sid": "UO", "routing.properties.sid": "WT", "routing.properties.workspace_sid": "WS",
		"routing.properties.workflow_sid": "WW", "routing.properties.queue_sid": "WQ", "routing.properties.task_channel_sid": "TC",
	}
)

// Blank is what stays of a request when it is erased: an object with the sids that it names, and its not_before.
func Blank(request []byte) json.RawMessage {
	o := sidsOf(request, requestSIDs)
	if value, ok := rawjson.Member(request, "not_before"); ok {
		text, _ := rawjson.Text(value)
		if at, err := time.Parse(time.RFC3339, string(text)); err == nil {
			o.set("not_before", at.UTC().Format(time.RFC3339))
		}
	}
	return o.json()
}

// BlankAnswer is what stays of Flex's answer when its request is erased: an object with its sids, that of the conversation
// among them, and with the times of its task.
func BlankAnswer(answer []byte) json.RawMessage {
	o := sidsOf(answer, answerSIDs)
	if _, routing := flex.Describe(answer); routing != nil {
		for name, at := range map[string]*string{"date_created": routing.DateCreated, "date_updated": routing.DateUpdated} {
			if at != nil {
				o.set("routing.properties."+name, *at)
			}
		}
		if sid := routing.ConversationSID; sid != nil && flex.IsSID(*sid, "CH") {
			o.set("routing.properties.attributes.conversationSid", *sid)
		}
	}
	return o.json()
}

// blank is an object of objects and texts.
type blank map[string]any

// sidsOf are those of the sids that stand at these places in text.
func sidsOf(text []byte, places map[string]string) blank {
	o := blank{}
	for place, prefix := range places {
		if value, ok := rawjson.Member(text, strings.Split(place, ".")...); ok {
			if sid, _ := rawjson.Text(value); flex.IsSID(sid, prefix) {
				o.set(place, string(sid))
			}
		}
	}
	return o
}

// set puts a text at a place.
func (o blank) set(place, text string) {
	name, rest, deeper := strings.Cut(place, ".")
	if !deeper {
		o[name] = text
		return
	}
	within, ok := o[name].(blank)
	if !ok {
		within = blank{}
		o[name] = within
	}
	within.set(rest, text)
}

func (o blank) json() json.RawMessage {
	out, err := json.Marshal(o)
	if err != nil { // cannot be: maps and texts
		return json.RawMessage("{}")
	}
	return out
}
