package flextest

import (
	"cmp"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// window is how far back the event log reaches without dates.
const window = 15 * time.Minute

// span is what a read of the event log asks for; times in unix nanoseconds.
type span struct {
	workspace, workflow string
	from, to            int64
	size                int
}

// listEvents answers GET .../Events. Only task.created happens here: any other
// type has no events.
func (s *Server) listEvents(w http.ResponseWriter, r *http.Request, workspace string) {
	s.ledger.count(&s.ledger.calls.Events)
	set, now := s.taskRouter.Load(), time.Now().UnixNano()
	query := r.URL.Query()
	span, refused := readSpan(query, now)
	if refused != nil {
		writeError(w, refused)
		return
	}
	span.workspace = workspace
	if kind := query.Get("EventType"); set.NoEvents || kind != "" && kind != "task.created" {
		span.to = 0
	}
	span.to = min(span.to, now-int64(set.EventLag))
	s.trouble(w, r, must([]Fault{set.EventTrouble})[0], s.ledger.list(span, r.URL.Path))
}

// readSpan checks the parameters. The log cannot be paged: what does not fit in
// PageSize is not shown.
func readSpan(query url.Values, now int64) (span, *refusal) {
	asked := span{workflow: query.Get("WorkflowSid"), from: now - int64(window), to: now}
	for name := range query {
		switch name {
		case "EventType", "WorkflowSid", "StartDate", "EndDate", "PageSize":
		default:
			return asked, invalid("Unknown parameter %s", name)
		}
	}
	if asked.workflow != "" && !isSID("WW", asked.workflow) {
		return asked, invalid("Invalid WorkflowSid: %q", asked.workflow)
	}
	if query.Has("EndDate") {
		asked.from = 0
	}
	for _, p := range [...]struct {
		name string
		to   *int64
	}{{"StartDate", &asked.from}, {"EndDate", &asked.to}} {
		text := query.Get(p.name)
		if !query.Has(p.name) {
			continue
		}
		at, err := time.Parse(time.RFC3339, text)
		if err != nil {
			at, err = time.Parse(time.DateOnly, text)
		}
		if err != nil {
			return asked, invalid("Invalid %s: %q", p.name, text)
		}
		*p.to = at.UnixNano()
	}
	var refused *refusal
	asked.size, refused = pageSize(query)
	return asked, refused
}

// list is the body of a read of the event log, newest first.
func (l *ledger) list(asked span, path string) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	buf, shown := []byte(`{"events":[`), 0
	for i := len(l.events) - 1; i >= 0 && shown < asked.size; i-- {
		e := &l.events[i]
		if e.at < asked.from {
			break // they stand in the order of time
		}
		if e.at > asked.to || e.task.wish.workspace != asked.workspace {
			continue
		}
		if asked.workflow != "" && asked.workflow != cmp.Or(e.task.wish.workflow, defaultWorkflow) {
			continue
		}
		if shown++; shown > 1 {
			buf = append(buf, ',')
		}
		buf = l.appendEvent(buf, e)
	}
	return appendMeta(append(buf, ']'), path, "events", asked.size, nil)
}

// appendEvent appends an event; its attributes are those of the creation. The
// lock is held.
func (l *ledger) appendEvent(buf []byte, e *event) []byte {
	task, at := l.sid("WT", e.task.n), time.Unix(0, e.at).UTC()
	workspace, event := e.task.wish.workspace, l.sid("EV", e.task.n)
	buf = append(buf, `{"account_sid":"`+AccountSID+`","actor_sid":"`...)
	buf = append(append(buf, workspace...), `","actor_type":"workspace","actor_url":null,"description":"Task `...)
	buf = append(append(buf, task...), ` created","event_type":"task.created","event_date":"`...)
	buf = append(append(buf, at.Format(time.RFC3339)...), `","event_date_ms":`...)
	buf = strconv.AppendInt(buf, at.UnixMilli(), 10)
	buf = append(append(buf, `,"event_data":{"task_sid":"`...), task...)
	buf = append(append(buf, `","workflow_sid":"`...), cmp.Or(e.task.wish.workflow, defaultWorkflow)...)
	buf = append(buf, `","task_channel_unique_name":`...)
	buf = appendQuoted(buf, []byte(cmp.Or(e.task.wish.taskChannel, "default")))
	buf = append(buf, `,"task_attributes":`...)
	buf = appendQuoted(buf, l.appendAttributes(nil, e.task, e.attributes, e.verbatim))
	buf = append(append(buf, `},"resource_sid":"`...), task...)
	buf = append(append(buf, `","resource_type":"task","resource_url":null,"sid":"`...), event...)
	buf = append(append(buf, `","source":"taskrouter","source_ip_address":null,"workspace_sid":"`...), workspace...)
	return append(append(append(buf, `","url":"`+taskRouterHost+`/v1/Workspaces/`+workspace+`/Events/`...), event...), `"}`...)
}
