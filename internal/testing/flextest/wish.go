package flextest

import (
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"unicode/utf8"
)

// The bounds of a create call: of its body, in bytes, and of the task's
// attributes, in characters as they came.
const (
	maxBody       = 1 << 20
	maxAttributes = 4096
)

// wish is what one create call asks for. Channel and routing are the JSON texts
// as they came; the other fields were read out of them.
type wish struct {
	channel, routing      string
	contextSID, webhookID string
	header                http.Header
	proto                 string

	kind, initiatedBy, channelSID, mediaSID string
	participants                            int // that Channel names

	routed                                  bool // there is a Routing, so there will be a task
	workspace, workflow, queue, taskChannel string
	priority, timeout                       string // as written; "" when absent
	attributes                              string // the text of an object; "" when absent
	key, testID                             string // the values by which a test recognises the call
}

// refusal is an answer other than a 2xx: a status, Twilio's code (0: the body
// has none) and the message.
type refusal struct {
	status, code int
	message      string
}

// invalid is the refusal of a parameter.
func invalid(format string, args ...any) *refusal {
	return &refusal{http.StatusBadRequest, 20001, fmt.Sprintf(format, args...)}
}

// read reads a create call and says what the API would find wrong with it, the
// first fault only, as Twilio does. The body is read in any case, so that a
// client that goes away is noticed.
func (s *Server) read(r *http.Request) (wish, *refusal) {
	q := wish{header: r.Header, proto: r.Proto}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	switch {
	case err != nil:
		return q, invalid("The body could not be read")
	case len(body) > maxBody:
		return q, &refusal{http.StatusRequestEntityTooLarge, 20413, "Request entity too large"}
	}
	if refused := s.readHeader(r); refused != nil {
		return q, refused
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return q, invalid("The body is no form: %v", err)
	}
	if refused := q.readForm(form); refused != nil {
		return q, refused
	}
	if refused := q.readChannel(); refused != nil {
		return q, refused
	}
	if !q.routed {
		return q, nil
	}
	return q, s.readRouting(&q)
}

// forbidden are the headers a create call must never carry (twilio.md §10).
var forbidden = [...]string{"Idempotency-Key", "X-Idempotency-Key", "I-Twilio-Idempotency-Token", "Expect"}

// readHeader checks what stands before the body.
func (s *Server) readHeader(r *http.Request) *refusal {
	for _, name := range forbidden {
		if r.Header.Get(name) != "" {
			s.ledger.violate("create: the header " + name + " was sent")
			return invalid("The header %s is not supported", name)
		}
	}
	if r.ContentLength < 0 {
		s.ledger.violate("create: no Content-Length was sent")
		return &refusal{http.StatusLengthRequired, 0, "Length Required"}
	}
	if media := r.Header.Get("Content-Type"); media != "application/x-www-form-urlencoded" {
		if media, _, err := mime.ParseMediaType(media); err != nil || media != "application/x-www-form-urlencoded" {
			return &refusal{http.StatusUnsupportedMediaType, 0, "Unsupported Media Type"}
		}
	}
	if r.URL.RawQuery != "" {
		return invalid("Parameters belong into the body")
	}
	return nil
}

// readForm checks names and bare values of the parameters.
func (q *wish) readForm(form url.Values) *refusal {
	for name, values := range form {
		switch name {
		case "Channel", "Routing", "InteractionContextSid", "WebhookTtid":
		default:
			return invalid("Unknown parameter %s", name)
		}
		if len(values) > 1 {
			return invalid("Parameter %s is given more than once", name)
		}
		if !utf8.ValidString(values[0]) {
			return invalid("Parameter %s is not valid UTF-8", name)
		}
	}
	if form.Get("Channel") == "" {
		return invalid("Missing required parameter Channel in the post body")
	}
	q.channel, q.routing = form.Get("Channel"), form.Get("Routing")
	q.contextSID, q.webhookID = form.Get("InteractionContextSid"), form.Get("WebhookTtid")
	if _, given := form["InteractionContextSid"]; given && !isSID("HQ", q.contextSID) {
		return invalid("Invalid InteractionContextSid: %q", q.contextSID)
	}
	if _, given := form["WebhookTtid"]; given && q.webhookID == "" {
		return invalid("Invalid WebhookTtid: empty")
	}
	_, q.routed = form["Routing"]
	return nil
}
