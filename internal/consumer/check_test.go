package consumer

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"flexworker/internal/flex"
	"flexworker/internal/rawjson"
)

const fieldList = "; the fields are request_id, channel, routing, interaction_context_sid, webhook_ttid, priority, not_before, expires_at, metadata"

// requestWith is a request in order with more routing properties.
func requestWith(property string) string {
	return `{"request_id":"a",` + channelOK + `,"routing":{"properties":{"workspace_sid":"` + workspace + `",` + property + `}}}`
}

// requestAnd is a request in order with more members.
func requestAnd(member string) string {
	return `{"request_id":"a",` + channelOK + `,` + routingOK + `,` + member + `}`
}

// rejected are cases that all are kept under the id "a".
func rejected(t *testing.T, cases [][]string) {
	t.Helper()
	var list []decodeCase
	for _, c := range cases {
		list = append(list, decodeCase{name: c[0], headers: msgID("a"), body: c[1], id: "a", faults: c[2:]})
	}
	runDecode(t, list)
}

func TestCheckFields(t *testing.T) {
	t.Parallel()
	rejected(t, [][]string{
		{"all fields", requestAnd(`"interaction_context_sid":"HQ` + strings.Repeat("0", 32) + `","webhook_ttid":"flex_interactionwebhook_x","priority":9,"not_before":"2026-11-22T09:00:00Z","expires_at":"2026-11-22T17:00:00.5+01:00","metadata":[1]`)},
		{"null is left out", requestAnd(`"interaction_context_sid":null,"webhook_ttid":null,"priority":null,"not_before":null,"expires_at":null,"metadata":null`)},
		{"not an object", `[1]`, "a request must be a JSON object, and this is an array: send one request in a message"},
		{"a string", `"x"`, "a request must be a JSON object, and this is a string"},
		{"null", `null`, "a request must be a JSON object, and this is null"},
		{"nothing", `{}`, "channel: missing", "routing: missing; only a request with channel.sid can do without"},
		{"mistyped", requestAnd(`"expire_at":"2026-11-22T09:00:00Z"`), "expire_at: is not a field of a request" + fieldList},
		{"two, in order", requestAnd(`"z":1,"b":null,"a":1`), "a: is not a field of a request" + fieldList, "z: is not a field of a request" + fieldList},
		{"a field that is no name", requestAnd(`"a\r\nb":1,"":1`), `[""]: is not a field of a request` + fieldList, `["a\r\nb"]: is not a field of a request` + fieldList},
		{"a field without end", requestAnd(`"` + strings.Repeat("x", 5000) + `":1`), `["` + strings.Repeat("x", 64) + `…"]: is not a field of a request` + fieldList},
		{"channel null", `{"channel":null,` + routingOK + `}`, "channel: missing"},
		{"channel a string", `{"channel":"sms",` + routingOK + `}`, "channel: must be an object"},
		{"channel empty", `{"channel":{},` + routingOK + `}`, "channel.type: missing", "channel.initiated_by: missing"},
		{"channel of other types", `{"channel":{"type":1,"initiated_by":"","properties":[]},` + routingOK + `}`, "channel.type: must be a string", "channel.initiated_by: must not be empty", "channel.properties: must be an object"},
		{"routing a string", `{` + channelOK + `,"routing":"x"}`, "routing: must be an object"},
		{"routing null", `{` + channelOK + `,"routing":null}`, "routing: missing; only a request with channel.sid can do without"},
		{"routing empty", `{` + channelOK + `,"routing":{}}`, "routing.properties: missing; only a request with channel.sid can do without"},
		{"properties an array", `{` + channelOK + `,"routing":{"properties":[]}}`, "routing.properties: must be an object"},
		{"no workspace", `{` + channelOK + `,"routing":{"properties":{}}}`, "routing.properties.workspace_sid: missing; only a request with channel.sid can do without"},
		{"ttid a number", requestAnd(`"webhook_ttid":1`), "webhook_ttid: must be a string"},
		{"ttid empty", requestAnd(`"webhook_ttid":""`), "webhook_ttid: must not be empty"},
	})
}

