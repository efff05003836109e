package page

import (
	"fmt"
	"strings"
	"time"

	"flexworker/internal/outbox/operator"
	"flexworker/internal/outbox/request"
)

// evidence is what the workers know of the attempt that nobody knows the outcome of.
type evidence struct {
	Question                            string
	Attempt                             int
	Worker, Came, TwilioRequestID       string
	Folded                              string // what the folded part has
	Unclear                             string // why no lookup can tell
	Began, Until, Cancelled, NextLookup *time.Time
	Undecided                           bool // a decision is still wanted
	Lookups                             []event
}

func evidenceOf(d operator.Detail) evidence {
	reason := "nothing is recorded"
	if d.ErrorMessage != nil {
		reason = *d.ErrorMessage
	}
	e := evidence{Attempt: d.Attempt, Cancelled: d.CancelRequestedAt, NextLookup: d.DueAt, Lookups: lookupsOf(d.History), Folded: lookupsSaid(d.History),
		Undecided: d.State == request.Uncertain}
	if e.Undecided { // of a later attempt these columns say nothing
		e.Began, e.Until = d.AttemptBeganAt, d.UncertainSince
	}
	if e.Until != nil && e.Began != nil && e.Until.Sub(*e.Began) < time.Second {
		e.Until = nil
	}
	switch {
	case !e.Undecided:
		e.Question = strings.TrimSpace(standsNow(d) + " " + decidedBy(d))
	case d.Answered:
		e.Question = operator.AnsweredProvesNothing
	case d.WaitsForPerson():
		e.Question, e.Unclear = "It may exist in Flex, and no lookup can tell.", reason
	default:
		e.Question = "It may exist in Flex. Lookups go on: " + reason + "."
	}
	for _, h := range d.History {
		if h.Kind == "attempt" && h.Number == d.Attempt {
			a := attemptOf(h)
			e.Worker = h.Worker
			if e.Began == nil {
				e.Began = &h.StartedAt
			}
			e.Came = outcomeWords(h)
			if a.More != "" {
				e.Came += ": " + a.More
			}
			if h.TookMS != nil {
				e.Came += ", after " + span(time.Duration(*h.TookMS)*time.Millisecond)
			}
			if h.HTTPStatus != nil {
				e.Came += fmt.Sprintf(", HTTP status %d", *h.HTTPStatus)
			}
			if h.RequestID != nil {
				e.TwilioRequestID = *h.RequestID
			}
		}
	}
	return e
}

// lookupsSaid says how many lookups were made, and whether one has found the request.
func lookupsSaid(history []operator.History) string {
	made, found := 0, 0
	for _, h := range history {
		if h.Kind == "lookup" {
			made++
			if h.Outcome == "found" {
				found++
			}
		}
	}
	switch {
	case made == 0:
		return "Lookups: none was made"
	case found == 0:
		return fmt.Sprintf("Lookups: %d, none found it", made)
	default:
		return fmt.Sprintf("Lookups: %d, %d found it", made, found)
	}
}
