package main

import (
	"fmt"
	"html"
	"strings"
)

// svg is a picture that is being written.
type svg struct{ strings.Builder }

func open(width, height int, title string) *svg {
	s := &svg{}
	fmt.Fprintf(s, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="11">`+"\n", width, height)
	fmt.Fprintf(s, `<rect width="%d" height="%d" fill="#fff"/><text x="14" y="18" font-size="13" font-weight="bold">%s</text>`+"\n", width, height, html.EscapeString(title))
	return s
}

func (s *svg) line(x1, y1, x2, y2 float64, colour string, wide float64) {
	fmt.Fprintf(s, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s" stroke-width="%g"/>`+"\n", x1, y1, x2, y2, colour, wide)
}

func (s *svg) dot(x, y float64, colour string) {
	fmt.Fprintf(s, `<circle cx="%.1f" cy="%.1f" r="3.5" fill="%s"/>`+"\n", x, y, colour)
}

func (s *svg) rect(x, y, w, h float64) {
	fmt.Fprintf(s, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s" opacity="0.6"/>`+"\n", x, y, max(w, 1), h, colours[0])
}

func (s *svg) text(x, y float64, anchor, text string) {
	fmt.Fprintf(s, `<text x="%.1f" y="%.1f" text-anchor="%s">%s</text>`+"\n", x, y, anchor, html.EscapeString(text))
}

func (s *svg) end() string { return s.String() + "</svg>\n" }
