package page

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"flexworker/internal/outbox/gate"
	"flexworker/internal/outbox/operator"
	"flexworker/internal/outbox/request"
	"flexworker/internal/terminal"
)

// decide shows one uncertain request: that of the address or, where it names none, the one that waits longest. An address that
// names what was decided before shows what becomes of that, too.
func (v *visit) decide() error {
	m, err := v.page.memory.at(v.ctx(), v.desk)
	if err != nil {
		return err
	}
	id := v.query("id")
	if id == "" {
		var first string
		if ids, _ := m.undecided(); len(ids) > 0 {
			first = ids[0]
		}
		if first != "" && len(v.wanted()) == 0 {
			values := v.r.URL.Query()
			values.Set("id", first)
			to(v.w, addressOf("decide", values))
			return nil
		}
		return v.showDecide(m, http.StatusOK,
			region{name: "queue", title: "What waits", of: []string{"attention"}, read: func(context.Context) (any, error) { return queue{None: true, Next: first}, m.nowErr }})
	}
	return v.showDecision(m, http.StatusOK, id, decision{})
}

// showDecide shows the screen: what becomes of what was decided before, if the address names it, and these regions.
func (v *visit) showDecide(m *moment, status int, regions ...region) error {
	done := v.query("done")
	if done == "" {
		return v.showAt(m, status, "Decide", "decide", regions...)
	}
	mark, err := v.page.memory.watch(v.ctx(), v.desk, done)
	if err != nil {
		return err
	}
	m = m.and("done", mark)
	decided := region{name: "decided", title: "What was decided", of: []string{"done", "gate"}, read: func(ctx context.Context) (any, error) {
		d, err := v.desk.Show(ctx, done)
		return decidedOf(d, m.now.Gate.State), err
	}}
	return v.showAt(m, status, "Decide", "decide", append([]region{decided}, regions...)...)
}

// decided is what a person has said of a request, and what it is now.
type decided struct{ ID, Said, Now string }

func decidedOf(d operator.Detail, g gate.State) decided {
	return decided{ID: d.RequestID, Said: decidedBy(d), Now: becameOf(d, g)}
}

// decidedBy says who has decided about a request, and how; "": nobody has.
func decidedBy(d operator.Detail) string {
	for _, act := range slices.Backward(d.Acts) {
		said := map[string]string{"resolve created": "that it exists", "resolve absent": "that it does not exist"}[act.Act]
		if said == "" {
			continue
		}
		if act.Unverified {
			said += ", unverified"
		}
		return fmt.Sprintf("%s said at %s %s (%s).", act.Who, request.ShowTime(act.At), said, act.Why)
	}
	return ""
}

// becameOf says what has become of a request that a person has decided about.
func becameOf(d operator.Detail, g gate.State) string {
	switch {
	case d.State == request.Pending && g == gate.Held:
		return "It is sent again once the gate is open: the fleet is held."
	case d.State == request.Pending, d.State == request.Sending:
		return "It is being sent again."
	case d.State == request.Uncertain && d.Undecided:
		return "It was sent again, and is uncertain again."
	default:
		return standsNow(d)
	}
}

type queue struct {
	ID, Source, Place, Next string
	None                    bool // no request was chosen
}

// A decision is the forms, and what was said to the one before them.
type decision struct {
	ID      string
	Attempt int
	Tag     operator.Tag

	Over string // what it is now that it is no longer uncertain; "": it is

	// By what it is looked for. Customer: none where the caller may not decide, or nothing names them.
	Attribute, Key, Workspace, Channel string
	Customer                           []fact
	Expression, Curl                   string // to search TaskRouter with; "": it has no task that carries the key

	// Said is what Flex or TaskRouter said, or why nothing was changed.
	SaidTitle, SaidTone string
	Said                []string

	Sid, Why string
	Confirm  bool // the interaction was read, and can be saved
	Anyway   bool // it may be saved although Flex does not show that it is this request's
	Sent     bool // the form that it does not exist was sent: the reason is its

	Absent absence
}

// absence is the form that says that a request does not exist.
type absence struct {
	Known  bool     // it has been asked for: what follows is so
	Answer string   // what TaskRouter says now, or why it was not asked
	Asked  []string // the questions, and what came of each
	Exists bool     // TaskRouter shows its task: there is no form
	Later  bool     // TaskRouter takes longer than a screen may: it is asked once more before anything is saved
	// Unproved: it is believed only unverified. Began is when the attempt began, and TwilioRequestID what Twilio's support knows it by.
	Unproved        bool
	Began           *time.Time
	TwilioRequestID string
	Means           string // what becomes of the request
}

// showDecision shows the evidence about a request, and the forms.
func (v *visit) showDecision(m *moment, status int, id string, form decision) error {
	mark, err := v.page.memory.watch(v.ctx(), v.desk, id)
	if err != nil {
		return err
	}
	d, err := v.desk.Show(v.ctx(), id)
	if err != nil {
		return err
	}
	if d.State != request.Uncertain && len(v.wanted()) == 0 {
		notice{"warn", "There is nothing to decide about it any more", append([]string{standsNow(d)}, said(decidedBy(d))...)}.leave(v.w, v.r)
		to(v.w, "request?id="+url.QueryEscape(id))
		return nil
	}
	return v.showDecide(m.and("request", mark), status,
		region{name: "queue", title: "What waits", of: []string{"attention"}, read: func(context.Context) (any, error) { return queueAt(m, d), nil }},
		region{name: "evidence", title: "The evidence", of: []string{"request"}, read: func(context.Context) (any, error) { return evidenceOf(d), nil }},
		region{name: "decision", title: "The decision", of: []string{"request"}, read: func(ctx context.Context) (any, error) { return v.formOf(ctx, d, form) }})
}

