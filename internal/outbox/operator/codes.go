package operator

import (
	"fmt"

	"flexworker/internal/flex"
	"flexworker/internal/outbox/request"
)

// Codes says of each of Twilio's codes in the history of a request what it means, once, in the order in which they
// came. What can be done is said of the latest attempt's code alone, and only while it is true: an earlier remedy, or one
// for a request that may exist after all, could have somebody sent a second interaction.
func (d Detail) Codes() (sentences []string) {
	said := map[int]bool{}
	for _, h := range d.History {
		if h.TwilioCode == nil || said[*h.TwilioCode] {
			continue
		}
		said[*h.TwilioCode] = true
		if c, known := flex.CodeOf(*h.TwilioCode); known {
			sentences = append(sentences, fmt.Sprintf("Twilio's code %d: %s", *h.TwilioCode, c.Cause))
		}
	}
	if c, known := d.latestCode(); known && remedyHolds(d, c.Kind) {
		sentences = append(sentences, c.Remedy)
	}
	return sentences
}

// latestCode is the code of the latest attempt, if what that came to is what the code says by itself.
func (d Detail) latestCode() (c flex.Code, known bool) {
	for _, h := range d.History {
		if h.Kind == "attempt" && h.Number == d.Attempt && h.Applied && h.TwilioCode != nil {
			c, known = flex.CodeOf(*h.TwilioCode)
			known = known && c.Kind.String() == h.Outcome
		}
	}
	return c, known
}

// remedyHolds says whether the remedy for a code of that kind is true of a request as it stands.
func remedyHolds(d Detail, kind flex.Kind) bool {
	switch kind {
	case flex.Uncertain:
		return d.State == request.Uncertain && !d.WaitsForPerson()
	case flex.Refused, flex.Blocked:
		return d.State == request.Pending
	default:
		return d.State == request.Rejected && !d.Undecided
	}
}
