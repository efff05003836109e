package main

import (
	"testing"
	"time"
)

// TestLateAnnouncement: the final result stands beside an announcement of its revision that the stream had later. One of a later
// revision is an offence.
func TestLateAnnouncement(t *testing.T) {
	b := newBook()
	b.recs = []*rec{{variant: -1}}
	id := b.id(0)
	tell := func(outcome string, revision int32) {
		b.answered("interactions.results."+outcome+".crm", outcome, time.Now(), []byte(`{}`), result{RequestID: id, Outcome: outcome, Revision: revision})
	}
	tell("abandoned", 2)
	tell("uncertain", 1)
	tell("uncertain", 2)
	if b.late != 2 || len(b.offences) != 0 {
		t.Errorf("%d came late, offences: %v", b.late, b.offences)
	}
	tell("uncertain", 3)
	if b.late != 2 || len(b.offences) != 1 {
		t.Errorf("%d came late, offences: %v", b.late, b.offences)
	}
}
