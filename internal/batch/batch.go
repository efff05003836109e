// Package batch turns calls for one item into writes of many: group commit. Its
// callers know nothing of each other; each gets the answer to its own item.
package batch

import (
	"context"
	"sync"
)

// Group makes writes of the calls of many: what arrives while one write is under
// way forms the next. An idle worker writes at once, a busy one in large batches;
// Turn may wait a moment so that more come. Groups that share a Turn gather
// while the others write as well.
//
// A write runs on the goroutine of the caller whose item is first in it, so
// nothing is left running when the callers are gone. Between Attend and Leave one
// goroutine decides instead when and how many are written.
type Group[T, R any] struct {
	max   int // items in a write
	write func(context.Context, []T) ([]R, error)

	// Size is what an item weighs, in bytes; a batch of more than one has at most
	// MostBytes. nil: nothing. Set both before the first Do.
	Size      func(T) int
	MostBytes int
	// Turn is shared with other writes; nil: none. Set it before the first Do.
	Turn *Turn
	// Split says whether an error is the fault of one item's data: then the batch
	// is halved until that item stands alone. nil: an error is the whole batch's.
	Split func(error) bool

	arrived chan struct{} // for who attends

	mu       sync.Mutex
	waiting  []*member[T, R]
	writing  bool // a caller leads
	attended bool
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
	return &Group[T, R]{max: limit, write: write, arrived: make(chan struct{}, 1)}
}

// Do writes item with its companions and returns its own answer. A caller that
// no longer wants to wait is waited for all the same: its item may be in a
// write, and only the answer tells. write bounds the time.
func (g *Group[T, R]) Do(ctx context.Context, item T) (R, error) {
	m := &member[T, R]{item: item, lead: make(chan bool, 1)}
	g.mu.Lock()
	g.waiting = append(g.waiting, m)
	attended, lead := g.attended, !g.attended && !g.writing
	g.writing = g.writing || lead
	g.mu.Unlock()
	if attended {
		g.wake()
	}
	if lead || <-m.lead {
		g.lead(context.WithoutCancel(ctx))
		<-m.lead // who attends may have taken the item before this caller did, and writes it
	}
	return m.r, m.err
}

// lead writes one batch, answers its members, and hands the lead to the first
// of those who came meanwhile, or to who attends.
func (g *Group[T, R]) lead(ctx context.Context) {
	end := g.Turn.Take()
	g.mu.Lock()
	batch := g.take(g.max)
	g.mu.Unlock()

	if len(batch) > 0 {
		g.writeSplit(ctx, batch, g.write)
	}
	end()
	for _, m := range batch {
		m.lead <- false
	}

	g.mu.Lock()
	defer g.mu.Unlock()
	g.writing = false
	g.next()
}

// next lets somebody write what waits; g.mu is held, and nobody leads.
func (g *Group[T, R]) next() {
	switch {
	case len(g.waiting) == 0:
	case g.attended:
		g.wake()
	default:
		g.writing = true
		g.waiting[0].lead <- true
	}
}

// wake tells who attends that somebody waits.
func (g *Group[T, R]) wake() {
	select {
	case g.arrived <- struct{}{}:
	default: // they are told already
	}
}

// Attend lets the caller decide from now on when and how many of those who wait are written, by Take.
// arrived is raised when somebody comes to wait. A write that a caller leads may still be under way.
func (g *Group[T, R]) Attend() (arrived <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.attended = true
	return g.arrived
}

// Leave ends Attend: who waits, and who comes, is written by the callers again.
func (g *Group[T, R]) Leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.attended = false
	if !g.writing {
		g.next()
	}
}

// A Batch is calls that were taken from a Group and wait for Write.
type Batch[T, R any] struct {
	of      *Group[T, R]
	members []*member[T, R]
}

// Take takes up to n of those who wait, as many as one write may have. Each of them waits until Write.
func (g *Group[T, R]) Take(n int) Batch[T, R] {
	g.mu.Lock()
	defer g.mu.Unlock()
	return Batch[T, R]{g, g.take(min(n, g.max))}
}

// Len is how many calls are in the batch.
func (b Batch[T, R]) Len() int { return len(b.members) }

// Write writes the batch by write, as the group would by its own, and answers the callers.
func (b Batch[T, R]) Write(ctx context.Context, write func(context.Context, []T) ([]R, error)) {
	b.of.writeSplit(ctx, b.members, write)
	for _, m := range b.members {
		m.lead <- false
	}
}

// take takes up to n of those who wait, no more than are not too much for one write; g.mu is held.
func (g *Group[T, R]) take(n int) []*member[T, R] {
	if n = min(n, len(g.waiting)); n == 0 {
		return nil
	}
	if g.Size != nil {
		size := g.Size(g.waiting[0].item)
		for i, m := range g.waiting[1:n] {
			if size += g.Size(m.item); size > g.MostBytes {
				n = i + 1
				break
			}
		}
	}
	batch := g.waiting[:n:n]
	if g.waiting = g.waiting[n:]; len(g.waiting) == 0 {
		g.waiting = nil
	}
	return batch
}

// writeSplit writes a batch; where one item is at fault it halves the batch until
// that item stands alone. Any other error is the batch's.
func (g *Group[T, R]) writeSplit(ctx context.Context, batch []*member[T, R], write func(context.Context, []T) ([]R, error)) {
	items := make([]T, len(batch))
	for i, m := range batch {
		items[i] = m.item
	}
	results, err := write(ctx, items)
	if err != nil && len(batch) > 1 && g.Split != nil && g.Split(err) {
		g.writeSplit(ctx, batch[:len(batch)/2], write)
		g.writeSplit(ctx, batch[len(batch)/2:], write)
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
