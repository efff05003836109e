package operator

import (
	"fmt"
	"strings"
	"time"

	"flexworker/internal/outbox/gate"
	"flexworker/internal/outbox/request"
	"flexworker/internal/terminal"
)

// Command is the line to paste for an act on this request: it speaks of the attempt that
// is shown, and leaves a place for the reason.
func (d Detail) Command(act string, flags ...string) string {
	line := append([]string{"worker", act}, flags...)
	return terminal.Command(append(line, "--attempt", fmt.Sprint(d.Attempt), "--why", "...", "--", d.RequestID)...)
}

// releases is the line to paste that opens the gate.
var releases = terminal.Command("worker", "release", "--why", "...")

// fleetShows is the line to paste that shows all workers.
var fleetShows = terminal.Command("worker", "fleet")

// standing says where the request is now and what comes next, and which commands there are.
func standing(d Detail, g gate.Status, f gate.Fleet) (text string, commands []string) {
	switch d.State {
	case request.Pending:
		return pendingNow(d, g, f)
	case request.Sending:
		return d.where(g) + " If that worker dies, the lease lapses then and it is looked up.", nil
	case request.Uncertain:
		return uncertainNow(d)
	case request.Created:
		return d.where(g) + " " + publication(d), nil
	default:
		return fmt.Sprintf("%s %s%s", d.where(g), remedy(d, &commands), publication(d)), commands
	}
}

// where says in one sentence where the request is now.
func (d Detail) where(g gate.Status) string {
	switch d.State {
	case request.Pending:
		return d.waits(g)
	case request.Sending:
		return fmt.Sprintf("It is being sent: worker %s holds attempt %d until %s.", said(d.LeasedBy), d.Attempt, at(d.LeasedUntil))
	case request.Uncertain:
		if d.WaitsForPerson() {
			return fmt.Sprintf("It may exist, and no lookup can tell (%s).", said(d.ErrorMessage))
		}
		return fmt.Sprintf("It may exist: attempt %d could have been under way until %s (%s).", d.Attempt, at(d.UncertainSince), said(d.ErrorMessage))
	case request.Created:
		how := map[string]string{"response": "Flex answered so", "lookup": "a lookup found it", "operator": "an operator said so"}[said(d.ResolvedBy)]
		return fmt.Sprintf("It is created as %s (%s) since %s.", said(d.InteractionSID), how, at(d.SettledAt))
	default:
		return fmt.Sprintf("It is %s since %s: %s.", d.State, at(d.SettledAt), said(d.ErrorMessage))
	}
}

// waits is where of a pending request.
func (d Detail) waits(g gate.Status) string {
	var b strings.Builder
	switch {
	case d.isDue():
		fmt.Fprintf(&b, "It is due: attempt %d is made as soon as a worker has a free permit", d.Attempt+1)
		if g.Rate > 0 {
			fmt.Fprintf(&b, " and the fleet's rate, %v a second, leaves one", g.Rate)
		}
	case d.mayNotYet():
		fmt.Fprintf(&b, "It waits: attempt %d is due %s, its not_before", d.Attempt+1, due(d.DueAt, d.Now))
	default:
		fmt.Fprintf(&b, "It waits: attempt %d is due %s", d.Attempt+1, due(d.DueAt, d.Now))
	}
	if d.ErrorMessage != nil {
		fmt.Fprintf(&b, " (before: %s)", *d.ErrorMessage)
	}
	b.WriteString(".")
	return b.String()
}

// isDue says whether a pending request need not wait for its due_at.
func (d Detail) isDue() bool { return d.DueAt == nil || !d.DueAt.After(d.Now) }

// mayNotYet says whether a pending request waits for its not_before: nothing goes round that.
func (d Detail) mayNotYet() bool {
	return !d.isDue() && !d.NotBefore().Before(d.DueAt.Truncate(time.Millisecond))
}

func uncertainNow(d Detail) (string, []string) {
	var b strings.Builder
	created, absent := d.Command("resolve", "--created", "KD..."), d.Command("resolve", "--absent")
	if d.LookupKey == nil || d.LookupAttribute == nil || d.Workspace == nil { // nobody can be asked
		absent = d.Command("resolve", "--absent", "--unverified")
	}
	person := d.WaitsForPerson()
	b.WriteString(d.where(gate.Status{}))
	if person {
		fmt.Fprintf(&b, " It waits for a person%s.", since(d.ForPersonSince))
	}
	if d.Answered {
		b.WriteString(" " + AnsweredProvesNothing)
	}
	b.WriteString(timedOut(d))
	if d.DueAt != nil {
		fmt.Fprintf(&b, " The next lookup is due %s.", due(d.DueAt, d.Now))
	}
	if d.CancelRequestedAt != nil {
		fmt.Fprintf(&b, " It was cancelled at %s: it is never sent again; what exists already is adopted all the same.", at(d.CancelRequestedAt))
	}
	var commands []string
	if person {
		b.WriteString(" Look for it in Flex")
		if d.LookupKey != nil && d.LookupAttribute != nil {
			fmt.Fprintf(&b, ", by the task attribute %s = %s", *d.LookupAttribute, *d.LookupKey)
		}
		b.WriteString(". Then say that it exists, under which sid, or that it does not")
		if d.CancelRequestedAt == nil {
			b.WriteString(": it is sent again then, and if you are wrong " + twice(d.Channel()))
		}
		b.WriteString(".")
		commands = append(commands, created, absent)
	}
	if d.CancelRequestedAt == nil {
		if !person {
			b.WriteString(" This cancels it: it is not sent again.")
			commands = append(commands, d.Command("cancel"))
		}
	}
	return b.String(), commands
}

