package main

import (
	"cmp"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A chart is points of one or more series; where a point was measured more than
// once, the line goes through the median and a bar shows the spread.
type chart struct {
	file, title, x, y string
	logX              bool
	points            []point
}

type point struct {
	series string
	x, y   float64
}

func (c *chart) point(series string, x, y float64) { c.points = append(c.points, point{series, x, y}) }

// The picture's measures in pixels.
const (
	width, height           = 640, 320
	left, right, top, below = 70, 20, 40, 50
)

var colours = []string{"#1f5fa8", "#c0562b", "#3c8a4e"}

// draw writes the charts and a bar for each ratio into the folder for charts.
func (w *world) draw(rows []row) error {
	if w.out == "" {
		return nil
	}
	if err := os.MkdirAll(w.out, 0o750); err != nil {
		return err
	}
	if ratios := slices.DeleteFunc(slices.Clone(rows), func(r row) bool { return r.aim == 0 }); len(ratios) > 0 {
		if err := os.WriteFile(filepath.Join(w.out, "bench.svg"), []byte(bars(ratios)), 0o600); err != nil {
			return err
		}
	}
	for i := range w.charts {
		if err := os.WriteFile(filepath.Join(w.out, w.charts[i].file), []byte(w.charts[i].svg()), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// svg is the chart, its y axis from zero.
func (c *chart) svg() string {
	minX, maxX, maxY := math.Inf(1), math.Inf(-1), 0.0
	for _, p := range c.points {
		minX, maxX, maxY = min(minX, c.scale(p.x)), max(maxX, c.scale(p.x)), max(maxY, p.y)
	}
	atX := func(x float64) float64 { return left + (c.scale(x)-minX)/max(maxX-minX, 1e-9)*(width-left-right) }
	atY := func(y float64) float64 { return height - below - y/max(maxY*1.1, 1e-9)*(height-top-below) }
	s := open(width, height, c.title)
	for i := range 5 {
		y := maxY * 1.1 * float64(i) / 4
		s.line(left, atY(y), width-right, atY(y), "#ddd", 1)
		s.text(left-6, atY(y)+4, "end", number(y))
	}
	s.text(width/2, height-10, "middle", c.x)
	s.text(left, top-10, "start", c.y)
	for n, series := range c.series() {
		var previous *point
		for _, m := range medians(c.points, series) {
			x := atX(m.x)
			s.line(x, atY(m.low), x, atY(m.high), colours[n], 3)
			s.dot(x, atY(m.y), colours[n])
			if n == 0 {
				s.text(x, height-below+18, "middle", short(m.x))
			}
			if previous != nil {
				s.line(atX(previous.x), atY(previous.y), x, atY(m.y), colours[n], 1.5)
			}
			previous = &point{x: m.x, y: m.y}
		}
		if series != "" && previous != nil {
			s.text(atX(previous.x)-4, atY(previous.y)-8, "end", series)
		}
	}
	return s.end()
}

func (c *chart) scale(x float64) float64 {
	if c.logX {
		return math.Log10(x)
	}
	return x
}

func (c *chart) series() []string {
	var names []string
	for _, p := range c.points {
		if !slices.Contains(names, p.series) {
			names = append(names, p.series)
		}
	}
	return names
}

// A median is what was measured at one x.
type median struct{ x, y, low, high float64 }

func medians(points []point, series string) []median {
	at := map[float64]*row{}
	for _, p := range points {
		if p.series == series {
			if at[p.x] == nil {
				at[p.x] = &row{}
			}
			at[p.x].add(p.y, "")
		}
	}
	var all []median
	for x, r := range at {
		all = append(all, median{x, r.median(), slices.Min(r.values), slices.Max(r.values)})
	}
	slices.SortFunc(all, func(a, b median) int { return cmp.Compare(a.x, b.x) })
	return all
}

// bars shows each figure as a share of what it should at least reach: beyond the
// line is better, whichever way the figure counts.
func bars(rows []row) string {
	const line, label = 34, 330
	h := top + line*len(rows) + 30
	s := open(width+200, h, "What was measured, against what should at least be reached (line) and the aim (dot)")
	reach := func(r *row, v float64) float64 { // 1 is what is wanted; a longer bar is better
		if r.more {
			return v / r.least
		}
		return r.least / max(v, r.least/2.5)
	}
	at := func(v float64) float64 { return label + min(v, 2.5)/2.5*(width+200-label-right) }
	for i := range rows {
		r := &rows[i]
		y := float64(top + line*i)
		s.text(label-8, y+15, "end", r.name)
		s.rect(label, y+3, at(reach(r, r.median()))-label, 16)
		s.line(at(reach(r, slices.Min(r.values))), y+11, at(reach(r, slices.Max(r.values))), y+11, colours[1], 2)
		s.dot(at(reach(r, r.aim)), y+11, colours[2])
		s.text(label+4, y+30, "start", fmt.Sprintf("%s (%s to %s; at least %s, aim %s)", number(r.median()), number(slices.Min(r.values)), number(slices.Max(r.values)), number(r.least), number(r.aim)))
	}
	s.line(at(1), top, at(1), float64(h-30), "#333", 1)
	return s.end()
}

// short is a number of rows in few characters.
func short(v float64) string {
	if v < 1000 {
		return fmt.Sprintf("%g", v)
	}
	power := int(math.Round(math.Log10(v)))
	if math.Pow10(power) == v {
		return "10" + strings.NewReplacer("0", "⁰", "1", "¹", "2", "²", "3", "³", "4", "⁴", "5", "⁵", "6", "⁶", "7", "⁷", "8", "⁸", "9", "⁹").Replace(fmt.Sprint(power))
	}
	return fmt.Sprintf("%g", v)
}
