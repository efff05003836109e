package flex

import (
	"maps"
	"regexp"
	"slices"
	"testing"
)

// TestCodes: every code that Twilio documents for these calls is known, with its cause and its remedy in a sentence each,
// and no remedy contradicts what the code says of the interaction.
func TestCodes(t *testing.T) {
	t.Parallel()
	want := []int{
		20001, 20003, 20004, 20005, 20006, 20008, 20101, 20403, 20404, 20409, 20413, 20422, 20429, 20500, 20503,
		45001, 45002, 45003, 45004, 45005, 45006, 45007, 45008, 45009, 45010, 45103,
		45350, 45351, 45352, 45353, 45354, 45355, 45356, 45357, 45366, 45369, 45370, 45372, 45377, 45381,
		45701, 45770, 45771, 45780, 50416, 80102, 80906,
	}
	if got := slices.Sorted(maps.Keys(codes)); !slices.Equal(got, want) {
		t.Errorf("known are\n%v, want\n%v", got, want)
	}
	sentence := regexp.MustCompile(`^[A-Z][^.!?…]*( status\.twilio\.com)?[^.!?…]*\.$`)
	sends := regexp.MustCompile(`(?i)\b(re)?(send|sent|sends|tr(y|ies)|publish\w*|again|repeat\w*)\b`)
	for code, c := range codes {
		if !sentence.MatchString(c.Cause) || !sentence.MatchString(c.Remedy) {
			t.Errorf("%d is not explained in a sentence each: %q, %q", code, c.Cause, c.Remedy)
		}
		if said := sends.FindString(c.Remedy); c.Kind == Uncertain && said != "" {
			t.Errorf("%d is uncertain, and its remedy says %q: %s", code, said, c.Remedy)
		}
		// An answer with this code, with a status that decides nothing by itself, has the kind that stands beside the remedy.
		if got := classify(facts{status: 400, code: code, twilio: true}); got != c.Kind {
			t.Errorf("%d is classified as %v, and explained as %v", code, got, c.Kind)
		}
	}
	if c, known := CodeOf(99999); known || c != (Code{}) {
		t.Errorf("99999: %+v", c)
	}
}

// TestWarningsProveNothing: a code that Twilio puts into its log alone does not show that an answer is Twilio's.
func TestWarningsProveNothing(t *testing.T) {
	t.Parallel()
	var unproved []int
	for code := range codes {
		if !documented(code) {
			unproved = append(unproved, code)
		}
	}
	slices.Sort(unproved)
	if want := []int{45353, 50416, 80102, 80906}; !slices.Equal(unproved, want) || documented(99999) {
		t.Errorf("%v prove nothing, want %v; 99999: %v", unproved, want, documented(99999))
	}
}