// TestCheckEverything: all faults of an event are reported together.
func TestCheckEverything(t *testing.T) {
	t.Parallel()
	rejected(t, [][]string{{"everything", `{"channel":{"type":"sms","sid":"UO1","properties":{"media_channel_sid":"x"}},
		"routing":{"properties":{"workspace_sid":"WS1","workflow_sid":2,"queue_sid":"","worker_sid":"WK","task_channel_sid":"TC","attributes":[]}},
		"interaction_context_sid":"KD","webhook_ttid":{},"priority":10,"not_before":"tomorrow","expires_at":7,"oops":1}`,
		"oops: is not a field of a request" + fieldList,
		"channel.initiated_by: missing",
		"channel.sid: is not a sid: UO and 32 hexadecimal digits",
		"channel.properties.media_channel_sid: is not a sid: CH and 32 hexadecimal digits",
		"routing.properties.workspace_sid: is not a sid: WS and 32 hexadecimal digits",
		"routing.properties.workflow_sid: must be a string",
		"routing.properties.queue_sid: must not be empty",
		"routing.properties.worker_sid: is not a sid: WK and 32 hexadecimal digits",
		"routing.properties.task_channel_sid: is not a sid: TC and 32 hexadecimal digits",
		"interaction_context_sid: is not a sid: HQ and 32 hexadecimal digits",
		"webhook_ttid: must be a string",
		"priority: must be a whole number from 0 to 9",
		"not_before: must be a time by RFC 3339, such as 2026-11-22T09:00:00Z",
		"expires_at: must be a string",
		"routing.properties.attributes: must be an object, or a string that holds one",
	}})
}

