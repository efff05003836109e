package flextest

import (
	"cmp"
	"net/http"
	"strconv"
	"time"
)

// The hosts in the addresses that answers carry. They never resolve, so that a
// client which follows an address instead of building its own fails.
const (
	flexHost       = "https://flex-api.twilio.test"
	taskRouterHost = "https://taskrouter.twilio.test"
)

// The sids and names that every task has in common.
const (
	defaultWorkflow = WorkflowSID
	defaultQueue    = "WQ" + "00000000000000000000000000000004"
	taskChannelSID  = "TC" + "00000000000000000000000000000005"
	workflowName    = "Inbound care"
	queueName       = "Care"
)

// theirs are the attributes that Twilio writes; ours of the same name give way.
var theirs = map[string]bool{
	"customers": true, "channelType": true, "initiatedBy": true, "direction": true, "taskCreateSource": true,
	"flexInteractionSid": true, "flexInteractionChannelSid": true, "flexChannelInviteSid": true,
	"conversationSid": true, "conversations": true,
}

// appendAttributes appends the attributes of a task as one JSON object: ours in
// their order and with their numbers as written, then Twilio's.
func (l *ledger) appendAttributes(buf []byte, t *task, attributes string, verbatim bool) []byte {
	if verbatim {
		return append(buf, attributes...)
	}
	own, _ := object(cmp.Or(attributes, "{}"))
	buf = append(buf, '{')
	for _, m := range own {
		if !theirs[m.name] {
			buf = append(append(append(append(buf, m.raw...), ':'), m.value...), ',')
		}
	}
	n, direction := t.entry.n, "inbound"
	if t.wish.initiatedBy == "agent" {
		direction = "outbound"
	}
	conversation := t.wish.mediaSID
	if conversation == "" {
		conversation = l.sid("CH", n)
	}
	buf = append(append(buf, `"customers":{},"channelType":"`...), t.wish.kind...)
	buf = append(append(buf, `","initiatedBy":"`...), t.wish.initiatedBy...)
	buf = append(append(buf, `","direction":"`...), direction...)
	buf = l.appendSID(append(buf, `","taskCreateSource":"interaction","flexInteractionSid":"`...), "KD", n)
	buf = l.appendSID(append(buf, `","flexInteractionChannelSid":"`...), "UO", n)
	buf = l.appendSID(append(buf, `","flexChannelInviteSid":"`...), "KG", n)
	buf = append(append(buf, `","conversationSid":"`...), conversation...)
	buf = append(append(buf, `","conversations":{"initiated_by":"`...), t.wish.initiatedBy...)
	buf = l.appendSID(append(buf, `","conversation_id":"`...), "KD", n)
	buf = append(append(buf, `","media":[{"type":"ChatTranscript","sid":"`...), conversation...)
	return append(buf, `"}]}}`...)
}

// appendInteraction appends the interaction as create and fetch answer it.
func (l *ledger) appendInteraction(buf []byte, e *entry, set *TaskRouter, now int64) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	channel := l.sid("UO", e.n)
	if e.channelSID != "" {
		channel = e.channelSID
	}
	buf = l.appendSID(append(buf, `{"sid":"`...), "KD", e.n)
	buf = append(append(buf, `","channel":{"sid":"`...), channel...)
	buf = append(append(buf, `","type":"`...), e.kind...)
	buf = append(buf, `"},"routing":`...)
	switch {
	case e.task == 0:
		buf = append(buf, "null"...)
	case e.routed == nil: // its task is long forgotten
		buf = l.appendSID(append(buf, `{"reservation":null,"properties":{"sid":"`...), "WT", e.task)
		buf = append(buf, `","assignment_status":"completed"}}`...)
	default:
		buf = l.appendRouting(append(buf, `{"reservation":null,"properties":`...), e.routed, set, now)
		buf = append(buf, '}')
	}
	context, webhook := "", ""
	if e.call != nil {
		context, webhook = e.call.ContextSID, e.call.WebhookID
	}
	buf = appendOrNull(append(buf, `,"interaction_context_sid":`...), context)
	buf = appendOrNull(append(buf, `,"webhook_ttid":`...), webhook)
	buf = append(append(buf, `,"url":"`...), flexHost+"/v1/Interactions/"...)
	buf = l.appendSID(buf, "KD", e.n)
	buf = append(append(buf, `","links":{"channels":"`...), flexHost+"/v1/Interactions/"...)
	buf = l.appendSID(buf, "KD", e.n)
	return append(buf, `/Channels"}}`...)
}

