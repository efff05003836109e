package main

import (
	"context"
	"fmt"
	"slices"
	"syscall"
	"time"
)

// places is how many replicas there may be at a time. Each place has its proxies, its address and its log.
const places = 6

// fleet are the replicas that serve.
func (w *world) fleet() []*replica {
	return slices.DeleteFunc(slices.Clone(w.replicas), func(r *replica) bool { return !r.serving.Load() })
}

// mortals are those that may be ended: where the run is judged by its memory, the first one lives as long as the run.
func (w *world) mortals() []*replica {
	all := w.fleet()
	if w.requests > 0 {
		return all[1:]
	}
	return all
}

func (w *world) butTheFirst() string {
	if w.requests > 0 {
		return " but the first"
	}
	return ""
}

// anyone is one of the replicas that serve.
func (n *nemesis) anyone() *replica {
	all := n.fleet()
	return all[n.dice.IntN(len(all))]
}

// mortal is one that may be ended; nil: none.
func (n *nemesis) mortal() *replica {
	all := n.mortals()
	if len(all) == 0 {
		return nil
	}
	return all[n.dice.IntN(len(all))]
}

// onFleet are the changes that people make: replicas come and go, and a new version replaces the old one.
func (n *nemesis) onFleet() []func() stroke {
	scale := func() stroke {
		want := 1 + n.dice.IntN(places)
		return stroke{what: fmt.Sprintf("the fleet: %d replicas become %d", len(n.fleet()), want), on: "workers", last: n.between(2000, 12_000),
			hit: func() error { return n.scale(want) }, heal: func() error { return n.scale(n.options.replicas) }}
	}
	rolling := func() stroke {
		all := n.mortals()
		if len(all) == 0 {
			return stroke{}
		}
		return stroke{what: fmt.Sprintf("the fleet: a rolling restart of %d replicas%s", len(all), n.butTheFirst()), on: "workers", last: time.Second,
			hit: func() error { return roll(all) }}
	}
	return []func() stroke{scale, scale, scale, scale, rolling}
}

// scale starts replicas, or tells them to stop, until there are so many.
func (w *world) scale(want int) error {
	for _, r := range w.replicas {
		if len(w.fleet()) < want && !r.serving.Load() {
			if err := r.start(); err != nil {
				return err
			}
		}
	}
	for all := w.fleet(); len(all) > want; all = all[:len(all)-1] {
		last := all[len(all)-1]
		last.serving.Store(false)
		if err := last.end(syscall.SIGTERM); err != nil {
			return err
		}
	}
	return nil
}

// roll restarts one after the other, each when the one before consumes.
func roll(all []*replica) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, r := range all {
		before := r.log.consuming()
		if err := r.end(syscall.SIGTERM); err != nil {
			return err
		}
		if err := r.start(); err != nil {
			return err
		}
		// A server may be away meanwhile: then the next one follows after a while, as an orchestrator's limit has it.
		for until := time.Now().Add(10 * time.Second); r.log.consuming() == before && time.Now().Before(until) && rest(ctx, 50*time.Millisecond); {
		}
	}
	return nil
}

// endReplicas ends them at once; those that have ended stay so.
func endReplicas(all []*replica, how syscall.Signal) {
	done := make(chan struct{})
	for _, r := range all {
		go func() {
			defer func() { done <- struct{}{} }()
			_ = r.end(how) // what went wrong is in the book
		}()
	}
	for range all {
		<-done
	}
}

func startReplicas(all []*replica) error {
	for _, r := range all {
		if err := r.start(); err != nil {
			return err
		}
	}
	return nil
}