func since(t *time.Time) string {
	if t == nil {
		return ""
	}
	return " since " + request.ShowTime(*t)
}

func pendingNow(d Detail, g gate.Status, f gate.Fleet) (string, []string) {
	var b strings.Builder
	var commands []string
	b.WriteString(d.where(g))
	b.WriteString(timedOut(d))
	if d.HTTPStatus != nil && *d.HTTPStatus == 403 {
		fmt.Fprintf(&b, " Flex refused it with HTTP status 403: that may concern what this request shares with others of source %s and workspace %s alone.", d.Source, said(d.Workspace))
	}
	if g.State == gate.Held || g.State == gate.Paused {
		b.WriteString(gateNow(d, g))
		commands = append(commands, releases)
	}
	if idle := idle(f); idle != "" {
		b.WriteString(" But " + idle)
		commands = append(commands, fleetShows)
	}
	if d.ExpiresAt != nil {
		fmt.Fprintf(&b, " It is not sent after %s.", request.ShowTime(*d.ExpiresAt))
	}
	if !d.isDue() && d.Attempt > 0 && !d.mayNotYet() {
		b.WriteString(" A retry makes it due now.")
		commands = append(commands, d.Command("retry"))
	}
	return b.String(), commands
}

// idle says why no worker sends, each by its latest reason; "": one does, or nothing is known.
func idle(f gate.Fleet) string {
	if f.Now.IsZero() {
		return ""
	}
	var why []string
	for _, r := range f.Replicas {
		switch {
		case !r.Alive:
		case r.State.Ready() && r.State != gate.WordFailing:
			return ""
		default:
			why = append(why, fmt.Sprintf("%s is %s since %s (%s)", r.Name, r.State, request.ShowTime(r.Since), said(r.Reason)))
		}
	}
	if len(why) == 0 {
		return "no worker runs."
	}
	return "no worker gets on: " + strings.Join(why, "; ") + ". A worker that is stopped asks every two seconds whether it can go on."
}

// timedOut names the setting behind a call that was given up: where Flex is slow, all fare so.
func timedOut(d Detail) string {
	if d.ErrorKind == nil || *d.ErrorKind != "timeout" {
		return ""
	}
	return " FLEX_TIMEOUT is how long a call waits for its answer."
}

// gateNow is what a shut gate means for what would otherwise be sent: why, since when or
// until when, by whom, and what opens it.
func gateNow(d Detail, g gate.Status) string {
	if g.State == gate.Paused {
		s := fmt.Sprintf(" But the gate is paused by %s since %s: %s. Nothing is sent ", g.ChangedBy, request.ShowTime(g.ChangedAt), g.Reason)
		return s + fmt.Sprintf("until %s, when it opens by itself, or until a release opens it at once.", request.ShowTime(d.Now.Add(g.PausedFor)))
	}
	return fmt.Sprintf(" But the gate is held by %s since %s: %s. Nothing is sent until a release opens it.", g.ChangedBy, request.ShowTime(g.HeldSince), g.Reason)
}

// remedy is what can be done about a request that settled without an interaction. What
// the check refused no retry is for: under its id another request would be a conflict.
func remedy(d Detail, commands *[]string) string {
	if d.State == request.Rejected && d.ErrorKind != nil && *d.ErrorKind == "invalid" {
		return "It failed the check before Flex and would fail it again, so it cannot be retried: publish the corrected request under a new request_id. "
	}
	if d.ErasedAt != nil {
		return "It cannot be sent again. "
	}
	*commands = append(*commands, d.Command("retry"))
	if d.Attempt > 0 && (d.Undecided || d.ErrorKind != nil && *d.ErrorKind == "undecided") {
		return "Nobody knows whether an attempt created it: a retry looks it up and sends it again only when it is proved absent. "
	}
	late := ""
	if d.ExpiresAt != nil && !d.ExpiresAt.After(d.Now) {
		late = ", although its expires_at has passed, which no longer counts then"
	}
	if d.Attempt == 0 {
		return "A retry sends it" + late + ". "
	}
	return "A retry sends it again" + late + ". "
}

func publication(d Detail) string {
	if d.PublishedAt == nil {
		return "It is not recorded yet that the result stream has its result; the result is published until that is recorded."
	}
	return fmt.Sprintf("The result stream acknowledged its result at %s.", request.ShowTime(*d.PublishedAt))
}

func at(t *time.Time) string {
	if t == nil {
		return "an unknown time"
	}
	return request.ShowTime(*t)
}

func due(t *time.Time, now time.Time) string {
	if left := t.Sub(now).Round(100 * time.Millisecond); left > 0 {
		if left > time.Hour {
			return "at " + request.ShowTime(*t)
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
