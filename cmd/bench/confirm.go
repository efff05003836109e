package main

import (
	"context"
	"fmt"
)

// measureConfirm burns down without CONFIRM, with CONFIRM at its default rate of reads, and at the highest that can be
// set, in turns. The backlog is four times the usual one: the first look at a request comes two seconds after its creation, and looks
// have to be made beside most of the burn-down.
func (w *world) measureConfirm(ctx context.Context) ([]row, error) {
	usual := w.requests
	w.requests = 4 * usual
	defer func() { w.requests = usual }()
	with := row{name: "burn-down with CONFIRM=true against without", least: 0.97, aim: 1, more: true}
	most := row{name: "the same with CONFIRM_RATE=1000", more: true}
	for round := range w.rounds {
		var off, on, full burn
		runs := []struct {
			what string
			of   *burn
			set  []string
		}{{"without CONFIRM", &off, nil}, {"CONFIRM", &on, []string{"CONFIRM=true"}}, {"CONFIRM_RATE=1000", &full, []string{"CONFIRM=true", "CONFIRM_RATE=1000"}}}
		reads := 0
		for i := range runs { // another begins each round: the machine's speed drifts
			r := runs[(i+round)%len(runs)]
			before, err := w.flex.Calls(ctx)
			if err != nil {
				return nil, err
			}
			if *r.of, err = w.burnFresh(ctx, r.set...); err != nil {
				return nil, fmt.Errorf("%s: %w", r.what, err)
			}
			after, err := w.flex.Calls(ctx)
			if err != nil {
				return nil, err
			}
			if r.of == &full {
				reads = after.Channels - before.Channels
			}
		}
		with.add(on.rate()/off.rate(), fmt.Sprintf("%.0f/%.0f a second, %.0f/%.0f µs of Postgres's CPU", on.rate(), off.rate(), on.postgresEach(), off.postgresEach()))
		most.add(full.rate()/off.rate(), fmt.Sprintf("%.0f/%.0f a second, %d looks beside it", full.rate(), off.rate(), reads))
	}
	return []row{with, most}, nil
}
