package outbox

import (
	"testing"
	"time"

	"flexworker/internal/outbox/request"
	"flexworker/internal/outbox/results"
)

// created is a settled request as most are, with as much of the answer as is read.
func created() *results.Settled {
	sid, task, status := "KD4b1f0c22d98e47a6b3c5d7e9f1a20b34", "WT9c8b7a6f5e4d4c3b2a19080706050403", "pending"
	now := time.Date(2026, 11, 22, 9, 0, 0, 123456000, time.UTC)
	return &results.Settled{RequestID: "crm-42-callback-0000017", Source: "crm", State: request.Created, Attempt: 1, Revision: 1,
		InteractionSID: &sid, TaskSID: &task, AssignmentStatus: &status, ReceivedAt: now, SettledAt: &now,
		Request: []byte(`{"request_id":"crm-42-callback-0000017","channel":{"type":"sms","initiated_by":"api"},` +
			`"routing":{"properties":{"workspace_sid":"WS00000000000000000000000000000002","attributes":{"customerName":"Ada"}}},` +
			`"metadata":{"order":42,"tenant":"north"}}`),
		Response: []byte(`{"sid":"KD4b1f0c22d98e47a6b3c5d7e9f1a20b34","channel":{"sid":"UO77aa01c3e5f7482d9b0a1c2d3e4f5061","type":"sms"},` +
			`"routing":{"reservation":null,"properties":{"sid":"WT9c8b7a6f5e4d4c3b2a19080706050403","workspace_sid":"WS00000000000000000000000000000002",` +
			`"workflow_sid":"WW00000000000000000000000000000003","workflow_name":"Inbound care","queue_sid":"WQ00000000000000000000000000000004",` +
			`"queue_name":"Care","task_channel_sid":"TC00000000000000000000000000000005","task_channel_unique_name":"sms","assignment_status":"pending",` +
			`"priority":10,"date_created":1795305600,"date_updated":1795305600,` +
			`"attributes":"{\"customerName\":\"Ada\",\"flexInteractionSid\":\"KD4b1f0c22d98e47a6b3c5d7e9f1a20b34\",\"conversationSid\":\"CH00000000000000000000000000000007\"}"}}}`)}
}

// BenchmarkResult is what a settled request costs until its bytes can be published.
func BenchmarkResult(b *testing.B) {
	s := created()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := results.Encode(s.Answer().Body); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkInteractionOf(b *testing.B) {
	l := Lease{LookupKey: "5f2c9a7e41d84b0c9e6d3a1b7c8f0e22", Request: created().Request}
	b.ReportAllocs()
	for b.Loop() {
		if in := interactionOf(l); len(in.Routing) == 0 {
			b.Fatal(in)
		}
	}
}
