package page

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"flexworker/internal/outbox/operator"
)

// An event is what happened at one moment.
type event struct {
	At    time.Time
	Kind  string // attempt, lookup, act or mark: the shape of its point
	What  string
	By    string
	More  string // in prose
	Facts string
}

// timelineOf is all that happened to a request, in the order of time. Lookups in a row that say the same are one event.
func timelineOf(d operator.Detail) []event {
	events := []event{{At: d.ReceivedAt, Kind: "mark", What: "Received", By: d.Source, Facts: "message " + strconv.FormatInt(d.StreamSequence, 10) + " of the request stream"}}
	for _, h := range d.History {
		if h.Kind == "attempt" {
			events = append(events, attemptOf(h))
		}
	}
	events = append(events, lookupsOf(d.History)...)
	for _, a := range d.Acts {
		what := strings.ToUpper(a.Act[:1]) + a.Act[1:]
		if a.Attempt != nil {
			what += fmt.Sprintf(", of attempt %d", *a.Attempt)
		}
		facts := "it was " + a.Was
		if a.Unverified {
			facts += "; unverified: the person was believed"
		}
		events = append(events, event{At: a.At, Kind: "act", What: what, By: a.Who, More: a.Why, Facts: facts})
	}
	if e, ok := setupOf(d.Setup); ok {
		events = append(events, e)
	}
	if d.SettledAt != nil {
		what := "Settled as " + string(d.State)
		if d.InteractionSID != nil {
			what += ", " + *d.InteractionSID
		}
		events = append(events, event{At: *d.SettledAt, Kind: "mark", What: what})
	}
	if d.AnnouncedAt != nil {
		events = append(events, event{At: *d.AnnouncedAt, Kind: "mark", What: "Its sender was told that a person has to look"})
	}
	if d.PublishedAt != nil {
		events = append(events, event{At: *d.PublishedAt, Kind: "mark", What: "The result stream acknowledged its result"})
	}
	slices.SortStableFunc(events, func(a, b event) int { return a.At.Compare(b.At) })
	return events
}

// setupOf is what was found of the set-up, once that is known.
func setupOf(s *operator.Setup) (e event, ok bool) {
	if s == nil || s.Word == nil || s.DecidedAt == nil {
		return e, false
	}
	e = event{At: *s.DecidedAt, Kind: "lookup", What: "Set-up: " + strings.ReplaceAll(*s.Word, "_", " "), Facts: fmt.Sprintf("%d looks", s.Checks)}
	if s.Checks == 1 {
		e.Facts = "one look"
	}
	for _, more := range []*string{s.Why, s.ErrorMessage} {
		if more != nil && *more != "" && !strings.Contains(e.More, *more) {
			e.More = strings.TrimPrefix(e.More+"; "+*more, "; ")
		}
	}
	return e, true
}

func outcomeWords(h operator.History) string {
	s := strings.ReplaceAll(h.Outcome, "_", " ")
	if !h.Applied {
		s += "; it came too late and was not applied"
	}
	return s
}

func attemptOf(h operator.History) event {
	e := event{At: h.StartedAt, Kind: "attempt", What: fmt.Sprintf("Attempt %d: %s", h.Number, outcomeWords(h)), By: h.Worker}
	if h.Error != nil {
		e.More = *h.Error
	}
	var facts []string
	if h.TookMS != nil {
		facts = append(facts, fmt.Sprintf("took %d ms", *h.TookMS))
	}
	if h.HTTPStatus != nil {
		facts = append(facts, fmt.Sprintf("HTTP status %d", *h.HTTPStatus))
	}
	if h.TwilioCode != nil {
		facts = append(facts, fmt.Sprintf("Twilio code %d", *h.TwilioCode))
	}
	if h.RequestID != nil {
		facts = append(facts, "Twilio's request id "+*h.RequestID)
	}
	e.Facts = strings.Join(facts, ", ")
	return e
}

// lookupsOf are the lookups of a history, those in a row that say the same as one.
func lookupsOf(history []operator.History) []event {
	var events []event
	var first, last operator.History
	for _, h := range history {
		if h.Kind != "lookup" {
			continue
		}
		more := ""
		if h.Error != nil {
			more = *h.Error
		}
		if n := len(events); n > 0 && events[n-1].More == more && outcomeWords(last) == outcomeWords(h) {
			e := &events[n-1]
			e.What = fmt.Sprintf("Lookups %d to %d: each %s", first.Number, h.Number, outcomeWords(h))
			e.Facts = "the last at " + newStamp(h.StartedAt).UTC
			last = h
			continue
		}
		first, last = h, h
		events = append(events, event{At: h.StartedAt, Kind: "lookup", What: fmt.Sprintf("Lookup %d: %s", h.Number, outcomeWords(h)), By: h.Worker, More: more})
	}
	return events
}
