package flex

import (
	"encoding/json"
	"math"
	"strconv"
	"time"

	"flexworker/internal/rawjson"
)

// Channel is the channel of an interaction, as a result shows it. All keys are
// always there; what the answer does not say is null.
type Channel struct {
	SID  *string `json:"sid"`
	Type *string `json:"type"`
	*ChannelSetup
}

// ChannelSetup is how far Twilio has come with a channel, as a read showed it. Only a confirmation shows it: of any other
// result it is nil, and its keys are not there.
type ChannelSetup struct {
	Status       *string `json:"status"`
	ErrorCode    *int    `json:"error_code"`
	ErrorMessage *string `json:"error_message"`
}

// Routing is the state of an interaction's routing at the time of the answer, as a
// result shows it. All keys are always there; what the answer does not say is null.
type Routing struct {
	AssignmentStatus      *string         `json:"assignment_status"`
	WorkspaceSID          *string         `json:"workspace_sid"`
	WorkflowSID           *string         `json:"workflow_sid"`
	WorkflowName          *string         `json:"workflow_name"`
	QueueSID              *string         `json:"queue_sid"`
	QueueName             *string         `json:"queue_name"`
	TaskChannelSID        *string         `json:"task_channel_sid"`
	TaskChannelUniqueName *string         `json:"task_channel_unique_name"`
	Priority              *int64          `json:"priority"`
	DateCreated           *string         `json:"date_created"` // RFC 3339
	DateUpdated           *string         `json:"date_updated"` // RFC 3339
	Reservation           json.RawMessage `json:"reservation"`  // as it came, or null
	ConversationSID       *string         `json:"conversation_sid"`
}

// Describe reads channel and routing out of the stored answer to a create or a
// fetch. Either is nil when the answer does not have it. Every field is optional
// there and may be of any type; what cannot be read is nil.
func Describe(response json.RawMessage) (*Channel, *Routing) {
	var channel *Channel
	if raw, ok := rawjson.Member(response, "channel"); ok && raw[0] == '{' {
		channel = &Channel{SID: orNil(textAt(raw, "sid")), Type: orNil(textAt(raw, "type"))}
	}
	var room [40]rawjson.Pair // more than Twilio shows of a task
	properties := rawjson.AppendMembers(room[:0], response, "routing", "properties")
	if len(properties) == 0 {
		if raw, ok := rawjson.Member(response, "routing"); !ok || raw[0] != '{' {
			return channel, nil
		}
	}
	r := routingOf(properties)
	if value, ok := rawjson.Member(response, "routing", "reservation"); ok && string(value) != "null" && rawjson.Valid(value) {
		r.Reservation = value
	}
	return channel, r
}

func routingOf(properties rawjson.Object) *Routing {
	text := func(name string) *string { return orNil(textOf(properties.Get(name))) }
	r := &Routing{
		AssignmentStatus: text("assignment_status"), WorkspaceSID: text("workspace_sid"),
		WorkflowSID: text("workflow_sid"), WorkflowName: text("workflow_name"),
		QueueSID: text("queue_sid"), QueueName: text("queue_name"),
		TaskChannelSID: text("task_channel_sid"), TaskChannelUniqueName: text("task_channel_unique_name"),
		DateCreated: dateOf(properties.Get("date_created")), DateUpdated: dateOf(properties.Get("date_updated")),
	}
	if n, err := strconv.ParseInt(string(properties.Get("priority")), 10, 64); err == nil {
		r.Priority = &n
	}
	r.ConversationSID = orNil(textAt(object(properties.Get("attributes")), "conversationSid"))
	return r
}

// orNil is s, or nil when s is empty: an answer says nothing by an empty text.
func orNil(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// dateOf is a time as a result shows it, or nil when raw is none.
func dateOf(raw []byte) *string {
	at := timeOf(raw)
	if at.IsZero() {
		return nil
	}
	return orNil(at.Format(time.RFC3339))
}

// timeOf reads a time that is unix seconds or ISO 8601 text, in UTC; anything
// else is the zero time.
func timeOf(raw []byte) time.Time {
	if len(raw) == 0 {
		return time.Time{}
	}
	if raw[0] == '"' {
		at, err := time.Parse(time.RFC3339, textOf(raw))
		if err != nil {
			return time.Time{}
		}
		return at.UTC()
	}
	seconds, err := strconv.ParseFloat(string(raw), 64)
	if err != nil || !(seconds > 0 && seconds < math.MaxInt32*100) { // the year 8775
		return time.Time{}
	}
	return time.Unix(int64(seconds), 0).UTC()
}
