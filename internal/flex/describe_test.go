package flex

import (
	"encoding/json"
	"strings"
	"testing"

	"flexworker/internal/rawjson"
)

// TestDescribe: all keys are always there; what the answer does not say is null.
func TestDescribe(t *testing.T) {
	t.Parallel()
	const unsaid = `"assignment_status":null,"workspace_sid":null,"workflow_sid":null,"workflow_name":null,"queue_sid":null,"queue_name":null,` +
		`"task_channel_sid":null,"task_channel_unique_name":null,"priority":null`
	const nothing = `{` + unsaid + `,"date_created":null,"date_updated":null,"reservation":null,"conversation_sid":null}`
	for _, tt := range []struct{ name, response, channel, routing string }{
		{"create", created, `{"sid":"UO77aa01c3e5f7482d9b0a1c2d3e4f5061","type":"whatsapp"}`,
			`{"assignment_status":"pending","workspace_sid":"` + ws + `","workflow_sid":"` + ww + `","workflow_name":"Inbound care","queue_sid":null,"queue_name":null,"task_channel_sid":null,"task_channel_unique_name":null,"priority":10,` +
				`"date_created":"2026-11-22T00:00:00Z","date_updated":null,"reservation":null,"conversation_sid":"CH00000000000000000000000000000007"}`},
		{"ISO dates, attributes as an object, a reservation",
			`{"routing":{"reservation":{"sid":"WR1","n":1.0},"properties":{"date_created":"2026-11-22T01:00:00+01:00","date_updated":"2026-11-22T00:00:05.123Z","attributes":{"conversationSid":"CH1"}}}}`,
			`null`, `{` + unsaid + `,"date_created":"2026-11-22T00:00:00Z","date_updated":"2026-11-22T00:00:05Z","reservation":{"sid":"WR1","n":1.0},"conversation_sid":"CH1"}`},
		{"all of other types", `{"channel":{"sid":1,"type":[]},"routing":{"properties":{"assignment_status":3,"priority":"high","date_created":{},"date_updated":-1,"attributes":"x"}}}`,
			`{"sid":null,"type":null}`, nothing},
		{"absurd dates", `{"routing":{"properties":{"date_created":1e300,"date_updated":"yesterday"}}}`, `null`, nothing},
		{"no properties", `{"routing":{}}`, `null`, nothing},
		{"nulls", `{"channel":null,"routing":null}`, `null`, `null`},
		{"of other types", `{"channel":"x","routing":[1]}`, `null`, `null`},
		{"nothing", ``, `null`, `null`}, {"null", `null`, `null`, `null`}, {"broken", `{"routing":{"prop`, `null`, nothing},
	} {
		channel, routing := Describe(json.RawMessage(tt.response))
		if got, _ := json.Marshal(channel); string(got) != tt.channel {
			t.Errorf("%s: channel %s", tt.name, got)
		}
		got, err := json.Marshal(routing)
		if err != nil || string(got) != tt.routing {
			t.Errorf("%s:\n got %s, %v\nwant %s", tt.name, got, err, tt.routing)
		}
	}
}

func FuzzDescribe(f *testing.F) {
	f.Add([]byte(created))
	f.Fuzz(func(t *testing.T, response []byte) {
		channel, routing := Describe(response)
		if _, err := json.Marshal(channel); err != nil {
			t.Error(err)
		}
		if _, err := json.Marshal(routing); err != nil {
			t.Error(err)
		}
	})
}

// The keys stand in tasks and in tables: these values must never change.
func TestLookupKeyIsForEver(t *testing.T) {
	t.Parallel()
	for id, want := range map[string]string{
		"crm-42-callback": "33e7b82ac23ac2f51c9045d7dbcc9bae",
		"":                "f27d3c799a7e9c603564a1eaf5ab1980",
	} {
		if got := LookupKey(id); got != want {
			t.Errorf("%q: %s", id, got)
		}
	}
}

