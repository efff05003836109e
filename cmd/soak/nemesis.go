package main

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"flexworker/internal/testing/flextest"
)

// A stroke is one thing that goes wrong, and how it is put right again.
type stroke struct {
	what string
	on   string // no two strokes at a time on the same
	last time.Duration
	hit  func() error // nil: there is nothing to strike now
	heal func() error // nil: it heals by itself
}

// nemesis strikes with one or two strokes at a time. The strokes are dealt from
// a deck that is shuffled by the seed, so that each comes before one comes again.
type nemesis struct {
	*world
	dice    *rand.Rand
	deck    []func() stroke
	strikes int

	mu      sync.Mutex
	busy    map[string]bool
	healing sync.WaitGroup
}

const atATime = 2

func newNemesis(w *world, seed uint64) *nemesis {
	return &nemesis{world: w, dice: rand.New(rand.NewPCG(seed, 2)), busy: map[string]bool{}}
}

// run strikes until ctx ends, and returns when everything is healed.
func (n *nemesis) run(ctx context.Context) {
	n.restoreRules()
	for apart := int(n.apart.Milliseconds()); rest(ctx, n.between(apart/4, 2*apart-apart/4)); {
		if s, ok := n.deal(); ok {
			n.strikes++
			n.healing.Go(func() { n.strike(ctx, s) })
		}
	}
	n.healing.Wait()
	n.onFlexes(func(s *flextest.Server) { s.Clear() })
}

func (n *nemesis) between(low, high int) time.Duration {
	return time.Duration(low+n.dice.IntN(high-low)) * time.Millisecond
}

// deal takes the next stroke of the deck that can strike now.
func (n *nemesis) deal() (stroke, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.busy) >= atATime {
		return stroke{}, false
	}
	if len(n.deck) == 0 {
		n.deck = n.cards()
		n.dice.Shuffle(len(n.deck), func(i, j int) { n.deck[i], n.deck[j] = n.deck[j], n.deck[i] })
	}
	for i, card := range n.deck {
		if s := card(); s.hit != nil && !n.busy[s.on] {
			n.busy[s.on] = true
			n.deck = slices.Delete(n.deck, i, i+1)
			return s, true
		}
	}
	return stroke{}, false
}

// strike hits, waits and heals. What fails here fails the soak: the nemesis has
// to be relied upon.
func (n *nemesis) strike(ctx context.Context, s stroke) {
	defer func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.busy, s.on)
	}()
	n.board.say("%s  %s (%.1fs)", n.board.stamp(), s.what, s.last.Seconds())
	if err := s.hit(); err != nil {
		n.book.offend("the nemesis can strike", "", s.what+": "+err.Error())
	}
	rest(ctx, s.last)
	if s.heal == nil {
		return
	}
	if err := s.heal(); err != nil {
		n.book.offend("what was struck can be healed", "", s.what+": "+err.Error())
	}
}
