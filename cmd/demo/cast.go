package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"flexworker/internal/testing/flextest"
)

// A message of the demo: what it is there to show and what must come of it.
type message struct {
	name   string
	shows  string
	source string
	body   string
	want   string // the outcome
	trial  []flextest.Fault
}

// newCast is all messages, in the order they are sent. stay adds one that waits for a person, who may decide about it on the page.
func newCast(real, stay bool) ([]message, error) {
	if real {
		return realCast()
	}
	now := time.Now().UTC()
	stamp := now.Format("150405")
	id := func(name string) string { return "demo-" + stamp + "-" + name }
	request := func(name, more string) string {
		return fmt.Sprintf(`{"request_id":%q,"channel":{"type":"sms","initiated_by":"api","participants":[{"address":"+15550100","proxy_address":"+15550199"}]},`+
			`"routing":{"properties":{"workspace_sid":%q,"workflow_sid":%q,"task_channel_unique_name":"sms","attributes":{"customerName":"Ada","test_id":%q}}}%s}`,
			id(name), flextest.WorkspaceSID, flextest.WorkflowSID, id(name), more)
	}
	var cast []message
	for n := 1; n <= 5; n++ {
		name := fmt.Sprintf("good-%d", n)
		cast = append(cast, message{name: id(name), source: "crm", body: request(name, ""), want: "created",
			shows: "an ordinary request"})
	}
	later := now.Add(5 * time.Second).Format(time.RFC3339)
	past := now.Add(-time.Minute).Format(time.RFC3339)
	cast = append(cast,
		message{name: id("urgent"), source: "crm", body: request("urgent", `,"priority":9`), want: "created",
			shows: "priority 9 goes before the others that wait"},
		message{name: id("busy"), source: "shop", body: request("busy", ""), want: "created",
			trial: []flextest.Fault{flextest.Status(429), flextest.Status(429)}, shows: "Flex refuses it twice (429), then takes it"},
		message{name: id("pause"), source: "shop", body: request("pause", ""), want: "created",
			trial: []flextest.Fault{flextest.Status(429).RetryAfter("2")}, shows: "429 with Retry-After: 2 pauses the whole fleet"},
		message{name: id("answer-lost"), source: "shop", body: request("answer-lost", ""), want: "created",
			trial: []flextest.Fault{flextest.CreateThenReset}, shows: "created, but the answer is lost: found through TaskRouter, not sent again"},
		message{name: id("call-lost"), source: "shop", body: request("call-lost", ""), want: "created",
			trial: []flextest.Fault{flextest.Status(503)}, shows: "503, and nobody knows: proved absent after the settle time (3 s here), then sent again"},
		message{name: id("scheduled"), source: "shop", body: request("scheduled", fmt.Sprintf(`,"not_before":%q`, later)), want: "created",
			shows: "not_before is five seconds ahead: not sent earlier"},
		message{name: id("too-late"), source: "shop", body: request("too-late", fmt.Sprintf(`,"expires_at":%q`, past)), want: "expired",
			shows: "expires_at has passed: never sent"},
		message{name: id("good-1"), source: "audit", body: request("good-1", ""), want: "created",
			shows: "the first request again, by another service: the same answer, no second interaction"},
		message{name: id("good-2"), source: "audit", body: strings.Replace(request("good-2", ""), "+15550100", "+15550101", 1), want: "conflict",
			shows: "another request under an id that is taken"},
		message{name: id("mistyped"), source: "web", body: request("mistyped", `,"expires_att":"2030-01-01T00:00:00Z"`), want: "rejected",
			shows: "a field that does not exist: rejected before sending, with the reason"},
		message{name: id("voice"), source: "web", body: strings.Replace(request("voice", ""), `"sms","initiated_by"`, `"voice","initiated_by"`, 1), want: "rejected",
			shows: "Flex itself refuses it for good (400)"},
		message{name: "(not JSON)", source: "web", body: `{"request_id": "demo-broken", `, want: "malformed",
			shows: "not JSON: kept with its bytes, and answered"})
	if stay {
		cast = append(cast, message{name: id("for-a-person"), source: "shop", body: request("for-a-person", ""), want: "uncertain",
			trial: []flextest.Fault{flextest.NoSID}, shows: "Flex answers 200 without a sid, and nothing is found: a person decides, on the page"})
	}
	return cast, nil
}

// realCast is one SMS to a number that the environment names.
func realCast() ([]message, error) {
	var missing []error
	get := func(name string) string {
		v := os.Getenv(name)
		if v == "" {
			missing = append(missing, fmt.Errorf("--real needs %s", name))
		}
		return v
	}
	id := "demo-real-" + time.Now().UTC().Format("20060102T150405")
	body := fmt.Sprintf(`{"request_id":%q,"channel":{"type":"sms","initiated_by":"api","participants":[{"address":%q,"proxy_address":%q}]},`+
		`"routing":{"properties":{"workspace_sid":%q,"workflow_sid":%q,"task_channel_unique_name":"sms","attributes":{"customerName":"flexworker demo"}}}}`,
		id, get("DEMO_TO"), get("DEMO_FROM"), get("DEMO_WORKSPACE_SID"), get("DEMO_WORKFLOW_SID"))
	if os.Getenv("TWILIO_API_KEY") == "" {
		get("TWILIO_ACCOUNT_SID")
		get("TWILIO_AUTH_TOKEN")
	} else {
		get("TWILIO_API_SECRET")
	}
	return []message{{name: id, source: "demo", body: body, want: "created", shows: "one real interaction"}}, errors.Join(missing...)
}
