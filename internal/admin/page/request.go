package page

import (
	"cmp"
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"

	"flexworker/internal/outbox/operator"
	"flexworker/internal/outbox/request"
	"flexworker/internal/terminal"
)

// request shows one request.
func (v *visit) request() error { return v.showRequest(v.query("id"), false) }

// showRequest shows a request. open: with what is personal in it.
func (v *visit) showRequest(id string, open bool) error {
	m, err := v.page.memory.at(v.ctx(), v.desk)
	if err != nil {
		return err
	}
	mark, err := v.page.memory.watch(v.ctx(), v.desk, id)
	if err != nil {
		return err
	}
	d, err := v.desk.Show(v.ctx(), id)
	if err != nil {
		return err
	}
	is := func(region region) region {
		region.of = append(region.of, "request")
		return region
	}
	return v.showAt(m.and("request", mark), http.StatusOK, terminal.Line(id), "request",
		is(region{name: "explanation", title: "Where it stands", of: []string{"gate", "fleet"}, read: func(ctx context.Context) (any, error) { return v.explanation(ctx, d) }}),
		is(region{name: "choices", title: "What can be done now", read: func(ctx context.Context) (any, error) { return v.choices(ctx, d) }}),
		is(region{name: "facts", title: "What is known", read: func(context.Context) (any, error) { return factsOf(d), nil }}),
		is(region{name: "timeline", title: "What happened", read: func(context.Context) (any, error) { return timelineOf(d), nil }}),
		is(region{name: "result", title: "The result", read: func(ctx context.Context) (any, error) { return v.result(ctx, d, open) }}),
		region{name: "payload", title: "The payload", read: func(context.Context) (any, error) { return payloadOf(d, open), nil }})
}

type explanation struct {
	ID       string
	State    request.State
	Standing []string // why it is where it is, and what comes next
	Codes    []string // what Twilio's codes mean
	Story    []string
	Commands []string
}

func (v *visit) explanation(ctx context.Context, d operator.Detail) (e explanation, err error) {
	e = explanation{ID: d.RequestID, State: d.State}
	if d.State != request.Created { // codes are of earlier attempts then: the story has them
		e.Codes = d.Codes()
	}
	text, err := v.desk.Explain(ctx, d.RequestID)
	if err != nil {
		return e, err
	}
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if command, ok := strings.CutPrefix(line, "    "); ok {
			e.Commands = append(e.Commands, command)
			continue
		}
		e.Story = append(e.Story, line)
	}
	last := 1
	if d.Setup != nil { // the last sentence is about its set-up
		last = 2
	}
	e.Standing = e.Story[max(0, len(e.Story)-last):]
	return e, nil
}

// A doable is an act that is legal on a request now.
type doable struct {
	Name, Verb, Means string
	Form              string // where its form goes; "": it is done on the screen Decide
	Act               string // as operator.Do knows it
	Harm              bool
	Unverified        bool
	Duplicate         string // the sid that a close begins with
}

type choices struct {
	ID      string
	Attempt int
	Tag     operator.Tag
	Acts    []doable
	Told    string // what a person has to know before they choose; "": nothing
	None    string // why there are no acts
}

func (v *visit) choices(ctx context.Context, d operator.Detail) (c choices, err error) {
	c = choices{ID: d.RequestID, Attempt: d.Attempt, Tag: d.Tag(), None: nothingToDo(d)}
	if d.ErrorKind != nil && *d.ErrorKind == "invalid" {
		c.Told = "It cannot be retried: it failed the check before Flex, and would fail it again. Its sender publishes the corrected request under a new request_id."
	}
	if duplicate := duplicateOf(d); duplicate != "" {
		c.Told = "It was created more than once, so its customer may be called twice: close the duplicate " + duplicate + ", unless somebody did."
	}
	legal, err := v.desk.Choices(ctx, d.RequestID)
	if err != nil {
		return c, err
	}
	for _, l := range legal {
		switch {
		case l.Act == "resolve created":
			c.Acts = append(c.Acts, doable{Name: "decide", Verb: "Decide", Means: "You see the evidence, and say whether it exists."})
		case l.Act == "resolve absent": // on the same screen
		case l.Unverified:
			c.Acts = append(c.Acts, doable{Name: l.Act + "-unverified", Form: "act", Act: l.Act, Verb: deeds[l.Act] + " without asking (unverified)", Means: l.Becomes, Harm: true, Unverified: true})
		default:
			does := cmp.Or(comesOf[l.Act], l.Becomes)
			if l.Act == "cancel" && d.State == request.Uncertain {
				does += " Until then it stays under Decide."
			}
			c.Acts = append(c.Acts, doable{Name: l.Act, Form: "act", Act: l.Act, Verb: deeds[l.Act], Means: does, Harm: l.Act == "cancel"})
		}
	}
	c.Acts = append(c.Acts, endings(d)...)
	return c, nil
}

