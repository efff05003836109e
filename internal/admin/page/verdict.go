package page

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"flexworker/internal/outbox/gate"
	"flexworker/internal/outbox/operator"
	"flexworker/internal/outbox/request"
)

// A verdict says whether requests move and, if not, why: the first thing on the first screen.
type verdict struct {
	Tone, Headline         string
	Sentences              []string
	Do                     string
	Gate, Reason, By, Rate string
	Since                  time.Time
	Tag                    operator.Tag
	Opens, ReleaseMeans    string
	Shut, Held, Unknown    bool
}

func (v *visit) verdict(m *moment) verdict {
	if m.gateErr() != nil {
		return v.unjudged(m)
	}
	_, toDecide := m.undecided()
	d := judge(m.now.Gate, m.now.Fleet, m.backlog, m.stream, m.waiting(), toDecide)
	d.Rate = rateSaid(m.now.Fleet)
	if v.page.ConfirmOff != nil {
		if off, _ := v.page.ConfirmOff(); off {
			d.Sentences = append(d.Sentences, "Set-ups are no longer confirmed: Flex refuses to show them. A created request was accepted, and nobody looks whether its channel was set up.")
		}
	}
	return d
}

// unjudged says why nobody knows whether requests move.
func (v *visit) unjudged(m *moment) verdict {
	d := verdict{Tone: "bad", Unknown: true, Gate: "cannot be read", Rate: "not known"}
	s := m.standing
	switch holders := v.heldBy(m.nowErr); {
	case s.Away:
		d.Headline, d.Do = awaySaid(s), awayDo
		d.Sentences = append([]string{causes[gate.WordDatabase].Then + " So says this worker, " + v.page.Worker + ": another one may reach Postgres all the same."}, m.stream.said()...)
	case holders != "":
		d.Headline, d.Do = "Not known: another session holds a lock, so the gate cannot be read", "Ask the owner of that session, or end it."
		d.Sentences = []string{"The page waited for " + holders + "."}
	default:
		d.Headline, d.Do = "Not known: the page cannot read Postgres", "Try again, and see the worker's log: it says why."
		word := string(cmp.Or(s.Word, "nothing"))
		if s.Reason != "" {
			word += " (" + s.Reason + ")"
		}
		d.Sentences = []string{"What the page asks takes too long, or fails. The worker works beside it, and says of itself: " + word + "."}
	}
	return d
}

// judge is pure: the same values give the same words. waiting is how much waits for a person, toDecide how much of it to be
// decided; "": nothing.
func judge(g gate.Status, f gate.Fleet, backlog []operator.Backlog, in stream, waiting, toDecide string) verdict {
	var d verdict
	switch g.State {
	case gate.Held:
		d = verdict{Tone: "bad", Headline: "Nothing is sent: the fleet is held", Gate: "held by a person", Shut: true, Held: true,
			Sentences: append([]string{fmt.Sprintf("Held by %s since %s: %s. Messages are taken and stored, and lookups go on.", g.ChangedBy, request.ShowTime(g.HeldSince), g.Reason)}, waitsNow(backlog, in)...),
			Do:        causes[gate.WordHeld].Do, Opens: "No. Somebody has to release it",
			ReleaseMeans: "If you release, all replicas send again at once" + waited(f, backlog) + ". What Flex had answered with 429 waits no longer."}
	case gate.Paused:
		d = verdict{Tone: "warn", Headline: "Nothing is sent for the moment: Flex asked for a pause", Gate: "paused by Flex", Since: g.ChangedAt, Shut: true,
			Sentences: []string{causes[gate.WordPaused].Means}, Opens: "Yes, at " + request.ShowTime(f.Now.Add(g.PausedFor)),
			ReleaseMeans: "If you release, all replicas send again at once" + waited(f, backlog) + ", before the time that Flex asked for. Flex may refuse again, and ask for more."}
	default:
		d = verdict{Tone: "good", Headline: "Requests move", Gate: "open", Since: g.ChangedAt, Sentences: append(queued(f, backlog), in.said()...)}
		if waits, counted := pending(backlog); counted && waits == 0 && in.Messages == 0 {
			d.Headline = "Nothing waits to be sent"
		}
		if waiting != "" {
			things := "things need"
			if waiting == "1" {
				things = "thing needs"
			}
			d.Tone, d.Headline = "warn", d.Headline+", but "+waiting+" "+things+" attention"
		}
	}
	d.Tag = operator.GateTag(g)
	if !d.Held { // the first sentence says why and since when
		d.Reason = g.Reason
	}
	if g.ChangedBy != "migration" { // nobody has touched it yet
		d.By = g.ChangedBy
	}
	d.blame(f, backlog, in, toDecide)
	return d
}

// pending is how many wait to be sent, if that was counted.
func pending(backlog []operator.Backlog) (n int64, counted bool) {
	i := slices.IndexFunc(backlog, func(b operator.Backlog) bool { return b.State == string(request.Pending) })
	if i < 0 {
		return 0, false
	}
	return backlog[i].Requests, true
}

// waited says how many requests a release sends, and how fast; "": that was not counted.
func waited(f gate.Fleet, backlog []operator.Backlog) string {
	n, counted := pending(backlog)
	if !counted || n == 0 {
		return ""
	}
	said := ": " + requestsSaid(n) + " that waited"
	if f.Rate > 0 {
		said += fmt.Sprintf(", at the fleet's rate of %v a second", f.Rate)
	}
	return said
}

