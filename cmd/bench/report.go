package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
)

// A row is one figure over all rounds, with what it should reach.
type row struct {
	name       string
	least, aim float64 // 0: none is set
	more       bool    // more is better
	values     []float64
	notes      []string // of each round: the absolute figures behind a ratio
}

func (r *row) add(value float64, note string) {
	r.values, r.notes = append(r.values, value), append(r.notes, note)
}

func (r *row) median() float64 {
	sorted := slices.Sorted(slices.Values(r.values))
	if len(sorted) == 0 {
		return 0
	}
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}

// note is that of the round next to the median.
func (r *row) note() string {
	best := 0
	for i, v := range r.values {
		if abs(v-r.median()) < abs(r.values[best]-r.median()) {
			best = i
		}
	}
	if len(r.notes) == 0 {
		return ""
	}
	return r.notes[best]
}

func abs(v float64) float64 { return max(v, -v) }

func printRows(out io.Writer, rows []row) {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "figure\tmedian\tleast to most\trounds\tat least\taim\tof which, in the median round")
	for i := range rows {
		r := &rows[i]
		fmt.Fprintf(table, "%s\t%s\t%s to %s\t%d\t%s\t%s\t%s\n", r.name, number(r.median()), number(slices.Min(r.values)), number(slices.Max(r.values)),
			len(r.values), wanted(r.least), wanted(r.aim), r.note())
	}
	_ = table.Flush() // to the terminal
}

func number(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}

func wanted(v float64) string {
	if v == 0 {
		return ""
	}
	return number(v)
}

// machine says what the figures were measured on.
func machine(ctx context.Context, w *world) string {
	var version string
	if err := w.admin.QueryRow(ctx, "SHOW server_version").Scan(&version); err != nil {
		version = "unknown"
	}
	model := "unknown processor"
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if _, rest, found := strings.Cut(string(text), "model name"); found {
			line, _, _ := strings.Cut(rest, "\n")
			model = strings.TrimLeft(line, "\t :")
		}
	}
	return fmt.Sprintf("%d cores (%s), %s, Postgres %s, %d calls in flight, %d rounds",
		runtime.NumCPU(), model, runtime.Version(), version, w.concurrency, w.rounds)
}
