package operator

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"flexworker/internal/outbox/gate"
	"flexworker/internal/outbox/request"
	"flexworker/internal/terminal"
)

// Explain says in prose what happened to a request, why it is where it is and what comes
// next: a sentence a line, and commands, which are indented and can be pasted, on lines of
// their own. Nothing that others wrote reaches the terminal unseen.
func (desk *Desk) Explain(ctx context.Context, requestID string) (string, error) {
	d, err := desk.Show(ctx, requestID)
	if err != nil {
		return "", err
	}
	g, err := desk.Gate(ctx)
	if err != nil {
		return "", err
	}
	f, err := desk.Fleet(ctx)
	if err != nil {
		return "", err
	}
	return explain(d, g, f), nil
}

// explain is pure: the same values give the same sentences. The zero Fleet is one of which nothing is known.
func explain(d Detail, g gate.Status, f gate.Fleet) string {
	var b strings.Builder
	say := func(format string, args ...any) { b.WriteString(terminal.Line(fmt.Sprintf(format, args...)) + "\n") }
	say("%s was asked for by %s at %s (message %d of the request stream).", d.RequestID, d.Source, request.ShowTime(d.ReceivedAt), d.StreamSequence)
	if d.Repeats > 0 {
		say("It was asked for again (%d more); each is answered with the same result.", d.Repeats)
	}
	for _, sentence := range append(happened(d), d.Codes()...) {
		say("%s", sentence)
	}
	if d.ErasedAt != nil {
		say("Its content was erased at %s: of what it asked, and of why it failed, sids, times and states are left.", request.ShowTime(*d.ErasedAt))
	}
	text, commands := standing(d, g, f)
	say("%s", text)
	if d.Setup != nil {
		say("%s", d.Setup.sentence(d.Now))
	}
	for _, c := range commands {
		b.WriteString("    " + c + "\n")
	}
	return b.String()
}

// happened are the attempts, the lookups and what people did, in the order of
// their times: an act between two attempts is often why there was a second. Lookups in
// a row that say the same are one sentence.
func happened(d Detail) []string {
	type event struct {
		at       time.Time
		sentence string
		lookup   *History
	}
	events := make([]event, 0, len(d.History)+len(d.Acts))
	for i, h := range d.History {
		e := event{at: h.StartedAt, sentence: h.sentence()}
		if h.Kind == "lookup" {
			e.lookup = &d.History[i]
		}
		events = append(events, e)
	}
	for _, a := range d.Acts {
		of := ""
		if a.Attempt != nil {
			of = fmt.Sprintf(" of attempt %d", *a.Attempt)
		}
		if a.Unverified {
			of += ", unverified"
		}
		events = append(events, event{at: a.At, sentence: fmt.Sprintf("At %s %s did: %s%s (it was %s). Why: %s.", request.ShowTime(a.At), a.Who, a.Act, of, a.Was, a.Why)})
	}
	slices.SortStableFunc(events, func(a, b event) int { return a.at.Compare(b.at) })
	var sentences []string
	for i := 0; i < len(events); {
		n := 1
		for events[i].lookup != nil && i+n < len(events) && events[i].lookup.same(events[i+n].lookup) {
			n++
		}
		if n == 1 {
			sentences = append(sentences, events[i].sentence)
		} else {
			first, last := events[i].lookup, events[i+n-1].lookup
			sentences = append(sentences, fmt.Sprintf("Lookups %d to %d, %d in all, from %s to %s: each %s.",
				first.Number, last.Number, n, request.ShowTime(first.StartedAt), request.ShowTime(last.StartedAt), first.found()))
		}
		i += n
	}
	return sentences
}

// same says whether another lookup says what this one says. Another may be nil.
func (h *History) same(other *History) bool { return other != nil && h.found() == other.found() }

// found is what a lookup says, whoever made it and when.
func (h *History) found() string {
	s := h.Outcome
	if h.Error != nil {
		s += " (" + *h.Error + ")"
	}
	if !h.Applied {
		s += "; it came too late and was not applied"
	}
	return s
}

func (h *History) sentence() string {
	var b strings.Builder
	if h.Kind == "lookup" {
		fmt.Fprintf(&b, "Lookup %d at %s by %s: %s", h.Number, request.ShowTime(h.StartedAt), h.Worker, h.Outcome)
	} else {
		fmt.Fprintf(&b, "Attempt %d at %s by %s: %s", h.Number, request.ShowTime(h.StartedAt), h.Worker, words(h.Outcome))
	}
	if h.TookMS != nil {
		fmt.Fprintf(&b, " after %d ms", *h.TookMS)
	}
	if h.HTTPStatus != nil {
		fmt.Fprintf(&b, ", HTTP status %d", *h.HTTPStatus)
	}
	if h.TwilioCode != nil {
		fmt.Fprintf(&b, ", Twilio code %d", *h.TwilioCode)
	}
	if h.Error != nil {
		fmt.Fprintf(&b, " (%s)", *h.Error)
	}
	if !h.Applied {
		b.WriteString("; it came too late and was not applied")
	}
	b.WriteString(".")
	return b.String()
}

func words(outcome string) string { return strings.ReplaceAll(outcome, "_", " ") }
