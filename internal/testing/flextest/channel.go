package flextest

import "strings"

// readChannel checks Channel by the cases of twilio.md §3.
func (q *wish) readChannel() *refusal {
	channel, ok := object(q.channel)
	if !ok {
		return invalid("Channel is not a JSON object")
	}
	kind, _ := findText(channel, "type")
	if q.kind = known(kind, "sms", "whatsapp", "web", "chat", "email", "messenger", "gbm"); q.kind == "" {
		return invalid("Invalid Channel.type: %q", kind)
	}
	by, _ := findText(channel, "initiated_by")
	if q.initiatedBy = known(by, "customer", "agent", "api"); q.initiatedBy == "" {
		return invalid("Invalid Channel.initiated_by: %q", by)
	}
	if _, given := find(channel, "sid"); given {
		if q.channelSID, _ = findText(channel, "sid"); !isSID("UO", q.channelSID) {
			return invalid("Invalid Channel.sid: %q", q.channelSID)
		}
	} else if !q.routed {
		return invalid("Missing required parameter Routing in the post body")
	}
	if refused := q.readProperties(channel); refused != nil {
		return refused
	}
	return q.readParticipants(channel)
}

// readProperties checks Channel.properties, which an existing channel need not
// have.
func (q *wish) readProperties(channel []member) *refusal {
	text, given := find(channel, "properties")
	if given && text[0] != '{' {
		return invalid("Channel.properties is not an object")
	}
	var properties []member
	if given {
		properties = members(text, 1)
	}
	if _, given := find(properties, "media_channel_sid"); given {
		if q.mediaSID, _ = findText(properties, "media_channel_sid"); !isSID("CH", q.mediaSID) {
			return invalid("Invalid Channel.properties.media_channel_sid: %q", q.mediaSID)
		}
	}
	if q.channelSID != "" {
		return nil
	}
	if q.initiatedBy == "customer" {
		if q.mediaSID == "" {
			return invalid("Channel.properties.media_channel_sid is required when initiated_by is customer")
		}
		return nil
	}
	if q.kind == "email" {
		for _, name := range []string{"from", "from_name"} {
			if text, _ := findText(properties, name); text == "" {
				return invalid("Channel.properties.%s is required for email", name)
			}
		}
	}
	return nil
}

// readParticipants checks Channel.participants, which only an agent's channel
// must have.
func (q *wish) readParticipants(channel []member) *refusal {
	text, given := find(channel, "participants")
	if !given {
		if q.initiatedBy == "agent" {
			return invalid("Channel.participants is required when initiated_by is agent")
		}
		return nil
	}
	list, ok := elements(text)
	if !ok || len(list) == 0 {
		return invalid("Channel.participants is not a list of participants")
	}
	q.participants = len(list)
	for i, text := range list {
		if text[0] != '{' {
			return invalid("Channel.participants[%d] is not an object", i)
		}
		if name := missing(q.kind, members(text, 1)); name != "" {
			return invalid("Invalid Channel.participants[%d].%s", i, name)
		}
	}
	return nil
}

// missing names the field that a participant of this kind of channel lacks.
func missing(kind string, participant []member) string {
	need := []string{}
	switch kind {
	case "sms", "whatsapp":
		need = []string{"address", "proxy_address"}
	case "chat", "web":
		need = []string{"identity"}
	case "email":
		need = []string{"address", "level"}
	}
	for _, name := range need {
		text, _ := findText(participant, name)
		switch {
		case text == "":
			return name
		case kind == "whatsapp" && !strings.HasPrefix(text, "whatsapp:+"):
			return name
		case name == "level" && known(text, "to", "cc", "bcc") == "":
			return name
		}
	}
	return ""
}

// known returns the word of the list that equals text, or "".
func known(text string, words ...string) string {
	for _, word := range words {
		if word == text {
			return word
		}
	}
	return ""
}