// TestCheckBounded: a message of a megabyte does not become faults of many.
func TestCheckBounded(t *testing.T) {
	t.Parallel()
	var fields strings.Builder
	for n := range 50_000 {
		fmt.Fprintf(&fields, `"f%06d":1,`, n)
	}
	e, bad := decoded(t, message(msgID("a"), `{`+fields.String()+bodyOK[1:]), "interaction_request")
	if bad != "" || len(e.Faults) != 21 {
		t.Fatalf("%q, %d faults", bad, len(e.Faults))
	}
	if got, want := e.Faults[20].String(), "and 49980 more fields that a request does not have"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestCheckSids(t *testing.T) {
	t.Parallel()
	const digits = "0123456789abcdefABCDEF0123456789"
	for _, c := range []struct{ path, prefix, body string }{
		{"routing.properties.workspace_sid", "WS", `{` + channelOK + `,"routing":{"properties":{"workspace_sid":"%s"}}}`},
		{"routing.properties.workflow_sid", "WW", requestWith(`"workflow_sid":"%s"`)},
		{"routing.properties.queue_sid", "WQ", requestWith(`"queue_sid":"%s"`)},
		{"routing.properties.worker_sid", "WK", requestWith(`"worker_sid":"%s"`)},
		{"routing.properties.task_channel_sid", "TC", requestWith(`"task_channel_sid":"%s"`)},
		{"channel.sid", "UO", `{"channel":{"type":"sms","initiated_by":"api","sid":"%s"},` + routingOK + `}`},
		{"channel.properties.media_channel_sid", "CH", `{"channel":{"type":"sms","initiated_by":"api","properties":{"media_channel_sid":"%s"}},` + routingOK + `}`},
		{"interaction_context_sid", "HQ", requestAnd(`"interaction_context_sid":"%s"`)},
	} {
		fault := c.path + ": is not a sid: " + c.prefix + " and 32 hexadecimal digits"
		rejected(t, [][]string{
			{c.path + " good", fmt.Sprintf(c.body, c.prefix+digits)},
			{c.path + " of another kind", fmt.Sprintf(c.body, "XX"+digits), fault},
			{c.path + " too short", fmt.Sprintf(c.body, c.prefix+digits[1:]), fault},
			{c.path + " too long", fmt.Sprintf(c.body, c.prefix+digits+"0"), fault},
			{c.path + " not hexadecimal", fmt.Sprintf(c.body, c.prefix+"g"+digits[1:]), fault},
			{c.path + " lower case", fmt.Sprintf(c.body, strings.ToLower(c.prefix)+digits), fault},
			{c.path + " with a line end", fmt.Sprintf(c.body, c.prefix+digits+`\n`), fault},
		})
	}
}

func TestCheckPriorityAndTimes(t *testing.T) {
	t.Parallel()
	const priority = "priority: must be a whole number from 0 to 9"
	const rfc = ": must be a time by RFC 3339, such as 2026-11-22T09:00:00Z"
	var cases [][]string
	for _, bad := range []string{`-1`, `10`, `1.0`, `1e0`, `0.5`, `"5"`, `true`, `[]`, `99999999999999999999`} {
		cases = append(cases, []string{"priority " + bad, requestAnd(`"priority":` + bad), priority})
	}
	for _, bad := range []string{`tomorrow`, `2026-11-22`, `2026-11-22 09:00:00Z`, `2026-11-22T09:00:00`, `2026-02-30T09:00:00Z`, `2026-11-22T25:00:00Z`, `1763802000`,
		// Go's parser takes these, Postgres and others do not.
		`2026-11-22T23:59:61Z`, `2026-11-22T24:00:60Z`, `2026-02-30T23:59:60+01:00`, `2026-11-22T23:59:60`, `2026-11-22T09:00:00,5Z`, `2026-11-22T09:00:00+14:60`, `2026-11-22T09:00:00+24:00`, `2026-11-22T09:00:00.` + strings.Repeat("5", 200) + `Z`} {
		cases = append(cases, []string{"not_before " + bad, requestAnd(`"not_before":"` + bad + `"`), "not_before" + rfc},
			[]string{"expires_at " + bad, requestAnd(`"expires_at":"` + bad + `"`), "expires_at" + rfc})
	}
	// What Postgres takes as a time is what every reader of the row can show.
	const leap = ": has a second 60, which there is only at the end of a day in UTC; send "
	const far, late, early = ": no time zone is further than 15:59 from UTC", ": is after 9999", ": is before 1970"
	for _, bad := range [][2]string{{`2027-01-01T00:00:00-16:00`, far}, {`2027-01-01T00:00:00+16:00`, far}, {`2027-01-01T00:00:00-23:59`, far}, {`9999-12-31T23:59:59-23:59`, far},
		{`9999-12-31T23:59:60Z`, late}, {`9999-12-31T23:59:60-01:00`, late}, {`1969-12-31T09:00:60Z`, early}, {`2026-11-22T09:00:60+16:00`, far},
		{`2026-11-22T09:00:60Z`, leap + "2026-11-22T09:01:00Z"}, {`2016-12-31T23:59:60+01:00`, leap + "2017-01-01T00:00:00+01:00"},
		{`2026-11-22t23:59:60.250-08:00`, leap + "2026-11-23T00:00:00.25-08:00"}, {`2026-11-22T23:59:60Z`, ""},
		{`9999-12-31T08:00:00-15:59`, ""}, {`9999-12-31T08:01:00-15:59`, late}, {`9999-12-31T23:59:59.9999994Z`, ""}, {`9999-12-31T23:59:59.9999995Z`, late},
		{`1970-01-01T00:00:00Z`, ""}, {`1970-01-01T00:00:00+00:01`, early}, {`1970-01-01T15:59:00+15:59`, ""}, {`1969-12-31T23:59:59Z`, early}} {
		for _, member := range [][2]string{{"not_before", "not_before"}, {"expires_at", "expires_at"}, {`not\u005fbefore`, "not_before"}, {`expires\u005Fat`, "expires_at"}} {
			c := []string{member[0] + " " + bad[0], requestAnd(`"` + member[0] + `":"` + bad[0] + `"`)}
			if bad[1] != "" {
				c = append(c, member[1]+bad[1])
			}
			cases = append(cases, c)
		}
	}
	const never = "expires_at: is not after not_before: the request could never be sent"
	cases = append(cases,
		[]string{"before the age of computers", requestAnd(`"expires_at":"0001-01-01T00:00:00Z"`), "expires_at: is before 1970"},
		[]string{"the same instant", requestAnd(`"not_before":"2026-11-22T09:00:00Z","expires_at":"2026-11-22T10:00:00+01:00"`), never},
		[]string{"the wrong way round", requestAnd(`"not_before":"2026-11-22T09:00:01Z","expires_at":"2026-11-22T09:00:00Z"`), never})
	rejected(t, cases)
	e, _ := decoded(t, message(nil, requestAnd(`"priority":7,"not_before":"2026-11-22T09:00:00.25+01:00","expires_at":"2099-01-01T00:00:00Z"`)), "k")
	if e.Priority != 7 || !e.NotBefore.Equal(time.Date(2026, 11, 22, 8, 0, 0, 250e6, time.UTC)) || e.ExpiresAt.Year() != 2099 {
		t.Errorf("%d %v %v", e.Priority, e.NotBefore, e.ExpiresAt)
	}
	for text, want := range map[string]time.Time{
		`2026-11-22t09:00:00z`:           time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC),
		`2026-11-22t09:00:00.25+01:00`:   time.Date(2026, 11, 22, 8, 0, 0, 250e6, time.UTC),
		`2026-11-22T09:00:00-00:00`:      time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC),
		`2016-12-31T23:59:60Z`:           time.Date(2017, 1, 1, 0, 0, 0, 0, time.UTC),
		`2016-12-31t15:59:60.5-08:00`:    time.Date(2017, 1, 1, 0, 0, 0, 500e6, time.UTC),
		`2026-11-22T09:00:00.123456789Z`: time.Date(2026, 11, 22, 9, 0, 0, 123456789, time.UTC),
	} {
		if e, bad := decoded(t, message(nil, requestAnd(`"not_before":"`+text+`"`)), "k"); bad != "" || len(e.Faults) > 0 || !e.NotBefore.Equal(want) {
			t.Errorf("%s: %v %v %s, want %v", text, e.NotBefore, e.Faults, bad, want)
		}
	}
	for n := range 10 {
		if e, _ := decoded(t, message(nil, requestAnd(fmt.Sprintf(`"priority":%d`, n))), "k"); e.Priority != n || len(e.Faults) > 0 {
			t.Errorf("priority %d became %d %v", n, e.Priority, e.Faults)
		}
	}
}

