package outbox

import (
	"strings"
	"testing"
)

// TestVerdict: what operators read after a lookup claims no more than was proved.
func TestVerdict(t *testing.T) {
	t.Parallel()
	absent := Finding{Kind: Absent, Why: "no witness"}
	for _, tt := range []struct {
		name    string
		finding Finding
		move    move
		kind    string // "": the reason that is there stays
		says    string
	}{
		{"found", Finding{Kind: Found}, move{to: Created}, "", ""},
		{"found twice", Finding{Kind: Found, Others: []string{"KD1"}}, move{to: Created}, "duplicate", "close the others: KD1"},
		{"absent", absent, move{to: Pending}, "absent", "did not create it: no witness"},
		{"absent, no attempt left", absent, move{to: Abandoned}, "attempts_used_up", "proved absent"},
		{"absent after a 2xx, fail", absent, move{to: Abandoned, undecided: true}, "undecided", "cannot be found out"},
		{"unclear, retry", Finding{}, move{to: Pending, undecided: true}, "undecided", "sends it again"},
		{"unclear, hold", Finding{}, move{to: Uncertain, person: true, undecided: true}, "undecided", "a person has to decide"},
		{"not yet", Finding{}, move{to: Uncertain}, "", ""},
	} {
		kind, why := verdict(uncertain{}, tt.finding, tt.move)
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
