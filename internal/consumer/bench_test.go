package consumer

import (
	"testing"

	"flexworker/internal/outbox/request"
)

// usual is a request as most are: a workspace, some attributes, metadata.
const usual = `{"request_id":"crm-42-callback-0000017","channel":{"type":"sms","initiated_by":"api",` +
	`"participants":[{"address":"+15550100","proxy_address":"+15550199"}]},` +
	`"routing":{"properties":{"workspace_sid":"` + workspace + `","workflow_sid":"` + workflow + `",` +
	`"task_channel_unique_name":"sms","attributes":{"customerName":"Ada Lovelace","order":12345678901234567890,` +
	`"note":"call about the delivery"}}},"priority":5,"expires_at":"2099-11-22T17:00:00Z","metadata":{"order":42,"tenant":"north"}}`

func BenchmarkDecode(b *testing.B) {
	for name, m := range map[string]request.Message{
		"plain":      message(msgID("crm-42-callback-0000017"), usual),
		"CloudEvent": message(nil, `{"specversion":"1.0","type":"t","source":"/s","id":"ce-1","data":`+usual+`}`),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if e, bad := decode(m, "interaction_request"); bad != "" || len(e.Faults) > 0 {
					b.Fatal(bad, e.Faults)
				}
			}
		})
	}
}
