package outbox

import (
	"testing"

	"flexworker/internal/flex"
)

// TestTenants: which refusals may be one tenant's, and what is no answer.
func TestTenants(t *testing.T) {
	t.Parallel()
	blocked := func(status, code int) flex.Outcome {
		return flex.Outcome{Kind: flex.Blocked, HTTPStatus: status, TwilioCode: code}
	}
	for _, tt := range []struct {
		outcome              flex.Outcome
		oneTenants, noAnswer bool
	}{
		{blocked(403, 20403), true, false}, {blocked(400, 45002), true, false}, {blocked(401, 45002), false, false}, {blocked(407, 0), false, false},
		{isRedirect, false, false}, {isAstray, false, false}, {blocked(403, 20005), false, false}, {blocked(0, 0), false, false},
		{flex.Outcome{}, false, true}, {isRefusing, false, true}, {isLimited, false, false}, {isCreated, false, false}, {isRejected, false, false}, {isForeign, false, true},
	} {
		if one, no := flex.MayBeOneTenants(tt.outcome), flex.Unanswered(tt.outcome); one != tt.oneTenants || no != tt.noAnswer {
			t.Errorf("%+v: one tenant's %t, no answer %t", tt.outcome, one, no)
		}
	}
}