func TestCheckAttributes(t *testing.T) {
	t.Parallel()
	const path = "routing.properties.attributes"
	rejected(t, [][]string{
		{"an object", requestWith(`"attributes":{"name":"Ada"}`)},
		{"a string", requestWith(`"attributes":"{\"name\":\"Ada\"}"`)},
		{"an empty object", requestWith(`"attributes":{}`)},
		{"null", requestWith(`"attributes":null`)},
		{"a number", requestWith(`"attributes":1`), path + ": must be an object, or a string that holds one"},
		{"a string with an array", requestWith(`"attributes":"[]"`), path + ": must be an object, or a string that holds one"},
		{"an empty string", requestWith(`"attributes":""`), path + ": the string must hold a JSON object: it is empty"},
		{"a string of nonsense", requestWith(`"attributes":"name=Ada"`), path + ": the string must hold a JSON object: not JSON at byte 2: invalid character 'a' in literal null (expecting 'u')"},
		{"a string with two faults", requestWith(`"attributes":"{\"a\":1,\"a\":2,\"b\":\"\\u0000\"}"`), path + ": the string must hold a JSON object: a: this key stands twice", path + `: the string must hold a JSON object: b: holds \u0000, which Postgres cannot keep`},
		{"our key", requestWith(`"attributes":{"interaction_request":"x"}`), path + ".interaction_request: is the worker's own key; choose another name"},
		{"our key, null", requestWith(`"attributes":{"interaction_request":null}`), path + ".interaction_request: is the worker's own key; choose another name"},
		{"our key in a string", requestWith(`"attributes":"{\"interaction_request\":1}"`), path + ".interaction_request: is the worker's own key; choose another name"},
	})
	e, bad := decoded(t, message(nil, requestWith(`"attributes":{"interaction_request":1}`)), "")
	if bad != "" || len(e.Faults) > 0 || e.LookupKey != "" {
		t.Errorf("without LOOKUP_ATTRIBUTE: %q %v %q", bad, e.Faults, e.LookupKey)
	}
}

