package results

import (
	"testing"
	"time"
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
