package flex

import (
	"encoding/json"
	"net"
	"net/http"
	"testing"
	"time"
)

// usual is the answer of twilio.md, section 5, whole.
const usual = `{"sid":"` + kd + `","channel":{"sid":"UO77aa01c3e5f7482d9b0a1c2d3e4f5061","type":"whatsapp"},"routing":{"reservation":null,` +
	`"properties":{"sid":"` + wt + `","account_sid":"AC00000000000000000000000000000001","workspace_sid":"` + ws + `","workflow_sid":"` + ww + `",` +
	`"workflow_name":"Inbound care","queue_sid":"WQ00000000000000000000000000000004","queue_name":"Care",` +
	`"task_channel_sid":"TC00000000000000000000000000000005","task_channel_unique_name":"chat",` +
	`"assignment_status":"pending","assignmentCounter":0,"priority":10,"timeout":86400,"reason":"","age":0,"age_in_queue":0,` +
	`"date_created":1795305600,"date_updated":1795305600,"task_queue_entered_date":1795305600,"virtual_start_time":1795305600,` +
	`"addons":"{}","routing_target":null,"ignore_capacity":false,"required_attention":null,"custom_context":null,"twilio_context":null,"version":0,` +
	`"attributes":"{\"interaction_request\":\"` + key + `\",\"customerName\":\"R. Vega\",\"customers\":{},\"channelType\":\"whatsapp\",` +
	`\"initiatedBy\":\"customer\",\"direction\":\"inbound\",\"taskCreateSource\":\"interaction\",\"flexInteractionSid\":\"` + kd + `\",` +
	`\"flexInteractionChannelSid\":\"UO77aa01c3e5f7482d9b0a1c2d3e4f5061\",\"flexChannelInviteSid\":\"KG00000000000000000000000000000006\",` +
	`\"conversationSid\":\"CH00000000000000000000000000000007\",\"conversations\":{\"initiated_by\":\"customer\",\"conversation_id\":\"` + kd + `\",` +
	`\"media\":[{\"type\":\"ChatTranscript\",\"sid\":\"CH00000000000000000000000000000007\"}]}}"}},` +
	`"interaction_context_sid":null,"webhook_ttid":null,"url":"https://flex-api.twilio.com/v1/Interactions/` + kd + `",` +
	`"links":{"channels":"https://flex-api.twilio.com/v1/Interactions/` + kd + `/Channels"}}`

// usualWish is the wish of a usual request.
var usualWish = Interaction{
	Channel: json.RawMessage(`{"type":"sms","initiated_by":"api","participants":[{"address":"+15550100","proxy_address":"+15550199"}]}`),
	Routing: json.RawMessage(`{"properties":{"workspace_sid":"` + ws + `","workflow_sid":"` + ww + `","task_channel_unique_name":"sms",` +
		`"attributes":{"customerName":"Ada Lovelace","order":12345678901234567890,"note":"call about the delivery"}}}`),
	LookupKey: key,
}

func BenchmarkForm(b *testing.B) {
	c := newClient(b, "http://127.0.0.1:1")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.form(usualWish); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAddLookupKey(b *testing.B) {
	text := json.RawMessage(`{"properties":{"workspace_sid":"` + ws + `","attributes":"{\"customerName\":\"Ada Lovelace\",\"note\":\"call about the delivery\"}"}}`)
	for name, routing := range map[string]json.RawMessage{"object": usualWish.Routing, "text": text} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := AddLookupKey(routing, "interaction_request", key); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkOutcome(b *testing.B) {
	a := answer{status: 200, header: http.Header{"Twilio-Request-Id": {"RQ0123456789abcdef0123456789abcdef"}},
		body: []byte(usual), whole: true, secrets: secretsOf(testUser, testPassword)}
	b.ReportAllocs()
	for b.Loop() {
		if o := a.outcome(time.Now()); o.Kind != Created || o.Response == nil {
			b.Fatal(o)
		}
	}
}

func BenchmarkDescribe(b *testing.B) {
	response := json.RawMessage(usual)
	b.ReportAllocs()
	for b.Loop() {
		if channel, routing := Describe(response); channel == nil || routing.ConversationSID == nil {
			b.Fatal(channel, routing)
		}
	}
}

func BenchmarkKeyIn(b *testing.B) {
	response := json.RawMessage(usual)
	b.ReportAllocs()
	for b.Loop() {
		if KeyIn(response, "interaction_request") != key {
			b.Fatal("not found")
		}
	}
}

// BenchmarkBound is what each call pays so that the kernel gives up with it.
func BenchmarkBound(b *testing.B) {
	s := serve(b, func(http.ResponseWriter, *http.Request) {})
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	b.ReportAllocs()
	for b.Loop() {
		bound(conn, time.Second)
	}
}
