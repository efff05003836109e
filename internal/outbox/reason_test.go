package outbox

import (
	"strings"
	"testing"

	"flexworker/internal/outbox/lookup"
	"flexworker/internal/outbox/request"
)

// TestReason: what operators read after a lookup claims no more than was proved.
func TestReason(t *testing.T) {
	t.Parallel()
	absent := request.Finding{Kind: request.Absent, Why: "no witness"}
	for _, tt := range []struct {
		name    string
		finding request.Finding
		move    request.Move
		kind    string // "": the reason that is there stays
		says    string
	}{
		{"found", request.Finding{Kind: request.Found}, request.Move{To: request.Created}, "", ""},
		{"found twice", request.Finding{Kind: request.Found, Others: []string{"KD1"}}, request.Move{To: request.Created}, "duplicate", "close the others: KD1"},
		{"absent", absent, request.Move{To: request.Pending}, "absent", "did not create it: no witness"},
		{"absent, no attempt left", absent, request.Move{To: request.Abandoned}, "attempts_used_up", "proved absent"},
		{"absent after a 2xx, fail", absent, request.Move{To: request.Abandoned, Undecided: true}, "undecided", "cannot be found out"},
		{"unclear, retry", request.Finding{}, request.Move{To: request.Pending, Undecided: true}, "undecided", "sends it again"},
		{"unclear, hold", request.Finding{}, request.Move{To: request.Uncertain, Person: true, Undecided: true}, "undecided", "a person has to decide"},
		{"not yet", request.Finding{}, request.Move{To: request.Uncertain}, "", ""},
	} {
		kind, why := lookup.Reason(lookup.Input{}, tt.finding, tt.move)
		if tt.kind == "" {
			if kind != nil || why != nil {
				t.Errorf("%s: %v, %v; the reason that is there was to stay", tt.name, *kind, *why)
			}
			continue
		}
		if kind == nil || *kind != tt.kind || !strings.Contains(*why, tt.says) {
			t.Errorf("%s: kind %v, %v; want %s and %q", tt.name, kind, why, tt.kind, tt.says)
		}
	}
}
