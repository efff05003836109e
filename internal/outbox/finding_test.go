package outbox

import (
	"context"
	"testing"
	"time"

	"flexworker/internal/flex"
)

// logReader is a TaskRouter that lists nothing, and whose log can be read as
// far as one inquiry may: 32,000 events, of an account that creates perSecond.
type logReader struct{ perSecond float64 }

func (logReader) SearchTasks(context.Context, string, []string) ([]flex.Task, error) { return nil, nil }

func (logReader) Fetch(context.Context, string) flex.Outcome { return flex.Outcome{} }

func (l logReader) Events(_ context.Context, _ string, _ []string, from, to time.Time) ([]flex.Task, bool, error) {
	if now := time.Now(); to.After(now) {
		to = now
	}
	return nil, to.Sub(from).Seconds()*l.perSecond < 32_000, nil
}

// TestAbsenceIsProvedOnABusyAccount: the log is read for the time of the
// attempt, not for all that was created since. Found by the soak, where requests
// that were looked up some minutes late could never be proved absent and all
// came to a person.
func TestAbsenceIsProvedOnABusyAccount(t *testing.T) {
	t.Parallel()
	for _, age := range []time.Duration{time.Minute, 4 * time.Minute, 20 * time.Minute} {
		q := inquiry{workspace: "WS", settle: time.Minute, lease: 20 * time.Second,
			asked: []uncertain{{lookupKey: "key", since: time.Now().Add(-age), age: age}}}
		findings, err := q.lookUp(t.Context(), logReader{perSecond: 120})
		if err != nil || findings[0].Kind != Absent {
			t.Errorf("%v after the attempt: %v (%s), %v; want absent", age, findings[0].Kind, findings[0].Why, err)
		}
	}
}