// said is a sentence as a list; "": none.
func said(sentence string) []string {
	if sentence == "" {
		return nil
	}
	return []string{sentence}
}

// standsNow says in a sentence what a request is.
func standsNow(d operator.Detail) string {
	said := d.SinceTag("")
	return strings.ToUpper(said[:1]) + said[1:] + "."
}

// queueAt says where among those that wait a request stands, and which is the next.
func queueAt(m *moment, d operator.Detail) queue {
	q := queue{ID: d.RequestID, Source: d.Source, Place: "Lookups go on: it does not wait for a person yet."}
	switch {
	case d.State != request.Uncertain:
		q.Place = standsNow(d)
	case d.WaitsForPerson():
		q.Place = "It waits for a person."
	}
	ids, count := m.undecided()
	if at := slices.Index(ids, d.RequestID); at >= 0 {
		q.Place = fmt.Sprintf("%d of %s, the oldest first.", at+1, count)
		ids = ids[at+1:]
	}
	if len(ids) > 0 {
		q.Next = ids[0]
	}
	return q
}

// formOf adds to the forms what the request, and TaskRouter, say.
func (v *visit) formOf(ctx context.Context, d operator.Detail, form decision) (decision, error) {
	form.ID, form.Attempt, form.Tag = d.RequestID, d.Attempt, d.Tag()
	if d.State != request.Uncertain {
		form.Over = strings.TrimSpace(standsNow(d) + " " + decidedBy(d))
		return form, nil
	}
	form.Channel = operator.ChannelName(d.Channel())
	if d.LookupKey != nil && d.LookupAttribute != nil && d.Workspace != nil {
		form.Key, form.Attribute, form.Workspace = *d.LookupKey, *d.LookupAttribute, *d.Workspace
		form.Expression = fmt.Sprintf(`%s == "%s"`, form.Attribute, form.Key)
		form.Curl = `curl -G -u "$TWILIO_API_KEY:$TWILIO_API_SECRET" ` + terminal.Command("--data-urlencode", "EvaluateTaskAttributes="+form.Expression,
			"https://taskrouter.twilio.com/v1/Workspaces/"+url.PathEscape(form.Workspace)+"/Tasks")
	}
	if !v.mayAct() {
		return form, nil
	}
	form.Customer = customerOf(d.Request)
	if len(form.Customer) > 0 && len(v.wanted()) == 0 {
		v.page.Log.Info("a customer was shown", "who", v.caller.Name, "request_id", d.RequestID)
	}
	if form.Confirm || form.Anyway { // it is about an interaction that exists
		return form, nil
	}
	return form, v.absence(ctx, d, &form)
}

// askFor is how long a screen waits for TaskRouter.
const askFor = 4 * time.Second

// absence adds to a form what TaskRouter says now, unless it is known, and what a person who says that the request does not exist has to
// know.
func (v *visit) absence(ctx context.Context, d operator.Detail, form *decision) error {
	a := &form.Absent
	legal, err := v.desk.Choices(ctx, d.RequestID)
	if err != nil {
		return err
	}
	askable := false
	for _, c := range legal {
		if c.Act == "resolve absent" {
			a.Means, askable = c.Becomes, !c.Unverified
		}
	}
	a.Began, a.TwilioRequestID = d.AttemptBeganAt, evidenceOf(d).TwilioRequestID
	switch {
	case a.Known:
	case !d.WaitsForPerson():
		a.Answer, a.Unproved = "Lookups still go on, and may find it.", true
	case !askable:
		a.Answer, a.Unproved = "TaskRouter cannot be asked: its call carried no key, or named no workspace.", true
	default:
		ctx, cancel := context.WithTimeout(ctx, v.page.askFor)
		defer cancel()
		e, err := v.desk.Ask(ctx, d)
		switch {
		case err != nil:
			a.Answer, a.Unproved = outOf(err), true
		case ctx.Err() != nil:
			a.Answer, a.Later = "TaskRouter has not answered yet. It is asked again, for up to a minute, and nothing is saved unless that proves it.", true
		default:
			*a = absenceOf(*a, e)
		}
	}
	if a.Exists && form.Sid == "" {
		form.Sid = a.sid()
	}
	return nil
}

// absenceOf adds what TaskRouter says to the form.
func absenceOf(a absence, e operator.Evidence) absence {
	a.Known, a.Asked, a.Unproved, a.Exists = true, e.Said, !e.Absent, len(e.Found) > 0
	if e.Nothing && !e.Absent { // why that proves nothing is for who asks
		a.Answer = "TaskRouter, asked now, finds nothing."
		return a
	}
	if n := len(e.Said); n > 0 {
		a.Answer, a.Asked = strings.TrimPrefix(e.Said[n-1], "In short: "), e.Said[:n-1]
		a.Answer = "TaskRouter, asked now: " + a.Answer
	}
	return a
}

// sid is that of an interaction which TaskRouter has named; "": it has named none.
func (a absence) sid() string { return sids.FindString(strings.Join(append(a.Asked, a.Answer), " ")) }