// queued says how long what waits will take, where it is more than the rate lets through in a second.
func queued(f gate.Fleet, backlog []operator.Backlog) []string {
	waits, _ := pending(backlog)
	if f.Rate == 0 || float64(waits) <= f.Rate {
		return nil
	}
	takes := time.Duration(min(float64(waits)/f.Rate, 1e9) * float64(time.Second))
	return []string{fmt.Sprintf("%s wait: at the fleet's rate of %v a second that takes %s.", requestsSaid(waits), f.Rate, span(takes))}
}

// stopped are replicas that cannot work for one reason.
type stopped struct {
	word   gate.Word
	reason string
	since  time.Time // the earliest
	names  []string
}

// blame adds the replicas that cannot work, why, and what to do: first about what stops the fleet, then about what waits for a decision, then
// about replicas that went without a word.
func (d *verdict) blame(f gate.Fleet, backlog []operator.Backlog, in stream, toDecide string) {
	var all []stopped
	n, alive := 0, 0
	var gone []gate.Replica
	for _, r := range f.Replicas {
		if r.Alive {
			alive++
		} else {
			gone = append(gone, r)
		}
		if !r.Alive || r.State.Ready() && r.State != gate.WordFailing {
			continue
		}
		n++
		reason := ""
		if r.Reason != nil && *r.Reason != "" {
			reason = " (" + *r.Reason + ")"
		}
		i := slices.IndexFunc(all, func(s stopped) bool { return s.word == r.State && s.reason == reason })
		if i < 0 {
			all = append(all, stopped{r.State, reason, r.Since, []string{r.Name}})
			continue
		}
		all[i].names = append(all[i].names, r.Name)
		if r.Since.Before(all[i].since) {
			all[i].since = r.Since
		}
	}
	switch {
	case d.Shut || n == 0 && alive > 0:
	case alive == 0:
		d.Tone, d.Headline, d.Sentences, d.Do = "bad", "Nothing moves: no replica runs", waitsNow(backlog, in), "Start the workers. Messages wait in the stream meanwhile."
	case n == alive:
		d.Tone, d.Headline, d.Sentences = "bad", "Nothing moves: no replica can work", waitsNow(backlog, in)
		if !slices.ContainsFunc(all, func(s stopped) bool { return s.word != all[0].word }) {
			d.Headline = "Nothing moves: " + causes[all[0].word].All
		}
	default:
		d.Tone, d.Headline = "warn", fmt.Sprintf("Requests move, but %d of %d replicas cannot work", n, alive)
	}
	for _, s := range all {
		d.Sentences = append(d.Sentences, s.said(n < alive))
		if do := causes[s.word].Do; do != "" && !strings.Contains(d.Do, do) {
			d.Do = strings.TrimSpace(d.Do + " " + do)
		}
	}
	for _, r := range gone {
		d.Sentences = append(d.Sentences, r.Name+" is gone: it was last seen at "+request.ShowTime(r.SeenAt)+", and stopped without a word.")
	}
	switch {
	case d.Do != "" || alive == 0:
	case toDecide == "1":
		d.Do = "Decide 1 request."
	case toDecide != "":
		d.Do = "Decide " + toDecide + " requests."
	case len(gone) == 1 && !d.Shut:
		d.Do = "If nobody stopped or replaced " + gone[0].Name + ", start it again, and see its log."
	case len(gone) > 1 && !d.Shut:
		d.Do = "If nobody stopped or replaced the replicas that are gone, start them again, and see their logs."
	}
}

// said says who cannot work since when, why, and what happens by itself. others: there are replicas that can.
func (s stopped) said(others bool) string {
	c := causes[s.word]
	who := s.names[0] + " is"
	switch n := len(s.names); {
	case n > 3:
		who = fmt.Sprintf("%s, %s and %d more are", s.names[0], s.names[1], n-2)
	case n > 1:
		who = strings.Join(s.names[:n-1], ", ") + " and " + s.names[n-1] + " are"
	}
	said := fmt.Sprintf("%s %s since %s%s. %s %s", who, s.word, request.ShowTime(s.since), s.reason, c.Means, c.Then)
	if others && (s.word == gate.WordUnauthorized || s.word == gate.WordUnreachable) {
		said += " The others take the messages meanwhile."
	}
	return said
}

// waitsNow says how many requests wait to be sent, when the oldest came, and what waits before the table; none: nothing does, or
// it was not counted.
func waitsNow(backlog []operator.Backlog, in stream) (said []string) {
	for _, b := range backlog {
		if b.State == string(request.Pending) && b.Requests == 1 {
			said = append(said, "1 request waits. It came "+span(b.Oldest)+" ago.")
		} else if b.State == string(request.Pending) && b.Requests > 0 {
			said = append(said, fmt.Sprintf("%s wait. The oldest came %s ago.", requestsSaid(b.Requests), span(b.Oldest)))
		}
	}
	return append(said, in.said()...)
}

// whole says how many messages wait in the request stream, also that none does, or that nobody knows.
func (s stream) whole() string {
	switch {
	case !s.Known:
		return "How many messages wait in the request stream is not known: NATS was not asked within the last 45 seconds."
	case s.Messages == 0:
		return "No message waits in the request stream."
	default:
		return s.said()[0]
	}
}

// said says how many messages wait in the request stream; none: none does, or nobody knows.
func (s stream) said() []string {
	switch s.Messages {
	case 0:
		return nil
	case 1:
		return []string{"1 message waits in the request stream: no worker has stored it yet."}
	default:
		return []string{thousands(int64(s.Messages)) + " messages wait in the request stream: no worker has stored them yet."}
	}
}
