package outbox

import (
	"fmt"
	"testing"

	"flexworker/internal/outbox/request"
	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/flextest"
)

// TestConnectBlackHole: packets to Flex vanish. Not a byte was sent, so the
// attempt is uncounted.
func TestConnectBlackHole(t *testing.T) {
	t.Parallel()
	srv := flextest.New(t)
	if err := srv.BlackHole(); err != nil {
		t.Fatal(err)
	}
	s := newStore(t)
	id := mustAdd(t, s, "hole", 1)[0]
	d := newDeliverer(t, s, srv)
	hasty(t, d, srv)
	start(t, d)
	expect.Eventually(t, func() error {
		if r := s.row(t, id); r.State != request.Pending || r.Attempt != 1 || r.Uncounted != 1 {
			return fmt.Errorf("%s, attempt %d, uncounted %d", r.State, r.Attempt, r.Uncounted)
		}
		return nil
	})
}
