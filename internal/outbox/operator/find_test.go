package operator_test

import (
	"testing"

	"flexworker/internal/flex"
	"flexworker/internal/outbox/operator"
	"flexworker/internal/outbox/request"
	"flexworker/internal/testing/pgtest"
)

const taskA = "WT0000000000000000000000000000000a"

// TestFind: each kind of text finds the requests that it names, and nothing else.
func TestFind(t *testing.T) {
	t.Parallel()
	s := newRig(t)
	with := func(attributes string) func(*request.Event) {
		return func(e *request.Event) {
			e.Request = []byte(`{"request_id":"` + e.RequestID + `","channel":{"type":"sms"},"routing":{"properties":{"attributes":` + attributes + `}}}`)
		}
	}
	for i, e := range []struct{ id, attributes string }{
		{"object", `{"name":"Ada","order":17,"vip":true,"none":null,"deep":{"name":"Eve"}}`},
		{"string", `"{\"name\":\"Ada\",\"order\":17}"`},
		{"escaped", `{"name":"\u0041da"}`},
		{"escaped twice", `"{\"name\":\"\\u0041da\"}"`},
		{"broken", `"{\"name\":\"Ada\""`},
		{"nul", `"{\"name\":\"Ada\",\"x\":\"\\u0000\"}"`},
		{"half", `"{\"name\":\"Ada\",\"x\":\"\\ud800\"}"`},
		{"list", `["name","Ada"]`},
		{"letters", `{"name":"Zoë <b> = 50 %"}`},
		{"none", `null`},
		{"name=Ada", `{}`},
	} {
		s.add(t, event(e.id, uint64(i+1), with(e.attributes)))
	}
	s.add(t, event(sidB, 50))
	mustAdd(t, s, "a", 2)
	pgtest.Exec(t, s.pool, `UPDATE outbox SET state = 'created', interaction_sid = $1, task_sid = $2, resolved_by = 'response', settled_at = now(), due_at = NULL, attempt = 1 WHERE request_id IN ('a-1', 'a-2')`, sidA, taskA)
	s.add(t, event("keyed", 60, keyed))
	pgtest.Exec(t, s.pool, `UPDATE outbox SET twilio_request_id = $1 WHERE request_id = 'a-2'`, "RQ"+taskA[2:])
	for _, tt := range []struct{ text, as, want string }{
		{"a-1", operator.AsRequestID, "a-1"},
		{" a-1\n", operator.AsRequestID, "a-1"},
		{"name=Ada", operator.AsRequestID, "name=Ada"},
		{sidA, operator.AsInteraction, "a-2 a-1"},
		{sidB, operator.AsRequestID, sidB},
		{"KD0000000000000000000000000000000c", operator.AsInteraction, ""},
		{taskA, operator.AsTask, "a-2 a-1"},
		{"WT0000000000000000000000000000000b", operator.AsTask, ""},
		{"RQ" + taskA[2:], operator.AsCall, "a-2"},
		{"RQ" + sidB[2:], operator.AsCall, ""},
		{flex.LookupKey("keyed"), operator.AsKey, "keyed"},
		{flex.LookupKey("nobody"), operator.AsKey, ""},
		{"order=17", operator.AsAttribute, "string object"},
		{"order=1", operator.AsAttribute, ""},
		{"vip=true", operator.AsAttribute, "object"},
		{"none=null", operator.AsAttribute, "object"},
		{`deep={"name":"Eve"}`, operator.AsAttribute, "object"},
		{"name=Zoë <b> = 50 %", operator.AsAttribute, "letters"},
		{"name=Eve", operator.AsAttribute, ""},
		{"name=", operator.AsAttribute, ""},
		{"=Ada", operator.AsRequestID, ""},
		{"", operator.AsRequestID, ""},
		{"nobody", operator.AsRequestID, ""},
		{"a\x00=b", operator.AsRequestID, ""},
		{"name=\xff", operator.AsRequestID, ""},
	} {
		found, err := s.desk.Find(t.Context(), tt.text, "")
		if err != nil || found.As != tt.as || ids(found.Rows) != tt.want || found.Next != "" || found.SearchedTo != nil {
			t.Errorf("%q: %v, %s: %q, want %s: %q", tt.text, err, found.As, ids(found.Rows), tt.as, tt.want)
		}
	}
	// The request named name=Ada hides what has that attribute, as long as it is there.
	pgtest.Exec(t, s.pool, `UPDATE outbox SET request_id = 'other' WHERE request_id = 'name=Ada'`)
	if found, err := s.desk.Find(t.Context(), "name=Ada", ""); err != nil || ids(found.Rows) != "half nul escaped twice escaped string object" {
		t.Errorf("%v: %q", err, ids(found.Rows))
	}
}
