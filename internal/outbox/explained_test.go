package outbox

import (
	"strings"
	"testing"

	"flexworker/internal/outbox/request"
)

// TestExplainWhatIs: every state as it really stands in the table has its word.
func TestExplainWhatIs(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	everyState(t, s)
	for state, want := range map[request.State]string{
		request.Pending: "It is due", request.Sending: "It is being sent: worker w holds attempt 1", request.Uncertain: "It may exist, and no lookup can tell",
		request.Created: "It is created as " + sidA + " (Flex answered so)", request.Rejected: "It is rejected since", request.Abandoned: "It is abandoned since",
		request.Expired: "It is expired since", request.Cancelled: "It is cancelled since",
	} {
		if got, err := s.desk().Explain(t.Context(), string(state)); err != nil || !strings.Contains(got, "\n"+want) || strings.Contains(got, "%!") {
			t.Errorf("%s: %s, %v", state, got, err)
		}
	}
	if got, err := s.desk().Explain(t.Context(), "faulty"); err != nil || !strings.Contains(got, "channel: is no channel. It failed the check before Flex") {
		t.Errorf("faulty: %s %v", got, err)
	}
}