// A fact has a name and one of: words, a moment, or a text to be copied.
type fact struct {
	Name, Text, Key string
	At              *time.Time
}

func factsOf(d operator.Detail) struct {
	RequestID string
	Rows      []fact
} {
	var rows []fact
	say := func(name string, text *string) {
		if text != nil && *text != "" {
			rows = append(rows, fact{Name: name, Text: *text})
		}
	}
	key := func(name string, text *string) {
		if text != nil && *text != "" {
			rows = append(rows, fact{Name: name, Key: *text})
		}
	}
	number := func(name string, n *int) {
		if n != nil {
			rows = append(rows, fact{Name: name, Text: strconv.Itoa(*n)})
		}
	}
	at := func(name string, t *time.Time) {
		if t != nil {
			rows = append(rows, fact{Name: name, At: t})
		}
	}
	key("Interaction", d.InteractionSID)
	key("Task", d.TaskSID)
	say("Source", &d.Source)
	at("Received", &d.ReceivedAt)
	due := "Due"
	if d.State == request.Uncertain {
		due = "Next lookup"
	}
	at(due, d.DueAt)
	at("Not sent after", d.ExpiresAt)
	say("Leased by", d.LeasedBy)
	at("Leased until", d.LeasedUntil)
	attempts := strconv.Itoa(d.Attempt)
	if d.Uncounted > 0 {
		attempts += ", of which " + strconv.Itoa(d.Uncounted) + " cost it nothing"
	}
	say("Attempts", &attempts)
	say("Error kind", d.ErrorKind)
	say("Reason", d.ErrorMessage)
	number("HTTP status", d.HTTPStatus)
	number("Twilio code", d.TwilioCode)
	say("Resolved by", d.ResolvedBy)
	at("Settled", d.SettledAt)
	at("Result acknowledged", d.PublishedAt)
	if d.Setup != nil {
		word := "not known yet"
		if d.Setup.Word != nil {
			word = *d.Setup.Word
		}
		say("Set-up", &word)
		key("Channel", d.Setup.ChannelSID)
		say("Channel's status", d.Setup.ChannelStatus)
		number("Channel's error", d.Setup.ErrorCode)
		say("Task's status", d.Setup.TaskStatus)
	}
	at("Erased", d.ErasedAt)
	number("Priority", &d.Priority)
	key("Workspace", d.Workspace)
	say("Lookup attribute", d.LookupAttribute)
	key("Lookup key", d.LookupKey)
	number("Revision of its result", &d.Revision)
	if d.Repeats > 0 {
		number("Asked for again", &d.Repeats)
	}
	sequence := strconv.FormatInt(d.StreamSequence, 10)
	say("Message of the request stream", &sequence)
	return struct {
		RequestID string
		Rows      []fact
	}{d.RequestID, rows}
}

type answered struct {
	MessageID, Outcome, Body string
	PublishedAt, Announced   *time.Time
	Shown                    bool
}

// result is the result as it is published; the sender's metadata are masked, unless open.
func (v *visit) result(ctx context.Context, d operator.Detail, open bool) (answered, error) {
	if !d.State.Final() {
		return answered{Announced: d.AnnouncedAt}, nil
	}
	a, err := v.desk.Answer(ctx, d.RequestID)
	if err != nil {
		return answered{}, err
	}
	body := a.Body
	if !open {
		body = mask(body, "metadata")
	}
	return answered{MessageID: a.MessageID, Outcome: a.Outcome, Body: indented(body), PublishedAt: d.PublishedAt, Shown: open}, nil
}
