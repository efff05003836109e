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

// A Tag names a request as a person saw it: its revision, its attempt, its state, and how many acts people had done to
// it. Whoever has another tag has an old screen. It consists of letters, digits and hyphens; "" is no tag.
type Tag string

// tagSQL is the tag of a row of outbox, which the statement calls outbox, by the table as the statement finds it.
const tagSQL = `(revision || '-' || attempt || '-' || state || '-' || (SELECT count(*) FROM outbox_acts a WHERE a.request_id = outbox.request_id))`

// Tag is the tag of the request as it was read.
func (d Detail) Tag() Tag {
	return Tag(fmt.Sprintf("%d-%d-%s-%d", d.Revision, d.Attempt, d.State, len(d.Acts)))
}

// seen are the attempt and the number of acts that a tag names; ok is false for what is no tag.
func (t Tag) seen() (attempt, acts int, ok bool) {
	parts := strings.Split(string(t), "-")
	if len(parts) != 4 {
		return 0, 0, false
	}
	attempt, err := strconv.Atoi(parts[1])
	if err != nil || attempt < 0 {
		return 0, 0, false
	}
	acts, err = strconv.Atoi(parts[3])
	return attempt, acts, err == nil && acts >= 0
}

// SinceTag says what has happened to a request since somebody saw it under a tag: the attempts and the acts of people
// since then, and what it is now.
func (d Detail) SinceTag(tag Tag) string {
	now := fmt.Sprintf("it is %s now", d.State)
	if d.InteractionSID != nil {
		now += " as " + *d.InteractionSID
	}
	attempt, acts, ok := tag.seen()
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
	for _, act := range d.Acts[min(acts, len(d.Acts)):] {
		after = append(after, event{act.At, act.said()})
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

// said is an attempt in a list of what happened.
func (h History) said() string {
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