// TestCheckAttributesLimit: with the key, as it is really added, exactly 4,096
// characters pass and one more does not; characters, not bytes.
func TestCheckAttributesLimit(t *testing.T) {
	t.Parallel()
	const attribute = "interaction_request"
	room := 4096 - len(`{"interaction_request":"","name":""}`) - 32
	for _, form := range []string{`{"name":"%s"}`, `"{\"name\":\"%s\"}"`} {
		for over := range 2 {
			body := requestWith(`"attributes":` + fmt.Sprintf(form, strings.Repeat("ü", room+over)))
			e, bad := decoded(t, message(nil, body), attribute)
			if bad != "" || e.LookupKey != flex.LookupKey("a") {
				t.Fatalf("%q %q", bad, e.LookupKey)
			}
			if over == 1 {
				how := "without white space between values, an escape such as \\u00e9 as the one character that it means"
				if form[0] == '"' {
					how = "of the text that the string holds"
				}
				want := "routing.properties.attributes: has 4097 characters with the worker's key (" + how + "), TaskRouter takes at most 4096"
				if len(e.Faults) != 1 || e.Faults[0].String() != want {
					t.Errorf("%s: %v", form, e.Faults)
				}
				continue
			}
			routing, _ := rawjson.Member(e.Request, "routing")
			added, err := flex.AddLookupKey(routing, attribute, e.LookupKey)
			if err != nil || len(e.Faults) > 0 {
				t.Fatalf("%s: %v %v", form, err, e.Faults)
			}
			sent, _ := rawjson.Member(added, "properties", "attributes")
			if n := utf8.RuneCount(sent); form[0] == '{' && n != 4096 {
				t.Errorf("%d characters are sent", n)
			}
		}
	}
}

// TestCheckLookupKey: only what gets a task has one.
func TestCheckLookupKey(t *testing.T) {
	t.Parallel()
	const attached = `"channel":{"type":"sms","initiated_by":"api","sid":"UO00000000000000000000000000000001"}`
	for name, c := range map[string]struct{ body, attribute, key string }{
		"workspace":                  {requestAnd(`"metadata":1`), "k", flex.LookupKey("a")},
		"no attribute":               {requestAnd(`"metadata":1`), "", ""},
		"attached":                   {`{"request_id":"a",` + attached + `}`, "k", ""},
		"attached, no properties":    {`{"request_id":"a",` + attached + `,"routing":{}}`, "k", ""},
		"attached, no workspace":     {`{"request_id":"a",` + attached + `,"routing":{"properties":{}}}`, "k", ""},
		"attached, with a workspace": {`{"request_id":"a",` + attached + `,` + routingOK + `}`, "k", flex.LookupKey("a")},
	} {
		e, bad := decoded(t, message(nil, c.body), c.attribute)
		if bad != "" || len(e.Faults) > 0 || e.LookupKey != c.key {
			t.Errorf("%s: %q %v, key %q", name, bad, e.Faults, e.LookupKey)
		}
	}
}

// warned are the warnings of a request that is in order otherwise.
func warned(t *testing.T, body string) []string {
	t.Helper()
	e, bad := decoded(t, message(msgID("a"), body), "interaction_request")
	if bad != "" || len(e.Faults) > 0 {
		t.Fatalf("%s: %s %v", body, bad, e.Faults)
	}
	var list []string
	for _, w := range e.Warnings {
		list = append(list, w.String())
	}
	return list
}

// TestCheckCharacters: an escape counts as the character that it means and white space
// does not count, since nobody knows how TaskRouter counts them; where it may matter the
// sender is warned.
func TestCheckCharacters(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]int{
		`{}`: 2, ` { "a" : [ 1.0 , true ] } `: 16, `"\u00e9"`: 3, `"\ud83d\ude42"`: 3, `"\/"`: 3, `"\n\u000a\u0022\""`: 10, `"\u0001"`: 8, `"é🙂  "`: 6, `"\\" `: 4, `{"\u0061":1}`: 7,
	} {
		if got := leastCharacters([]byte(raw)); got != want {
			t.Errorf("%s: %d, want %d", raw, got, want)
		}
	}
	const path = "routing.properties.attributes: "
	for name, tt := range map[string]struct{ attributes, want string }{
		"a thousand escapes":  {`{"n":"` + strings.Repeat(`\u00e9`, 1000) + `"}`, path + "has 6065 characters with the worker's key as it is written, of which TaskRouter takes at most 4096; 1065 without white space between values, an escape such as \\u00e9 as the one character that it means: which of them it counts is not documented"},
		"white space":         {`{"n":` + strings.Repeat(" ", 4100) + `1}`, path + "has 4164 characters with the worker's key as it is written, of which TaskRouter takes at most 4096; 64 without white space between values, an escape such as \\u00e9 as the one character that it means: which of them it counts is not documented"},
		"little room":         {`{"n":"` + strings.Repeat("x", 3300) + `"}`, path + "has 3365 characters with the worker's key: Flex adds some 600 to 700 of its own, and TaskRouter takes at most 4096 in all"},
		"little room, string": {`"{\"n\":\"` + strings.Repeat("x", 3300) + `\"}"`, path + "has 3365 characters with the worker's key: Flex adds some 600 to 700 of its own, and TaskRouter takes at most 4096 in all"},
		"room":                {`{"n":"` + strings.Repeat("x", 3200) + `"}`, ""},
	} {
		if got := strings.Join(warned(t, requestWith(`"attributes":`+tt.attributes)), "; "); got != tt.want {
			t.Errorf("%s:\n got %s\nwant %s", name, got, tt.want)
		}
	}
	const form = `{"n":"%s"}`
	rejected(t, [][]string{{"escapes beyond it", requestWith(`"attributes":` + fmt.Sprintf(form, strings.Repeat(`\u00e9`, 4096))),
		path + "has 4161 characters with the worker's key (without white space between values, an escape such as \\u00e9 as the one character that it means), TaskRouter takes at most 4096"}})
}

