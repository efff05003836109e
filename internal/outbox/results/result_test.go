package results

import (
	"testing"
	"time"

	"flexworker/internal/outbox/request"
)

// TestDue: a request is due when it was received, or at its not_before where that is later.
func TestDue(t *testing.T) {
	t.Parallel()
	received := time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		request string
		want    time.Time
	}{
		{`{"channel":{}}`, received},
		{`{"channel":{"not_before":"2026-11-22T10:00:00Z"}}`, received},
		{`{"not_before":"2026-11-22T10:00:00.5Z"}`, received.Add(time.Hour + 500*time.Millisecond)},
		{`{"not_before":"2026-11-22t11:00:00+01:00"}`, received.Add(time.Hour)},
		{`{"not_before":"2026-11-22T08:00:00Z"}`, received},
		{`{"not_before":"tomorrow"}`, received},
		{`{"not_before":null}`, received},
		{``, received},
	} {
		s := Settled{Request: []byte(tt.request), ReceivedAt: received}
		if got := s.Due(); !got.Equal(tt.want) {
			t.Errorf("%s is due at %v, want %v", tt.request, got, tt.want)
		}
	}
}

// TestUsedUp: whose request ended before Flex heard of it is told that its id is used up, and what to do. So is whose request was
// abandoned or is uncertain. Of an erased one, and of what Flex rejected, the message stays as it is.
func TestUsedUp(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		state               request.State
		kind, message, more string
		faults              string
	}{
		{request.Expired, "expired", "expires_at passed before it was sent", "; its request_id is used up: ask again under a new one", ""},
		{request.Rejected, "invalid", "channel: missing", "; its request_id is used up: send the corrected request under a new one", `[{"path":"channel","problem":"missing"}]`},
		{request.Rejected, "http_400", "Invalid Channel", "", ""},
		{request.Uncertain, "expired", "expires_at passed after one attempt", "; wait for the final result, and do not send the same under another request_id", ""},
		{request.Abandoned, "undecided", "whether it exists cannot be found out", "; it may exist: ask the operators before you ask again under a new request_id", ""},
		{request.Abandoned, "attempts_used_up", "no attempt is left", "; its request_id is used up: you may ask again under a new one", ""},
		{request.Cancelled, "absent", "cancelled", "", ""},
		{request.Abandoned, "undecided", "", "", ""},
		{request.Expired, "expired", "", "", ""},
	} {
		s := Settled{State: tt.state, ErrorKind: &tt.kind, ErrorMessage: &tt.message}
		if tt.faults != "" {
			s.faults = []byte(tt.faults)
		}
		if got := s.Answer().Body.Error; got.Message != tt.message+tt.more || got.Kind != tt.kind {
			t.Errorf("%s: %+v", tt.state, got)
		}
	}
}
