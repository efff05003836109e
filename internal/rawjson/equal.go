package rawjson

import (
	"bytes"
	"math/big"
	"slices"
	"strconv"
)

// Equal tells whether a and b are the same JSON value: white space and the order
// of keys do not count, strings are compared by what they mean, numbers by their
// exact decimal value (1, 1.0 and 10e-1 are equal, and no float64 is near). Below
// 100 levels only the same bytes are equal, which Check keeps out anyway.
func Equal(a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	return equal(trim(a), trim(b), 0)
}

func equal(a, b []byte, depth int) bool {
	if len(a) == 0 || len(b) == 0 || depth > maxDepth {
		return bytes.Equal(a, b)
	}
	switch kind := a[0]; {
	case kind == '{':
		return b[0] == '{' && equalObjects(a, b, depth)
	case kind == '[':
		return b[0] == '[' && equalArrays(a, b, depth)
	case kind == '"':
		return b[0] == '"' && len(a) > 1 && len(b) > 1 &&
			bytes.Equal(content(a[1:len(a)-1]), content(b[1:len(b)-1]))
	case isNumber(a):
		return isNumber(b) && decimalOf(a).equal(decimalOf(b))
	default:
		return bytes.Equal(a, b)
	}
}

func equalObjects(a, b []byte, depth int) bool {
	as, bs := sorted(a), sorted(b)
	return slices.EqualFunc(as, bs, func(x, y Pair) bool {
		return bytes.Equal(x.Key, y.Key) && equal(x.Value, y.Value, depth+1)
	})
}

// sorted are the members of an object in the order of their keys; of double keys
// each stands in its own order.
func sorted(object []byte) Object {
	all := AppendMembers(nil, object)
	slices.SortStableFunc(all, func(x, y Pair) int { return bytes.Compare(x.Key, y.Key) })
	return all
}

func equalArrays(a, b []byte, depth int) bool {
	i, j := skipSpace(a, 1), skipSpace(b, 1)
	for {
		if i >= len(a) || j >= len(b) {
			return false // neither is valid
		}
		if a[i] == ']' || b[j] == ']' {
			return a[i] == b[j]
		}
		iEnd, jEnd := skipValue(a, i), skipValue(b, j)
		if !equal(a[i:iEnd], b[j:jEnd], depth+1) {
			return false
		}
		i, j = afterComma(a, iEnd), afterComma(b, jEnd)
	}
}

func afterComma(text []byte, i int) int {
	i = skipSpace(text, i)
	if i < len(text) && text[i] == ',' {
		return skipSpace(text, i+1)
	}
	return i
}

func trim(text []byte) []byte {
	i := skipSpace(text, 0)
	return text[i:skipValue(text, i)]
}

func isNumber(text []byte) bool { return text[0] == '-' || '0' <= text[0] && text[0] <= '9' }

func (d decimal) equal(e decimal) bool {
	if d.zero() || e.zero() {
		return d.zero() && e.zero()
	}
	if d.negative != e.negative || d.last-d.first != e.last-e.first || !sameScale(d, e) {
		return false
	}
	for i := d.first; i <= d.last; i++ {
		if d.digit(i) != e.digit(i-d.first+e.first) {
			return false
		}
	}
	return true
}

// sameScale compares the powers of ten of the first digits that count.
func sameScale(d, e decimal) bool {
	x, xFits := d.smallExponent()
	y, yFits := e.smallExponent()
	if xFits && yFits {
		return x+d.place() == y+e.place()
	}
	return d.bigScale().Cmp(e.bigScale()) == 0
}

// place is the power of ten of the first digit that counts, the exponent apart.
func (d decimal) place() int64 { return int64(len(d.whole) - 1 - d.first) }

func (d decimal) smallExponent() (int64, bool) {
	if len(d.exponent) == 0 {
		return 0, true
	}
	if len(d.exponent) > 18 { // leading zeros may make it long and small: bigScale knows
		return 0, false
	}
	x, err := strconv.ParseInt(string(d.exponent), 10, 64)
	return x, err == nil
}

// bigScale costs memory in proportion to the text, not to the exponent's value.
func (d decimal) bigScale() *big.Int {
	x, ok := new(big.Int).SetString(string(d.exponent), 10)
	if !ok {
		x = new(big.Int)
	}
	return x.Add(x, big.NewInt(d.place()))
}
