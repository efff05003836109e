package flextest

import (
	"cmp"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// maxPage is the largest PageSize.
const maxPage = 1000

// readSearch checks the parameters of a search; the page begins after that
// task's number.
func (s *Server) readSearch(query url.Values) (size int, after uint64, refused *refusal) {
	for name := range query {
		switch name {
		case "EvaluateTaskAttributes", "PageSize", "PageToken":
		case "Page", "page":
			s.ledger.violate("TaskRouter: the parameter " + name + " was sent")
			return 0, 0, &refusal{http.StatusBadRequest, 40153, "The page parameter is not supported, use PageToken"}
		default:
			return 0, 0, invalid("Unknown parameter %s", name)
		}
	}
	if size, refused = pageSize(query); refused != nil {
		return 0, 0, refused
	}
	if token := query.Get("PageToken"); token != "" {
		hex, ok := strings.CutPrefix(token, "PT")
		n, err := strconv.ParseUint(hex, 16, 64)
		if !ok || err != nil {
			return 0, 0, invalid("Invalid PageToken: %q", token)
		}
		after = n
	}
	return size, after, nil
}

// pageSize reads PageSize: 1 to 1000, 50 when absent.
func pageSize(query url.Values) (int, *refusal) {
	if !query.Has("PageSize") {
		return 50, nil
	}
	size, err := strconv.Atoi(query.Get("PageSize"))
	if err != nil || size < 1 || size > maxPage {
		return 0, invalid("Invalid PageSize: %q", query.Get("PageSize"))
	}
	return size, nil
}

// list is the body of a search. A nil filter means all tasks.
func (s *Server) list(workspace string, filter *expression, query url.Values, size int, after uint64) []byte {
	set, now, l := s.taskRouter.Load(), time.Now().UnixNano(), s.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sweep(set, now)
	buf, shown, last, more := []byte(`{"tasks":[`), 0, uint64(0), false
	for _, t := range s.candidates(filter) {
		if t == nil || t.n <= after || set.Blind || t.wish.workspace != workspace || t.gone(set, now) || t.created+int64(set.Lag) > now {
			continue
		}
		if filter != nil && !filter.matches(l.attributesOf(t)) {
			continue
		}
		if shown == size {
			more = true
			break
		}
		if shown > 0 {
			buf = append(buf, ',')
		}
		buf = l.appendTask(buf, t, set, now, !set.NullAttributes)
		shown, last = shown+1, t.n
	}
	path := "/v1/Workspaces/" + workspace + "/Tasks"
	next := url.Values{"PageSize": {strconv.Itoa(size)}, "PageToken": {"PT" + strconv.FormatUint(last, 16)}}
	if query.Has("EvaluateTaskAttributes") {
		next.Set("EvaluateTaskAttributes", query.Get("EvaluateTaskAttributes"))
	}
	if !more {
		next = nil
	}
	return appendMeta(append(buf, ']'), path, "tasks", size, next)
}

// candidates are the tasks that may match, in the order of their creation: from
// the index when the filter asks for the lookup key alone. The lock is held.
func (s *Server) candidates(filter *expression) []*task {
	if filter == nil {
		return s.ledger.tasks
	}
	keys, ok := filter.only(s.cfg.KeyAttribute)
	if !ok {
		if len(*filter) == 0 {
			return nil
		}
		return s.ledger.tasks
	}
	var list []*task
	slices.Sort(keys)
	for _, key := range slices.Compact(keys) {
		list = append(list, s.ledger.byKey[key]...)
	}
	slices.SortFunc(list, func(a, b *task) int { return int(a.n) - int(b.n) })
	return list
}

// attributesOf reads the attributes of a task, ours and Twilio's. The lock is
// held.
func (l *ledger) attributesOf(t *task) []member {
	list, _ := object(string(l.appendAttributes(nil, t, t.attributes, t.verbatim)))
	return list
}

// appendTask appends a task as TaskRouter shows it: other names than in an
// interaction, and dates as text. The lock is held.
func (l *ledger) appendTask(buf []byte, t *task, set *TaskRouter, now int64, attributes bool) []byte {
	created := time.Unix(0, t.created).UTC().Format(time.RFC3339)
	url := taskRouterHost + "/v1/Workspaces/" + t.wish.workspace + "/Tasks/" + l.sid("WT", t.n)
	age := strconv.FormatInt(max(now-t.created, 0)/int64(time.Second), 10)
	buf = l.appendSID(append(buf, `{"account_sid":"`+AccountSID+`","sid":"`...), "WT", t.n)
	buf = append(append(buf, `","workspace_sid":"`...), t.wish.workspace...)
	buf = append(append(buf, `","workflow_sid":"`...), cmp.Or(t.wish.workflow, defaultWorkflow)...)
	buf = append(append(buf, `","workflow_friendly_name":"`+workflowName+`","task_queue_sid":"`...), cmp.Or(t.wish.queue, defaultQueue)...)
	buf = append(buf, `","task_queue_friendly_name":"`+queueName+`","task_channel_sid":"`+taskChannelSID+`","task_channel_unique_name":`...)
	buf = appendQuoted(buf, []byte(cmp.Or(t.wish.taskChannel, "default")))
	buf = append(append(buf, `,"assignment_status":"`...), t.status(set.Life, now)...)
	buf = append(append(buf, `","priority":`...), cmp.Or(t.wish.priority, "0")...)
	buf = append(append(buf, `,"timeout":`...), cmp.Or(t.wish.timeout, "86400")...)
	buf = append(append(buf, `,"age":`...), age...)
	for _, name := range [...]string{"date_created", "date_updated", "task_queue_entered_date", "virtual_start_time"} {
		buf = append(append(append(buf, `,"`+name+`":"`...), created...), '"')
	}
	buf = append(appendOrNull(append(buf, `,"reason":`...), t.reason()), `,"addons":"{}","ignore_capacity":false,"routing_target":null,"attributes":`...)
	if attributes {
		buf = appendQuoted(buf, l.appendAttributes(nil, t, t.attributes, t.verbatim))
	} else {
		buf = append(buf, "null"...)
	}
	buf = append(append(buf, `,"url":"`...), url...)
	return append(append(append(buf, `","links":{"workspace":"`+taskRouterHost+`/v1/Workspaces/`...), t.wish.workspace...), `"}}`...)
}

// appendMeta closes a list. Nil next: this is its last page.
func appendMeta(buf []byte, path, key string, size int, next url.Values) []byte {
	base := taskRouterHost + path
	buf = append(append(buf, `,"meta":{"key":"`...), key...)
	buf = strconv.AppendInt(append(buf, `","page":0,"page_size":`...), int64(size), 10)
	buf = append(append(buf, `,"previous_page_url":null,"url":"`...), base...)
	buf = append(append(append(buf, `","first_page_url":"`...), base...), `","next_page_url":`...)
	if next == nil {
		return append(buf, "null}}"...)
	}
	return append(appendQuoted(buf, []byte(base+"?"+next.Encode())), "}}"...)
}
