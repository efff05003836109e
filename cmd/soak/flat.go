package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"
)

// sample is what the fleet takes at one moment.
type sample struct {
	memory, goroutines float64 // of the first replica, bytes
	connections        float64 // to Postgres, of the fleet, for each replica
	rows               float64 // bytes of Postgres for each request
	messages           float64 // bytes of the request stream for each of its messages
	results            float64 // bytes of the result stream for each of its messages
}

const (
	sampleEvery = 5 * time.Second
	// samplesFew is below how many samples nothing is judged: most of a short run is its beginning.
	samplesFew = 120
	// flatMost is how many times as much the last quarter of the run may take as the second.
	flatMost = 1.25
)

// sample takes samples until striking ends. What a server does not say now, as it is struck, is not sampled.
func (w *world) sample(striking context.Context) (finish func() []sample) {
	var all []sample
	done := make(chan struct{})
	go func() {
		defer close(done)
		for rest(striking, sampleEvery) {
			if s, err := w.takeSample(striking); err == nil {
				all = append(all, s)
			}
		}
	}()
	return func() []sample { <-done; return all }
}

func (w *world) takeSample(ctx context.Context) (s sample, err error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	if s.memory, s.goroutines, err = w.replicas[0].metrics(ctx); err != nil {
		return s, err
	}
	replicas := len(w.fleet())
	var connections, bytes int64
	err = w.pool.QueryRow(ctx, `
		SELECT (SELECT count(*) FROM pg_stat_activity WHERE application_name = 'flexworker'), pg_database_size(current_database())`).Scan(&connections, &bytes)
	if err != nil {
		return s, err
	}
	asked, _, _, _ := w.book.numbers()
	s.connections, s.rows = float64(connections)/float64(replicas), float64(bytes)/float64(max(asked, 1))
	requests, err := w.stream.Stream(ctx, "INTERACTION_REQUESTS")
	if err != nil {
		return s, err
	}
	results, err := w.stream.Stream(ctx, "INTERACTION_RESULTS")
	if err != nil {
		return s, err
	}
	s.messages = float64(requests.CachedInfo().State.Bytes) / float64(max(requests.CachedInfo().State.Msgs, 1))
	s.results = float64(results.CachedInfo().State.Bytes) / float64(max(results.CachedInfo().State.Msgs, 1))
	return s, nil
}

// metrics reads what a worker says of itself.
func (r *replica) metrics(ctx context.Context) (memory, goroutines float64, err error) {
	ask, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.admin+"/metrics", nil)
	if err != nil {
		return 0, 0, err
	}
	answer, err := http.DefaultClient.Do(ask)
	if err != nil {
		return 0, 0, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	for line := range strings.Lines(string(body)) {
		_, _ = fmt.Sscanf(line, "process_resident_memory_bytes %g", &memory)
		_, _ = fmt.Sscanf(line, "go_goroutines %g", &goroutines)
	}
	if err == nil && (memory == 0 || goroutines == 0) {
		err = fmt.Errorf("no memory or goroutines in %d bytes of metrics", len(body))
	}
	return memory, goroutines, err
}

// growth is how much of something the fleet takes in the second quarter of a run, and in the last.
type growth struct {
	what         string
	second, last float64
}

func (g growth) ratio() float64 { return g.last / g.second }

// grown compares the quarters of a run by their medians.
func grown(samples []sample) (all []growth) {
	for _, m := range []struct {
		what string
		unit float64
		of   func(sample) float64
	}{
		{"memory of the first replica, MiB", 1 << 20, func(s sample) float64 { return s.memory }},
		{"goroutines of the first replica", 1, func(s sample) float64 { return s.goroutines }},
		{"connections to Postgres for each replica", 1, func(s sample) float64 { return s.connections }},
		{"Postgres's disk for each request, KiB", 1 << 10, func(s sample) float64 { return s.rows }},
		{"the request stream's disk for each message, KiB", 1 << 10, func(s sample) float64 { return s.messages }},
		{"the result stream's disk for each message, KiB", 1 << 10, func(s sample) float64 { return s.results }},
	} {
		n := len(samples)
		all = append(all, growth{m.what, median(samples[n/4:n/2], m.of) / m.unit, median(samples[3*n/4:], m.of) / m.unit})
	}
	return all
}

// judgeFlat holds the last quarter of the run against the second.
func (w *world) judgeFlat() {
	n := len(w.samples)
	if n < 8 {
		return
	}
	w.board.say("\n%-56s %12s %12s %6s", "over the run, by medians", "2nd quarter", "last quarter", "ratio")
	for _, g := range grown(w.samples) {
		w.board.say("%-56s %12.1f %12.1f %6.2f", g.what, g.second, g.last, g.ratio())
		if w.requests > 0 && n >= samplesFew && g.ratio() > flatMost {
			w.book.offend("what the fleet takes does not grow", "", fmt.Sprintf("%s: %.1f, then %.1f", g.what, g.second, g.last))
		}
	}
	w.board.say("this program itself, with both endpoints: at most %d MiB; %d samples, one in %v", peak(os.Getpid())>>10, n, sampleEvery)
}

func median(list []sample, of func(sample) float64) float64 {
	values := make([]float64, len(list))
	for i, s := range list {
		values[i] = of(s)
	}
	slices.Sort(values)
	return values[len(values)/2]
}
