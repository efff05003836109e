package batch

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestTurnGathers: while another write has the turn, who comes is gathered.
func TestTurnGathers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newSlowWrite()
		g := New(100, w.write)
		g.Turn = NewTurn(time.Hour)
		end := g.Turn.Take()
		all := call(t, g, map[int]error{}, 1, 2, 3)
		sameBatches(t, w.batches, nil)
		end()
		close(w.gate)
		all.Wait()
		sameBatches(t, w.batches, [][]int{{1, 2, 3}})
		g.Turn.Take()() // it was given back: nothing waits here
	})
}

// TestTurnLate: a write that is stuck holds up the others for so long and no longer,
// and a turn that was not had is not given back.
func TestTurnLate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		turn := NewTurn(time.Second)
		end := turn.Take()
		for range 2 {
			began := time.Now()
			turn.Take()()
			if waited := time.Since(began); waited != time.Second {
				t.Errorf("waited %v", waited)
			}
		}
		end()
		began := time.Now()
		turn.Take()()
		if waited := time.Since(began); waited != 0 {
			t.Errorf("waited %v for a turn that was free", waited)
		}
	})
}
