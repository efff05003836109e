package main

import "testing"

// TestGrown: the last quarter of a run is held against the second, whatever the others were.
func TestGrown(t *testing.T) {
	t.Parallel()
	samples := make([]sample, 400)
	for i := range samples {
		samples[i] = sample{memory: 50 << 20, goroutines: 100, connections: 12, rows: 3000, messages: 600, results: 1 << 20}
		if i < 100 {
			samples[i].memory = 1 // a beginning
		}
		if i%50 == 0 {
			samples[i].memory = 500 << 20 // a moment
		}
		samples[i].goroutines += float64(i)
	}
	for _, g := range grown(samples) {
		want := 1.0
		if g.what == "goroutines of the first replica" {
			want = 450.0 / 250.0
		}
		if g.ratio() != want {
			t.Errorf("%s: %v, then %v", g.what, g.second, g.last)
		}
	}
}
