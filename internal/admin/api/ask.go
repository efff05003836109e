package api

import (
	"net/http"
	"time"

	"flexworker/internal/outbox/operator"
	"flexworker/internal/outbox/request"
)

func (a *api) gate(c *call) (any, error) {
	g, err := c.desk.Gate(c.Context())
	c.tag = operator.GateTag(g)
	return g, err
}

func (a *api) fleet(c *call) (any, error) { return c.desk.Fleet(c.Context()) }

// backlog answers from memory: nobody's question counts half a million rows.
func (a *api) backlog(c *call) (any, error) {
	if err := c.desk.MayLook(); err != nil {
		return nil, err
	}
	type state struct {
		State    string  `json:"state"`
		Requests int64   `json:"requests"`
		Oldest   float64 `json:"oldest_seconds"`
	}
	backlog, counted := a.Backlog()
	if counted.IsZero() {
		return nil, newProblem("not-counted", "It is counted every 15 seconds, and Postgres did not let it be counted.")
	}
	states := make([]state, len(backlog))
	for i, b := range backlog {
		states[i] = state{b.State, b.Requests, b.Oldest.Seconds()}
	}
	return struct {
		Counted time.Time `json:"counted_at"`
		Backlog []state   `json:"backlog"`
	}{counted.UTC(), states}, nil
}

// A list is a page of a list under its name. Next is null where nothing follows.
type list map[string]any

func page(name string, rows any, next string) list {
	l := list{name: rows, "next": nil}
	if next != "" {
		l["next"] = next
	}
	return l
}

// cursor is the only parameter of a list that has no filter.
func cursor(c *call) (string, error) {
	f := parameters(c.Request)
	cursor := f.text("cursor", 256)
	f.done()
	return cursor, f.fault()
}

// attention is what a person must look at. What waits for a decision, /requests lists in whole.
func (a *api) attention(c *call) (any, error) {
	now, err := c.desk.Now(c.Context())
	return struct {
		Attention []operator.Attention `json:"attention"`
		Waiting   int                  `json:"waiting"`
		UpTo      int                  `json:"counted_up_to"`
	}{now.Attention, min(now.Waiting, operator.WaitingMost), operator.WaitingMost}, err
}

func (a *api) acts(c *call) (any, error) {
	from, err := cursor(c)
	if err != nil {
		return nil, err
	}
	acts, next, err := c.desk.Acts(c.Context(), from)
	return page("acts", acts, next), err
}

func (a *api) malformed(c *call) (any, error) {
	from, err := cursor(c)
	if err != nil {
		return nil, err
	}
	messages, next, err := c.desk.Malformed(c.Context(), from)
	return page("malformed", messages, next), err
}

func (a *api) requests(c *call) (any, error) {
	f := parameters(c.Request)
	q := operator.Query{Filter: readFilter(f), Cursor: f.text("cursor", 256)}
	f.done()
	if err := f.fault(); err != nil {
		return nil, err
	}
	p, err := c.desk.Requests(c.Context(), q)
	l := page("requests", p.Rows, p.Next)
	l["searched"], l["searched_to"], l["by_settled"] = p.Searched, p.SearchedTo, p.BySettled
	return l, err
}

func (a *api) request(c *call) (any, error) {
	d, err := c.desk.Show(c.Context(), c.id())
	if err != nil {
		return nil, err
	}
	choices, err := c.desk.Choices(c.Context(), c.id())
	c.tag = d.Tag()
	if err == nil && c.Method != http.MethodHead { // which shows nothing
		a.Log.Info("a payload was shown", "who", c.who, "request_id", d.RequestID)
	}
	return struct {
		operator.Detail
		Choices []operator.Choice `json:"choices"`
	}{d, choices}, err
}

func (a *api) explain(c *call) (any, error) {
	text, err := c.desk.Explain(c.Context(), c.id())
	return map[string]string{"request_id": c.id(), "explanation": text}, err
}

// mostRequests is how many requests a page or a filter may name.
const mostRequests = 1000

// readFilter reads how requests are chosen, of a body and of a query alike.
func readFilter(f fields) operator.Filter {
	states := make([]string, len(request.States))
	for i, s := range request.States {
		states[i] = string(s)
	}
	filter := operator.Filter{
		State: request.State(f.oneOf("state", states...)), Source: f.text("source", 256), ErrorKind: f.text("error_kind", 256),
		HTTPStatus: f.number("http_status", 100, 599), TwilioCode: f.number("twilio_code", 1, 1<<31-1), ForPerson: f.flag("for_person"),
		OlderThan: f.duration("older_than"), ReceivedAfter: f.time("received_after"), ReceivedBefore: f.time("received_before"),
		Since: f.duration("settled_within"), Limit: f.number("limit", 1, mostRequests),
	}
	if !f.query {
		filter.RequestIDs = f.texts("request_ids", mostRequests)
	}
	return filter
}