func TestAddLookupKey(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ routing, want, err string }{
		{`{"properties":{"attributes":{"n":1.0, "m":2}}}`, `{"properties":{"attributes":{"k":"v","n":1.0, "m":2}}}`, ""},
		{`{ "properties" : {"a":1} }`, `{ "properties" : {"attributes":{"k":"v"},"a":1} }`, ""},
		{`{"properties":{"attributes":null}}`, `{"properties":{"attributes":{"k":"v"}}}`, ""},
		{`{"properties":{"attributes":{}},"x":1e2}`, `{"properties":{"attributes":{"k":"v"}},"x":1e2}`, ""},
		{`{"properties":{"attributes":"{\"n\":1.0,\"h\":\"<&>\\u00e9\"}","z":0}}`, `{"properties":{"attributes":"{\"k\":\"v\",\"n\":1.0,\"h\":\"<&>\\u00e9\"}","z":0}}`, ""},
		{`{"properties":{"attributes":" {} "}}`, `{"properties":{"attributes":" {\"k\":\"v\"} "}}`, ""},
		{`{"properties":{"attributes":{"k":1}}}`, ``, "routing.properties.attributes.k: is there already"},
		{`{"properties":{"attributes":"{\"k\":1}"}}`, ``, "routing.properties.attributes.k: is there already"},
		{`{"properties":{"attributes":[]}}`, ``, "routing.properties.attributes: is not an object"},
		{`{"properties":{"attributes":""}}`, ``, "routing.properties.attributes: the string is not an object"},
		{`{"properties":{"attributes":"null"}}`, ``, "routing.properties.attributes: the string is not an object"},
		{`{"properties":{"attributes":"{"}}`, ``, "routing.properties.attributes: the string is not an object"},
		{`{"properties":[]}`, ``, "routing.properties: is not an object"},
		{`{}`, ``, "routing.properties: is missing"},
		{`null`, ``, "routing.properties: is missing"},
		{``, ``, "routing.properties: is missing"},
	} {
		got, err := AddLookupKey(json.RawMessage(tt.routing), "k", "v")
		if string(got) != tt.want || (err == nil) != (tt.err == "") || (err != nil && err.Error() != tt.err) {
			t.Errorf("%s:\n got %s, %v\nwant %s, %s", tt.routing, got, err, tt.want, tt.err)
		}
	}
}

func FuzzAddLookupKey(f *testing.F) {
	f.Add([]byte(`{"properties":{"attributes":{"n":1.0}}}`))
	f.Add([]byte(`{"properties":{"attributes":"{\"n\":1.0}"}}`))
	f.Add([]byte(`{"properties":{"attributes":" {\n \"n\":\"\\u00e9<\"}"}}`))
	f.Add([]byte(`{"properties":{"attributes":null}}`))
	f.Fuzz(func(t *testing.T, routing []byte) {
		if len(rawjson.Check(routing)) > 0 {
			return
		}
		got, err := AddLookupKey(routing, "zz_key", "v")
		if err != nil {
			return
		}
		if !json.Valid(got) {
			t.Fatalf("%s became %s", routing, got)
		}
		raw, _ := rawjson.Member(got, attributesPath...)
		inner := object(raw)
		if textAt(inner, "zz_key") != "v" {
			t.Fatalf("no key in %s", got)
		}
		// With the key taken out again the text is what it was.
		old, had := rawjson.Member(routing, attributesPath...)
		if !had || string(old) == "null" {
			return
		}
		less := strings.Replace(string(inner), `"zz_key":"v",`, "", 1)
		if less == string(inner) {
			less = strings.Replace(string(inner), `"zz_key":"v"`, "", 1)
		}
		if less != string(object(old)) {
			t.Fatalf("the attributes %s became %s", old, raw)
		}
		back, err := rawjson.Replace(got, old, attributesPath...)
		if err != nil || string(back) != string(routing) {
			t.Fatalf("beside the attributes: %s became %s", routing, got)
		}
	})
}
