package request

import "testing"

// TestBlank: of a request and an answer the sids stay that stand where sids belong, and times; nothing that anybody could
// choose stays, whatever stands in its place.
func TestBlank(t *testing.T) {
	t.Parallel()
	const hex = "0123456789abcdef0123456789ABCDEF"
	for _, tt := range []struct {
		name      string
		of        func([]byte) []byte
		text, now string
	}{
		{"a request", func(b []byte) []byte { return Blank(b) },
			`{"request_id":"ada-1","channel":{"type":"sms","initiated_by":"api","participants":[{"address":"+15550100"}],"sid":"UO` + hex + `","properties":{"media_channel_sid":"CH` + hex + `","from":"ada@example.test"}},
			  "routing":{"properties":{"workspace_sid":"WS` + hex + `","workflow_sid":"Ada Lovelace","queue_sid":"WS` + hex + `","attributes":{"customerName":"Ada","workspace_sid":"WS` + hex + `"}}},
			  "interaction_context_sid":"HQ` + hex + `","metadata":{"phone":"+15550100"},"not_before":"2026-11-22T10:00:00+01:00","priority":3}`,
			`{"channel":{"properties":{"media_channel_sid":"CH` + hex + `"},"sid":"UO` + hex + `"},"interaction_context_sid":"HQ` + hex + `","not_before":"2026-11-22T09:00:00Z","routing":{"properties":{"workspace_sid":"WS` + hex + `"}}}`},
		{"names and times that mean harm", func(b []byte) []byte { return Blank(b) },
			`{"channel":"+15550100","routing":{"properties":[{"workspace_sid":"WS` + hex + `"}]},"not_before":"Ada","Ada":{"sid":"UO` + hex + `"}}`, `{}`},
		{"no JSON", func(b []byte) []byte { return Blank(b) }, `{"Ada`, `{}`},
		{"nothing", func(b []byte) []byte { return Blank(b) }, ``, `{}`},
		{"an answer", func(b []byte) []byte { return BlankAnswer(b) },
			`{"sid":"KD` + hex + `","channel":{"sid":"UO` + hex + `","type":"sms"},"routing":{"properties":{"sid":"WT` + hex + `","workspace_sid":"WS` + hex + `","workflow_name":"Ada's",
			  "date_created":1795305600,"date_updated":"yesterday","attributes":"{\"customerName\":\"Ada\",\"conversationSid\":\"CH` + hex + `\"}"}}}`,
			`{"channel":{"sid":"UO` + hex + `"},"routing":{"properties":{"attributes":{"conversationSid":"CH` + hex + `"},"date_created":"2026-11-22T00:00:00Z","sid":"WT` + hex + `","workspace_sid":"WS` + hex + `"}},"sid":"KD` + hex + `"}`},
		{"a refusal", func(b []byte) []byte { return BlankAnswer(b) }, `{"status":400,"code":20001,"message":"+15550100 is no number"}`, `{}`},
	} {
		if got := string(tt.of([]byte(tt.text))); got != tt.now {
			t.Errorf("%s:\n%s\nwant\n%s", tt.name, got, tt.now)
		}
	}
}
