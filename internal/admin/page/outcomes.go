package page

import (
	"fmt"
	"slices"
	"time"

	"flexworker/internal/outbox/request"
)

// ends are the final states, in the order of the table of numbers.
var ends = []request.State{request.Created, request.Rejected, request.Abandoned, request.Expired, request.Cancelled}

type outcomes struct {
	Until   time.Time
	Any     bool // anything settled, as far as it was counted
	Totals  []total
	Said    string // all of it in a sentence
	Charts  []*chart
	Names   []request.State
	Minutes []numbers
}

type total struct {
	Name request.State
	N    string
}

type numbers struct {
	At   string
	Held bool
	N    []int
}

// outcomesOf is what settled within the last hour: as bars, and as numbers.
func outcomesOf(m *moment) outcomes {
	o := outcomes{Until: m.outcomes.Until, Names: ends}
	sums := make([]int64, len(ends))
	var minutes []minute
	var holds []hold
	for _, h := range m.outcomes.Held {
		until := m.outcomes.Now
		if h.Until != nil {
			until = *h.Until
		}
		holds = append(holds, hold{h.Since, until})
	}
	for _, counted := range m.outcomes.Minutes {
		n := func(s request.State) int64 { return int64(counted.Settled[s]) }
		row := numbers{At: counted.At.UTC().Format("15:04")}
		for i, end := range ends {
			sums[i] += n(end)
			row.N = append(row.N, counted.Settled[end])
		}
		for _, h := range holds {
			row.Held = row.Held || h.From.Before(counted.At.Add(time.Minute)) && h.To.After(counted.At)
		}
		o.Minutes = append(o.Minutes, row)
		minutes = append(minutes, minute{counted.At, n(request.Created), n(request.Rejected) + n(request.Abandoned), n(request.Expired) + n(request.Cancelled)})
	}
	for i, end := range ends {
		o.Totals = append(o.Totals, total{end, thousands(sums[i])})
	}
	o.Said = fmt.Sprintf("What settled in each of the last 60 minutes: %d created, %d rejected or abandoned, %d expired or cancelled. The numbers stand below.",
		sums[0], sums[1]+sums[2], sums[3]+sums[4])
	o.Any = slices.Max(sums) > 0
	if !o.Any && len(holds) == 0 {
		return o // a chart of nothing
	}
	for _, c := range []*chart{newChart("wide", 960, 10, minutes, holds), newChart("narrow", 380, 20, minutes, holds)} {
		if c != nil {
			o.Charts = append(o.Charts, c)
		}
	}
	return o
}