// TestCheckNearMisses: a name that is nearly one that Flex documents is named in the
// warnings; the request is in order all the same.
func TestCheckNearMisses(t *testing.T) {
	t.Parallel()
	const mean = ": Flex documents no such name here, and ignores what it does not know; did you mean %s?"
	channel := func(member string) string {
		return `{"channel":{"type":"sms","initiated_by":"api",` + member + `},` + routingOK + `}`
	}
	for _, tt := range []struct{ body, path, near string }{
		{channel(`"particpants":[]`), "channel.particpants", "participants"},
		{channel(`"Participants":[]`), "channel.Participants", "participants"},
		{channel(`"initiatedBy":"api"`), "channel.initiatedBy", "initiated_by"},
		{channel(`"Properties":{}`), "channel.Properties", "properties"},
		{channel(`"properties":{"mediaChannelSid":"x"}`), "channel.properties.mediaChannelSid", "media_channel_sid"},
		{channel(`"properties":{"fromName":"x"}`), "channel.properties.fromName", "from_name"},
		{channel(`"participants":[{"address":"+1"},{"proxyAddress":"+1"}]`), "channel.participants[1].proxyAddress", "proxy_address"},
		{channel(`"participants":[{"adress":"+1"}]`), "channel.participants[0].adress", "address"},
		{requestWith(`"workflowSid":"x"`), "routing.properties.workflowSid", "workflow_sid"},
		{requestWith(`"WorkflowSid":"x"`), "routing.properties.WorkflowSid", "workflow_sid"},
		{requestWith(`"workflow-sid":"x"`), "routing.properties.workflow-sid", "workflow_sid"},
		{requestWith(`"workflow_sd":"x"`), "routing.properties.workflow_sd", "workflow_sid"},
		{requestWith(`"workspaceSid":"x"`), "routing.properties.workspaceSid", "workspace_sid"},
		{requestWith(`"taskChannelUniqueName":"x"`), "routing.properties.taskChannelUniqueName", "task_channel_unique_name"},
		{requestWith(`"task_chanel_unique_name":"x"`), "routing.properties.task_chanel_unique_name", "task_channel_unique_name"},
		{requestWith(`"taskChannelSid":"x"`), "routing.properties.taskChannelSid", "task_channel_sid"},
		{requestWith(`"queueSid":"x"`), "routing.properties.queueSid", "queue_sid"},
		{requestWith(`"workerSID":"x"`), "routing.properties.workerSID", "worker_sid"},
		{requestWith(`"atributes":{}`), "routing.properties.atributes", "attributes"},
		{requestWith(`"Priority":1`), "routing.properties.Priority", "priority"},
		{requestWith(`"prioritiy":1`), "routing.properties.prioritiy", "priority"},
		{requestWith(`"time_out":1`), "routing.properties.time_out", "timeout"},
	} {
		if got := warned(t, tt.body); len(got) != 1 || got[0] != tt.path+fmt.Sprintf(mean, tt.near) {
			t.Errorf("%s: %q", tt.path, got)
		}
	}
	const misplaced = ": Flex documents this name in %s, not here, and ignores what it does not know"
	for _, tt := range []struct{ body, path, place string }{
		{`{` + channelOK + `,"routing":{"attributes":{"a":1},"properties":{"workspace_sid":"` + workspace + `"}}}`, "routing.attributes", "routing.properties"},
		{channel(`"media_channel_sid":"x"`), "channel.media_channel_sid", "channel.properties"},
		{channel(`"properties":{"participants":[]}`), "channel.properties.participants", "channel"},
	} {
		if got := warned(t, tt.body); len(got) != 1 || got[0] != tt.path+fmt.Sprintf(misplaced, tt.place) {
			t.Errorf("%s: %q", tt.path, got)
		}
	}
	many := make([]string, 50)
	for n := range many {
		many[n] = fmt.Sprintf(`"priority%d":1`, n)
	}
	if got := warned(t, requestWith(strings.Join(many, ","))); len(got) != maxWarnings {
		t.Errorf("%d warnings, want %d", len(got), maxWarnings)
	}
}

