// Package batch turns calls for one item into writes of many: group commit. Its
// callers know nothing of each other; each gets the answer to its own item.
package batch

import (
	"context"
	"sync"
)

// Group makes writes of the calls of many: what arrives while one write is under
// way forms the next. An idle worker writes at once, a busy one in large batches;
// Room and Turn may wait a moment so that more come. Groups that share a Turn gather
// while the others write as well.
//
// A write runs on the goroutine of the caller whose item is first in it, so
// nothing is left running when the callers are gone.
type Group[T, R any] struct {
	max   int // items in a write
	write func(context.Context, []T) ([]R, error)

	// Room says how many of those who wait the next write should take, from 1 to
	// what waiting says; it may wait a moment for more room, in which more come.
	// nil: all. Set it before the first Do.
	Room func(waiting func() int) int
	// Size is what an item weighs, in bytes; a batch of more than one has at most
	// MostBytes. nil: nothing. Set both before the first Do.
	Size      func(T) int
	MostBytes int
	// Turn is shared with other writes; nil: none. Set it before the first Do.
	Turn *Turn
	// Split says whether an error is the fault of one item's data: then the batch
	// is halved until that item stands alone. nil: an error is the whole batch's.
	Split func(error) bool

	mu      sync.Mutex
	waiting []*member[T, R]
	writing bool
}

type member[T, R any] struct {
	item T
	lead chan bool // true: write now, with those behind you; false: you are answered
	r    R
	err  error
}

// New gives a group that hands write up to limit items at once. write answers each
// of them, in their order.
func New[T, R any](limit int, write func(context.Context, []T) ([]R, error)) *Group[T, R] {
	return &Group[T, R]{max: limit, write: write}
}

// Do writes item with its companions and returns its own answer. A caller that
// no longer wants to wait is waited for all the same: its item may be in a
// write, and only the answer tells. write bounds the time.
func (g *Group[T, R]) Do(ctx context.Context, item T) (R, error) {
	m := &member[T, R]{item: item, lead: make(chan bool, 1)}
	g.mu.Lock()
	g.waiting = append(g.waiting, m)
	lead := !g.writing
	g.writing = true
	g.mu.Unlock()
	if lead || <-m.lead {
		g.lead(context.WithoutCancel(ctx))
	}
	return m.r, m.err
}

// lead writes one batch, answers its members, and hands the lead to the first
// of those who came meanwhile.
func (g *Group[T, R]) lead(ctx context.Context) {
	end := g.Turn.Take()
	most := func() int { return min(g.Waiting(), g.max) }
	n := most() // only the leader takes from those who wait
	if g.Room != nil {
		n = g.Room(most)
	}
	g.mu.Lock()
	n = g.light(n)
	batch := g.waiting[:n:n]
	g.waiting = g.waiting[n:]
	g.mu.Unlock()

	g.writeSplit(ctx, batch)
	end()
	for _, m := range batch[1:] { // batch[0] is the caller itself
		m.lead <- false
	}

	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.waiting) == 0 {
		g.waiting, g.writing = nil, false
		return
	}
	g.waiting[0].lead <- true
}

// light is how many of the first n are not too much for one write; g.mu is held.
func (g *Group[T, R]) light(n int) int {
	if g.Size == nil {
		return n
	}
	size := g.Size(g.waiting[0].item)
	for i, m := range g.waiting[1:n] {
		if size += g.Size(m.item); size > g.MostBytes {
			return i + 1
		}
	}
	return n
}

// writeSplit writes a batch; where one item is at fault it halves the batch until
// that item stands alone. Any other error is the batch's.
func (g *Group[T, R]) writeSplit(ctx context.Context, batch []*member[T, R]) {
	items := make([]T, len(batch))
	for i, m := range batch {
		items[i] = m.item
	}
	results, err := g.write(ctx, items)
	if err != nil && len(batch) > 1 && g.Split != nil && g.Split(err) {
		g.writeSplit(ctx, batch[:len(batch)/2])
		g.writeSplit(ctx, batch[len(batch)/2:])
		return
	}
	for i, m := range batch {
		m.err = err
		if err == nil {
			m.r = results[i]
		}
	}
}

// Waiting is how many items no write has taken yet.
func (g *Group[T, R]) Waiting() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.waiting)
}
