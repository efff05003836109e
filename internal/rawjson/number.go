package rawjson

import (
	"bytes"
	"strconv"
)

func (w *walker) number(i int) int {
	start := i
	if w.text[i] == '-' {
		i++
	}
	first := i
	if i = w.digits(i); i == first || (w.text[first] == '0' && i > first+1) {
		return -1
	}
	if i < len(w.text) && w.text[i] == '.' {
		point := i + 1
		if i = w.digits(point); i == point {
			return -1
		}
	}
	exponent := i < len(w.text) && (w.text[i] == 'e' || w.text[i] == 'E')
	if exponent {
		if i++; i < len(w.text) && (w.text[i] == '+' || w.text[i] == '-') {
			i++
		}
		digit := i
		if i = w.digits(i); i == digit {
			return -1
		}
	}
	// A number of less than 300 characters without an exponent always fits.
	if exponent || i-start > 300 {
		w.magnitude(w.text[start:i])
	}
	return i
}

func (w *walker) digits(i int) int {
	for i < len(w.text) && '0' <= w.text[i] && w.text[i] <= '9' {
		i++
	}
	return i
}

// magnitude faults a number that no float64 holds. One that only rounds is fine.
func (w *walker) magnitude(number []byte) {
	if len(number) > maxNumber {
		w.fault("number of %d characters", len(number))
		return
	}
	f, err := strconv.ParseFloat(string(number), 64)
	if err != nil || (f == 0 && !decimalOf(number).zero()) {
		w.fault("number out of range: %s", shorten(number))
		return
	}
	// 0e999999999 is 0 to us, and too much for Postgres's numeric.
	if e := bytes.IndexAny(number, "eE"); e >= 0 {
		if x, err := strconv.Atoi(string(number[e+1:])); err != nil || x > 1000 || x < -1000 {
			w.fault("number out of range: %s", shorten(number))
		}
	}
}

// decimal is a number taken apart, not computed: nothing grows with its exponent.
type decimal struct {
	negative    bool
	whole, frac []byte // the digits before and after the point
	exponent    []byte // with its sign; empty: none
	first, last int    // of the digits that count, in whole+frac; first > last: it is 0
}

func decimalOf(text []byte) decimal {
	var d decimal
	if len(text) > 0 && text[0] == '-' {
		d.negative, text = true, text[1:]
	}
	if e := bytes.IndexAny(text, "eE"); e >= 0 {
		text, d.exponent = text[:e], text[e+1:]
	}
	d.whole = text
	if p := bytes.IndexByte(text, '.'); p >= 0 {
		d.whole, d.frac = text[:p], text[p+1:]
	}
	d.last = len(d.whole) + len(d.frac) - 1
	for d.first <= d.last && d.digit(d.first) == '0' {
		d.first++
	}
	for d.last > d.first && d.digit(d.last) == '0' {
		d.last--
	}
	return d
}

func (d decimal) zero() bool { return d.first > d.last }

func (d decimal) digit(i int) byte {
	if i < len(d.whole) {
		return d.whole[i]
	}
	return d.frac[i-len(d.whole)]
}