// TestCheckNoFalseAlarms: no name that Flex documents or shows, nothing within attributes,
// and no name of the sender's own that is like none of them, is warned of.
func TestCheckNoFalseAlarms(t *testing.T) {
	t.Parallel()
	member := func(names []string) string {
		var list []string
		for _, n := range names {
			switch n {
			case "workspace_sid", "sid", "workflow_sid", "queue_sid", "worker_sid", "task_channel_sid", "attributes", "media_channel_sid", "type", "initiated_by", "properties", "participants":
				continue // stand there already, or have a form
			}
			list = append(list, fmt.Sprintf("%q:\"x\"", n))
		}
		return strings.Join(list, ",")
	}
	own := `"sms_sender":"x","customer":"y","campaign_id":1,"skills":[],"queue":"q","language":"de","form":"z","sids":1,"typ":1,"notes":"n","friendly_name":"f","particpants":null`
	body := `{"channel":{"type":"sms","initiated_by":"api",` + own + `,"properties":{` + member(channelPropertyNames.documented) + `,"media_channel_sid":"CH` + strings.Repeat("0", 32) + `",` + own + `},
		"participants":[{` + member(participantNames.documented) + `,` + own + `},"x",[]]},
		"routing":{` + member(routingNames.documented) + `,` + own + `,"properties":{"workspace_sid":"` + workspace + `","workflow_sid":"` + workflow + `",` +
		member(append(slices.Clone(routingPropertyNames.documented), routingPropertyNames.shown...)) + `,` + own + `,
		"attributes":{"workflowSid":1,"particpants":[],"Attributes":{},"workspace_sid":"x","taskChannelUniqueName":"y"}}},
		"metadata":{"workflowSid":1,"particpants":2}}`
	if got := warned(t, body); len(got) > 0 {
		t.Errorf("%q", got)
	}
	for _, known := range []names{channelNames, channelPropertyNames, participantNames, routingNames, routingPropertyNames} {
		for _, n := range slices.Concat(known.documented, known.shown) {
			c := checker{}
			c.names(rawjson.Object{{Key: []byte(n), Value: []byte(`1`)}}, "p", known)
			if len(c.warnings) > 0 {
				t.Errorf("%v", c.warnings)
			}
		}
	}
}

// FuzzNearMiss: a documented name with one letter lost, doubled or changed in case is
// noticed wherever the name is long, and the distance is one.
func FuzzNearMiss(f *testing.F) {
	for n := range 12 {
		f.Add(uint8(n), uint8(3*n), uint8(n%3))
	}
	f.Fuzz(func(t *testing.T, which, where, how uint8) {
		all := slices.Concat(channelNames.documented, routingPropertyNames.documented)
		name := all[int(which)%len(all)]
		i := int(where) % len(name)
		if len(normalised(name)) < longName || name[i] == '_' {
			return
		}
		mistyped := [...]string{name[:i] + name[i+1:], name[:i+1] + name[i:], name[:i] + strings.ToUpper(name[i:i+1]) + name[i+1:]}[how%3]
		if slices.Contains(all, mistyped) {
			return
		}
		if got := nearest(mistyped, []string{name}); got != name {
			t.Errorf("%s is not taken for %s", mistyped, name)
		}
		if d := distance(mistyped, name); d != 1 {
			t.Errorf("from %s to %s: %d", mistyped, name, d)
		}
	})
}
