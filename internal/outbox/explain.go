package outbox

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Explain says in prose what happened to a request, why it is where it is and
// what comes next. It is pure: the same values give the same sentences.
func Explain(d Detail, g Gate) string {
	var b strings.Builder
	say := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	say("%s was asked for by %s at %s (message %d of the request stream).", d.RequestID, d.Source, clock(d.ReceivedAt), d.StreamSequence)
	if d.Repeats > 0 {
		say("It was asked for again (%d more); each is answered with the same result.", d.Repeats)
	}
	for _, sentence := range happened(d) {
		say("%s", sentence)
	}
	say("%s", standing(d, g))
	return b.String()
}

// happened are the attempts, the lookups and what people did, in the order of
// their times: an act between two attempts is often why there was a second.
func happened(d Detail) []string {
	type event struct {
		at       time.Time
		sentence string
	}
	events := make([]event, 0, len(d.History)+len(d.Acts))
	for _, h := range d.History {
		events = append(events, event{h.StartedAt, h.sentence()})
	}
	for _, a := range d.Acts {
		events = append(events, event{a.At, fmt.Sprintf("At %s %s did: %s (it was %s). Why: %s.", clock(a.At), a.Who, a.Act, a.Was, a.Why)})
	}
	slices.SortStableFunc(events, func(a, b event) int { return a.at.Compare(b.at) })
	sentences := make([]string, len(events))
	for i, e := range events {
		sentences[i] = e.sentence
	}
	return sentences
}

func (h History) sentence() string {
	var b strings.Builder
	if h.Kind == "lookup" {
		fmt.Fprintf(&b, "Lookup %d at %s by %s: %s", h.Number, clock(h.StartedAt), h.Worker, h.Outcome)
	} else {
		fmt.Fprintf(&b, "Attempt %d at %s by %s: %s", h.Number, clock(h.StartedAt), h.Worker, strings.ReplaceAll(h.Outcome, "_", " "))
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

// standing says where the request is now and what comes next.
func standing(d Detail, g Gate) string {
	switch d.State {
	case Pending:
		return pendingNow(d, g)
	case Sending:
		return fmt.Sprintf("It is being sent: worker %s holds attempt %d until %s. If that worker dies, the lease lapses then and it is looked up.",
			said(d.LeasedBy), d.Attempt, at(d.LeasedUntil))
	case Uncertain:
		if d.DueAt == nil {
			return fmt.Sprintf("It may exist, and no lookup can tell (%s). It waits for a person: look for it in Flex, then `worker resolve %[2]s --created KD... --why \"...\"`, or `worker resolve %[2]s --absent --why \"...\"` when it surely does not exist: it is sent again.",
				said(d.ErrorMessage), d.RequestID)
		}
		s := fmt.Sprintf("It may exist: attempt %d could have been under way until %s (%s). The next lookup is due %s.",
			d.Attempt, at(d.UncertainSince), said(d.ErrorMessage), due(d.DueAt, d.Now))
		if g.State == GateHeld {
			s += held(g, "looked up")
		}
		return s
	case Created:
		how := map[string]string{"response": "Flex answered so", "lookup": "a lookup found it", "operator": "an operator said so"}[said(d.ResolvedBy)]
		return fmt.Sprintf("It is created as %s (%s) since %s. %s", said(d.InteractionSID), how, at(d.SettledAt), publication(d))
	default:
		return fmt.Sprintf("It is %s since %s: %s. %s%s", d.State, at(d.SettledAt), said(d.ErrorMessage), corrected(d), publication(d))
	}
}

func pendingNow(d Detail, g Gate) string {
	var b strings.Builder
	if d.DueAt != nil && d.DueAt.After(d.Now) {
		fmt.Fprintf(&b, "It waits: attempt %d is due %s", d.Attempt+1, due(d.DueAt, d.Now))
	} else {
		fmt.Fprintf(&b, "It is due: attempt %d is made as soon as a worker has a free slot", d.Attempt+1)
		if g.Rate > 0 {
			fmt.Fprintf(&b, " and the fleet's rate, %v a second, leaves one", g.Rate)
		}
	}
	if d.ErrorMessage != nil {
		fmt.Fprintf(&b, " (before: %s)", *d.ErrorMessage)
	}
	b.WriteString(".")
	switch g.State {
	case GateOpen, GateLimited: // nothing to add
	case GateHeld:
		b.WriteString(held(g, "sent"))
	case GatePaused:
		fmt.Fprintf(&b, " But the gate is paused: %s.", g.Reason)
	}
	if d.ExpiresAt != nil {
		fmt.Fprintf(&b, " It is not sent after %s.", clock(*d.ExpiresAt))
	}
	return b.String()
}

// held is what a held gate means for what would otherwise be done.
func held(g Gate, done string) string {
	s := fmt.Sprintf(" But the gate is held since %s: %s. Nothing is %s until ", clock(g.HeldSince), g.Reason, done)
	if g.Probed {
		return s + "that is put right, when it opens by itself, or until `worker release --why ...` opens it at once."
	}
	return s + "`worker release --why ...` opens it." // held by a person: nothing else ends it
}

// corrected is what the sender can do when the check refused a request, which no
// retry is for: under its id another request would be a conflict.
func corrected(d Detail) string {
	if d.State != Rejected || d.ErrorKind == nil || *d.ErrorKind != "invalid" {
		return ""
	}
	return "It failed the check before Flex and would fail it again, so it cannot be retried: publish the corrected request under a new request_id. "
}

func publication(d Detail) string {
	if d.PublishedAt == nil {
		return "Its result is not yet on the result stream; it is published again until the stream takes it."
	}
	return fmt.Sprintf("The result stream acknowledged its result at %s.", clock(*d.PublishedAt))
}

func clock(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05.000 UTC") }

func at(t *time.Time) string {
	if t == nil {
		return "an unknown time"
	}
	return clock(*t)
}

func due(t *time.Time, now time.Time) string {
	if left := t.Sub(now).Round(100 * time.Millisecond); left > 0 {
		if left > time.Hour {
			return "at " + clock(*t)
		}
		return "in " + left.String()
	}
	return "now"
}

func said(s *string) string {
	if s == nil || *s == "" {
		return "nothing is recorded"
	}
	return *s
}
