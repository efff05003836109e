package operator

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"flexworker/internal/outbox/request"
)

// A Tag names a request as a person saw it: its revision, its attempt, its state, how many acts people had done to it, and
// how many findings lookups had brought. Whoever has another tag has an old screen. It consists of letters, digits and
// hyphens; "" is no tag.
//
// A person who asks for a lookup changes nothing that another was shown, and is not counted. What the lookup finds is, where no
// lookup has said so before.
type Tag string

// tagSQL is the tag of a row of outbox, which the statement calls outbox, by the table as the statement finds it.
const tagSQL = `(revision || '-' || attempt || '-' || state || '-' || (SELECT count(*) FROM outbox_acts a WHERE a.request_id = outbox.request_id AND a.act <> 'lookup')
	|| '-' || (SELECT count(DISTINCT outcome || ' ' || split_part(coalesce(error, ''), ': ', 1)) FROM outbox_attempts l WHERE l.outbox_id = outbox.id AND l.kind = 'lookup'))`

// finding is what a lookup said, for the tag. What stands behind a colon is the error of one call, and another each time.
func (h History) finding() string {
	why := ""
	if h.Error != nil {
		why, _, _ = strings.Cut(*h.Error, ": ")
	}
	return h.Outcome + " " + why
}

// Tag is the tag of the request as it was read.
func (d Detail) Tag() Tag {
	return Tag(fmt.Sprintf("%d-%d-%s-%d-%d", d.Revision, d.Attempt, d.State, len(d.changing()), len(d.findings())))
}

// changing are the acts that a tag counts.
func (d Detail) changing() []Done {
	return slices.DeleteFunc(slices.Clone(d.Acts), func(act Done) bool { return act.Act == "lookup" })
}

// findings are the lookups that said what none had said before them.
func (d Detail) findings() (first []History) {
	known := map[string]bool{}
	for _, h := range d.History {
		if h.Kind == "lookup" && !known[h.finding()] {
			known[h.finding()] = true
			first = append(first, h)
		}
	}
	return first
}

// seen are the attempt, the number of acts and that of findings that a tag names; ok is false for what is no tag.
func (t Tag) seen() (attempt, acts, findings int, ok bool) {
	parts := strings.Split(string(t), "-")
	if len(parts) != 5 {
		return 0, 0, 0, false
	}
	for at, into := range map[int]*int{1: &attempt, 3: &acts, 4: &findings} {
		n, err := strconv.Atoi(parts[at])
		if err != nil || n < 0 {
			return 0, 0, 0, false
		}
		*into = n
	}
	return attempt, acts, findings, true
}

// SinceTag says what has happened to a request since somebody saw it under a tag: the attempts, the acts of people and the new
// findings since then, and what it is now.
func (d Detail) SinceTag(tag Tag) string {
	now := fmt.Sprintf("it is %s now", d.State)
	if d.InteractionSID != nil {
		now += " as " + *d.InteractionSID
	}
	attempt, acts, findings, ok := tag.seen()
	if !ok {
		return now
	}
	type event struct {
		at       time.Time
		sentence string
	}
	var after []event
	for _, h := range d.History {
		if h.Kind == "attempt" && h.Number > attempt {
			after = append(after, event{h.StartedAt, h.said()})
		}
	}
	changing, found := d.changing(), d.findings()
	for _, act := range changing[min(acts, len(changing)):] {
		after = append(after, event{act.At, act.said()})
	}
	for _, h := range found[min(findings, len(found)):] {
		after = append(after, event{h.StartedAt, h.said()})
	}
	slices.SortStableFunc(after, func(a, b event) int { return cmp.Compare(a.at.UnixNano(), b.at.UnixNano()) })
	sentences := make([]string, 0, len(after)+2)
	for _, e := range after {
		sentences = append(sentences, e.sentence)
	}
	if d.State == request.Sending && d.Attempt > attempt {
		sentences = append(sentences, d.underWay())
	}
	return strings.Join(append(sentences, now), "; ")
}

// said is an attempt, or a lookup, in a list of what happened.
func (h History) said() string {
	if h.Kind == "lookup" {
		return fmt.Sprintf("lookup %d by %s at %s: %s", h.Number, h.Worker, request.ShowTime(h.StartedAt), h.found())
	}
	return fmt.Sprintf("attempt %d by %s at %s: %s", h.Number, h.Worker, request.ShowTime(h.StartedAt), words(h.Outcome))
}

// said is an act in a list of what happened.
func (a Done) said() string {
	return fmt.Sprintf("%s by %s at %s (%s)", a.Act, a.Who, request.ShowTime(a.At), a.Why)
}

// underWay is the attempt of a request that is being sent.
func (d Detail) underWay() string {
	return fmt.Sprintf("attempt %d by %s is under way", d.Attempt, said(d.LeasedBy))
}
