package gate

import (
	"testing"
	"testing/synctest"
	"time"

	"flexworker/internal/loop"
)

// knowing is the Registry of w1, which has just found the fleet so.
func knowing(now time.Time, peers ...Replica) *Registry {
	r := &Registry{Name: "w1"}
	r.known.Store(&knownFleet{Fleet{Now: now, Replicas: peers}, time.Now()})
	return r
}

// TestKnownPeersGrowOld: somebody holds outbox_replicas, so that a worker cannot look. What it knows of its peers counts
// for no longer than the row of a peer that has died then. After that it relies on none.
func TestKnownPeersGrowOld(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		r := knowing(now, Replica{Name: "w2", Alive: true, State: WordOK}, Replica{Name: "w3", Alive: true, State: WordUnreachable, Since: now.Add(-time.Hour)})
		loop.Rest(t.Context(), aliveFor, nil)
		if !r.PeerWorks() || !r.PeerUnreachable() {
			t.Error("it does not know its peers")
		}
		loop.Rest(t.Context(), time.Millisecond, nil)
		if r.PeerWorks() || r.PeerUnreachable() {
			t.Error("it relies on what it found long ago")
		}
	})
	if none := (*Registry)(nil); none.PeerWorks() || none.PeerUnreachable() || !none.KnownAt().IsZero() {
		t.Error("who has no fleet knows of a peer")
	}
}

// TestStartIsNoOutage: a worker that has just started is stopped until its first read is answered, and its row may say
// so until its next renewal. Its peers do not take that for an outage of Flex. One that stays unreachable is one.
func TestStartIsNoOutage(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for since, want := range map[time.Duration]bool{
		0: false, 2 * RenewEvery: false, 2*AskEvery - time.Millisecond: false, 2 * AskEvery: true, time.Hour: true,
		-time.Hour: true, // Postgres's clock went back
	} {
		synctest.Test(t, func(t *testing.T) {
			r := knowing(now, Replica{Name: "w2", Alive: true, State: WordUnreachable, Since: now.Add(-since)})
			if got := r.PeerUnreachable(); got != want {
				t.Errorf("unreachable for %v: %v", since, got)
			}
		})
	}
}
