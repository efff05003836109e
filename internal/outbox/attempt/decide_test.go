package attempt

import (
	"testing"
	"time"

	"flexworker/internal/flex"
	"flexworker/internal/outbox/request"
)

// TestAlone: a request whose tenant is refused is uncounted at first and answered in the
// end; what this replica's credentials cost never counts.
func TestAlone(t *testing.T) {
	t.Parallel()
	p := request.Policy{MinDelay: time.Second, MaxDelay: time.Minute, MaxAttempts: 3}
	for _, tt := range []struct {
		name    string
		blocked flex.Outcome
		want    request.State
		tries   int
	}{
		{"a refusal that may be one tenant's", flex.Outcome{Kind: flex.Blocked, HTTPStatus: 403, ErrorKind: "http_403"}, request.Abandoned, 6},
		{"a refusal of the replica", flex.Outcome{Kind: flex.Blocked, HTTPStatus: 401, ErrorKind: "http_401"}, request.Pending, 1000},
	} {
		l := Lease{}
		for l.Attempt = 1; ; l.Attempt++ {
			r := Decide(p, l, tt.blocked, 0.5)
			if r.Move.To != request.Pending || l.Attempt == tt.tries {
				if r.Move.To != tt.want || l.Attempt != tt.tries {
					t.Errorf("%s: %s after %d attempts, want %s after %d", tt.name, r.Move.To, l.Attempt, tt.want, tt.tries)
				}
				break
			}
			if r.Move.Uncounted {
				l.Uncounted++
			}
		}
	}
}