// appendRouting appends the task as an interaction shows it: dates in seconds,
// attributes as a JSON text. The lock is held.
func (l *ledger) appendRouting(buf []byte, t *task, set *TaskRouter, now int64) []byte {
	var scratch [1024]byte
	seconds := t.created / int64(time.Second)
	age := max(now-t.created, 0) / int64(time.Second)
	buf = l.appendSID(append(buf, `{"sid":"`...), "WT", t.n)
	buf = append(buf, `","account_sid":"`+AccountSID+`","workspace_sid":"`...)
	buf = append(append(buf, t.wish.workspace...), `","workflow_sid":"`...)
	buf = append(append(buf, cmp.Or(t.wish.workflow, defaultWorkflow)...), `","workflow_name":"`+workflowName+`","queue_sid":"`...)
	buf = append(append(buf, cmp.Or(t.wish.queue, defaultQueue)...), `","queue_name":"`+queueName+`","task_channel_sid":"`+taskChannelSID+`","task_channel_unique_name":`...)
	buf = appendQuoted(buf, []byte(cmp.Or(t.wish.taskChannel, "default")))
	buf = append(append(buf, `,"assignment_status":"`...), t.status(set.Life, now)...)
	buf = append(append(buf, `","assignmentCounter":0,"priority":`...), cmp.Or(t.wish.priority, "0")...)
	buf = append(append(buf, `,"timeout":`...), cmp.Or(t.wish.timeout, "86400")...)
	buf = strconv.AppendInt(append(append(append(buf, `,"reason":"`...), t.reason()...), `","age":`...), age, 10)
	buf = strconv.AppendInt(append(buf, `,"age_in_queue":`...), age, 10)
	for _, name := range [...]string{"date_created", "date_updated", "task_queue_entered_date", "virtual_start_time"} {
		buf = append(append(append(buf, `,"`...), name...), `":`...)
		buf = strconv.AppendInt(buf, seconds, 10)
	}
	buf = append(buf, `,"addons":"{}","routing_target":null,"ignore_capacity":false,"required_attention":null,"custom_context":null,"twilio_context":null,"version":0,"attributes":`...)
	buf = appendQuoted(buf, l.appendAttributes(scratch[:0], t, t.attributes, t.verbatim))
	return append(buf, '}')
}

// appendOrNull appends text as a JSON string, or null when it is empty.
func appendOrNull(buf []byte, text string) []byte {
	if text == "" {
		return append(buf, "null"...)
	}
	return appendQuoted(buf, []byte(text))
}

// codes are Twilio's codes for a bare status. A status that is absent answers
// without a code, as a gateway does.
var codes = map[int]int{
	400: 20001, 401: 20003, 403: 20403, 404: 20404, 405: 20004, 409: 20409, 413: 20413, 422: 20422,
	429: 20429, 500: 20500, 503: 20503,
}

// appendError appends Twilio's error body; a code of 0 leaves code and
// more_info out.
func appendError(buf []byte, status, code int, message string) []byte {
	buf = append(buf, '{')
	if code != 0 {
		buf = strconv.AppendInt(append(buf, `"code":`...), int64(code), 10)
		buf = append(buf, ',')
	}
	buf = appendQuoted(append(buf, `"message":`...), []byte(message))
	if code != 0 {
		buf = strconv.AppendInt(append(buf, `,"more_info":"https://www.twilio.com/docs/errors/`...), int64(code), 10)
		buf = append(buf, '"')
	}
	buf = strconv.AppendInt(append(buf, `,"status":`...), int64(status), 10)
	return append(buf, '}')
}

var (
	jsonType = []string{"application/json"}
	htmlType = []string{"text/html; charset=utf-8"}
)

// write sends a whole answer.
func write(w http.ResponseWriter, status int, kind []string, body []byte) {
	h := w.Header()
	h["Content-Type"] = kind
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	w.WriteHeader(status)
	_, _ = w.Write(body) // the client may be gone
}

// writeError sends an error as Twilio words it.
func writeError(w http.ResponseWriter, r *refusal) {
	write(w, r.status, jsonType, appendError(nil, r.status, r.code, r.message))
}
