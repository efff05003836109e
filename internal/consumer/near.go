package consumer

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"flexworker/internal/rawjson"
)

// What Flex documents of a request, object by object. shown is what its answers have in
// the same place: who sends that back has not mistyped it.
// https://www.twilio.com/docs/flex/developer/conversations/interactions-api/interactions
var (
	channelNames         = names{documented: []string{"type", "initiated_by", "properties", "participants", "sid"}}
	channelPropertyNames = names{documented: []string{"media_channel_sid", "from", "from_name", "subject"}}
	participantNames     = names{documented: []string{"address", "proxy_address", "identity", "level", "name"}}
	routingNames         = names{documented: []string{"properties", "type", "status", "reservation"}}
	routingPropertyNames = names{
		documented: []string{"workspace_sid", "workflow_sid", "queue_sid", "worker_sid", "task_channel_unique_name", "task_channel_sid",
			"attributes", "priority", "timeout"},
		shown: []string{"sid", "account_sid", "workflow_name", "queue_name", "assignment_status", "assignmentCounter", "reason", "age", "age_in_queue",
			"date_created", "date_updated", "task_queue_entered_date", "virtual_start_time", "addons", "routing_target", "ignore_capacity",
			"required_attention", "custom_context", "twilio_context", "version"},
	}
)

// names are those of the members of one object.
type names struct{ documented, shown []string }

// names warns about every member whose name is nearly one that Flex documents there, or
// one that it documents elsewhere: Flex ignores what it does not know, and says nothing.
// Whatever else stands there is the sender's, as is what attributes hold.
func (c *checker) names(object rawjson.Object, path string, known names) {
	for _, p := range object {
		name := string(p.Key)
		if slices.Contains(known.documented, name) || slices.Contains(known.shown, name) || isNull(p.Value) {
			continue
		}
		if near := nearest(name, known.documented); near != "" {
			c.warn(path+"."+shown(name), "Flex documents no such name here, and ignores what it does not know; did you mean %s?", near)
		} else if place := elsewhere[name]; place != "" {
			c.warn(path+"."+shown(name), "Flex documents this name in %s, not here, and ignores what it does not know", place)
		}
	}
}

// elsewhere is where a name belongs that Flex documents in one place only.
var elsewhere = map[string]string{
	"initiated_by": "channel", "participants": "channel", "media_channel_sid": "channel.properties",
	"workspace_sid": "routing.properties", "workflow_sid": "routing.properties", "queue_sid": "routing.properties", "worker_sid": "routing.properties",
	"task_channel_unique_name": "routing.properties", "task_channel_sid": "routing.properties", "attributes": "routing.properties",
	"proxy_address": "channel.participants",
}

// participants warns about the names in each of them.
func (c *checker) participants(raw []byte) {
	for n, participant := range elements(raw) {
		if object, ok := c.members(participant); ok {
			c.names(object, "channel.participants["+strconv.Itoa(n)+"]", participantNames)
		}
	}
}

// longName is from how many letters on two of them may differ: short names are near to
// many that are meant.
const longName = 7

// nearest is the documented name that name is nearly: the same but for case, underscores
// and hyphens, or, of a long one, at most two letters away.
func nearest(name string, documented []string) string {
	if len(name) > maxShown {
		return ""
	}
	plain := normalised(name)
	for _, d := range documented {
		if normalised(d) == plain {
			return d
		}
	}
	for _, d := range documented {
		if long := normalised(d); len(long) >= longName && distance(plain, long) <= 2 {
			return d
		}
	}
	return ""
}

// normalised is a name in small letters and without what joins words.
func normalised(name string) string {
	return strings.ToLower(unjoined.Replace(name))
}

var unjoined = strings.NewReplacer("_", "", "-", "", " ", "")

// distance is how many bytes of a have to be put in, left out or changed to give b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}

// elements are the raw values of an array; none of anything else.
func elements(raw []byte) []json.RawMessage {
	var list []json.RawMessage
	if len(raw) == 0 || raw[0] != '[' || json.Unmarshal(raw, &list) != nil {
		return nil
	}
	return list
}
