package flextest

import (
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
)

// TestEventsInOrder: the event log and the ledger stand in the order of their times, however many calls create at once. A
// read of the log goes backwards and ends at the first event before its time: one that was too far behind would hide others.
func TestEventsInOrder(t *testing.T) {
	t.Parallel()
	l := newLedger(0)
	l.fates = rand.New(rand.NewPCG(1, 1))
	var creating sync.WaitGroup
	for range 64 {
		creating.Go(func() {
			for range 500 {
				l.add(&wish{routed: true}, 1, &Settings{}, &TaskRouter{})
			}
		})
	}
	creating.Wait()
	if !slices.IsSortedFunc(l.events, func(a, b event) int { return int(a.at - b.at) }) {
		t.Error("an event is later in the log than in time")
	}
	if !slices.IsSortedFunc(l.entries, func(a, b *entry) int { return int(a.at - b.at) }) {
		t.Error("an entry is later in the ledger than in time")
	}
}
