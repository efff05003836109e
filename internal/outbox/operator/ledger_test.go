package operator

import (
	"testing"

	"flexworker/internal/outbox/results"
)

// kdA and kdB are sids of interactions.
const (
	kdA = "KD0000000000000000000000000000000a"
	kdB = "KD0000000000000000000000000000000b"
)

// TestAuditRewritten: another body under a message id is seen, also when a third
// message says again what the first did. A duplicate window that is over takes them.
func TestAuditRewritten(t *testing.T) {
	t.Parallel()
	a := "a"
	l := ledger{byID: map[string]published{}}
	for _, sid := range []string{kdA, kdB, kdA} {
		l.note("id", results.Result{RequestID: &a, Outcome: "created", InteractionSID: &sid})
	}
	if p := l.byID["id"]; !p.different || p.sid != kdA || len(l.odd) != 1 || l.odd[0].sid != kdB {
		t.Errorf("%+v", l)
	}
}
