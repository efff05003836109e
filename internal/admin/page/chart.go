package page

import (
	"math"
	"strconv"
	"time"
)

// A minute is what settled in one minute, by kind.
type minute struct {
	From                    time.Time
	Created, Failed, Unsent int64
}

func (m minute) total() int64 { return m.Created + m.Failed + m.Unsent }

// A hold is a time in which the fleet was held.
type hold struct{ From, To time.Time }

// A chart is the minutes as bars, in the numbers that an SVG has. All of it is decided here: the template only writes it
// down.
type chart struct {
	Name                       string // one for wide screens and one for narrow ones are on the same page
	Width, Height              string
	Left, LabelX, Floor, TickY string
	Bars                       []bar
	Lines                      []gridline
	Ticks                      []tick
	Holds                      []heldTime
	left, right, top, base     float64
}

type bar struct{ Class, X, Y, Width, Height string }
type gridline struct{ Y, TextY, Text string }
type tick struct{ X, Text string }
type heldTime struct{ X, Width, TextX string }

func px(f float64) string { return strconv.FormatFloat(math.Round(f*10)/10, 'f', -1, 64) }

// newChart draws minutes, which follow each other without a gap, and the times in which the fleet was held.
func newChart(name string, width float64, tickEvery int, minutes []minute, holds []hold) *chart {
	if len(minutes) == 0 {
		return nil
	}
	const height = 190
	c := &chart{Name: name, Width: px(width), Height: px(height), left: 44, right: width, top: 18, base: height - 22}
	c.Left, c.LabelX, c.Floor, c.TickY = px(c.left), px(c.left-6), px(c.base), px(height-6)
	most := int64(1)
	for _, m := range minutes {
		most = max(most, m.total())
	}
	scale := nice(most)
	y := func(n int64) float64 { return c.base - float64(n)/float64(scale)*(c.base-c.top) }
	for _, n := range gridAt(scale) {
		c.Lines = append(c.Lines, gridline{px(y(n)), px(y(n) + 4), strconv.FormatInt(n, 10)})
	}
	step := (c.right - c.left) / float64(len(minutes))
	for i, m := range minutes {
		x, n := c.left+float64(i)*step, int64(0)
		for _, part := range []struct {
			class string
			n     int64
		}{{"created", m.Created}, {"failed", m.Failed}, {"unsent", m.Unsent}} {
			if part.n > 0 {
				top := y(n + part.n)
				c.Bars = append(c.Bars, bar{part.class, px(x + step*0.12), px(top), px(step * 0.76), px(max(y(n)-top, 1))})
				n += part.n
			}
		}
		if m.From.Minute()%tickEvery == 0 && x < c.right-36 { // a label has to fit
			c.Ticks = append(c.Ticks, tick{px(x), m.From.UTC().Format("15:04")})
		}
	}
	from, to := minutes[0].From, minutes[len(minutes)-1].From.Add(time.Minute)
	at := func(t time.Time) float64 { return c.left + t.Sub(from).Minutes()*step }
	for _, h := range holds {
		if h.To.After(from) && h.From.Before(to) {
			x1, x2 := max(at(h.From), c.left), min(at(h.To), c.right)
			c.Holds = append(c.Holds, heldTime{px(x1), px(max(x2-x1, 1)), px(min(x1+4, c.right-30))})
		}
	}
	return c
}

// nice is the smallest round number that is not below n. Half of it is whole, but for 1.
func nice(n int64) int64 {
	for unit := int64(1); ; unit *= 10 {
		for _, tenths := range []int64{10, 12, 16, 20, 30, 40, 60, 80} {
			if round := tenths * unit / 10; round >= n && (round%2 == 0 || round == 1) {
				return round
			}
		}
	}
}

// gridAt are the numbers at which a line stands.
func gridAt(scale int64) []int64 {
	if scale == 1 {
		return []int64{0, 1}
	}
	return []int64{0, scale / 2, scale}
}
