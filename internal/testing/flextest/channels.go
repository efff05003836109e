package flextest

import (
	"cmp"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// channels answers GET /v1/Interactions/{KD}/Channels, GET and POST of one of them, and GET of its participants.
func (s *Server) channels(w http.ResponseWriter, r *http.Request) {
	if refused := s.admit(w, r); refused != nil {
		writeError(w, refused)
		return
	}
	sid, channel, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v1/Interactions/"), "/Channels")
	e := s.ledger.interaction(sid)
	listed := channel == ""
	channel, members := strings.CutSuffix(channel, "/Participants")
	if e == nil || !listed && channel != "/"+s.ledger.channelOf(e) {
		notFound(w, strings.TrimPrefix(r.URL.Path, "/v1"))
		return
	}
	settings := s.settings.Load()
	trouble := must([]Fault{cmp.Or(settings.SetupTrouble, settings.FetchTrouble)})[0]
	switch {
	case r.Method == http.MethodGet && members:
		s.ledger.count(&s.ledger.calls.Members)
		s.trouble(w, r, trouble, s.ledger.appendParticipants(e, time.Now().UnixNano()))
	case r.Method == http.MethodGet:
		s.ledger.count(&s.ledger.calls.Channels)
		body := s.ledger.appendChannel(nil, e)
		if listed {
			body = append(append([]byte(`{"channels":[`), body...), `],"meta":{"page":0,"page_size":50,"previous_page_url":null,"next_page_url":null,"key":"channels"}}`...)
		}
		s.trouble(w, r, trouble, body)
	case r.Method == http.MethodPost && !listed && !members:
		plan := must([]Fault{settings.CloseTrouble})[0]
		if plan.what != "" && !plan.created {
			s.trouble(w, r, plan, s.ledger.appendChannel(nil, e))
			return
		}
		if refused := s.closeChannel(r, e); refused != nil {
			writeError(w, refused)
			return
		}
		s.trouble(w, r, plan, s.ledger.appendChannel(nil, e))
	default:
		w.Header().Set("Allow", http.MethodGet)
		writeError(w, &refusal{http.StatusMethodNotAllowed, 20004, "Method not allowed"})
	}
}

// closeChannel carries out POST .../Channels/{UO}. Where another interaction has the same conversation, that becomes
// read-only for it, too: no client may do that.
func (s *Server) closeChannel(r *http.Request, e *entry) *refusal {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody))
	if err != nil {
		return invalid("The body could not be read")
	}
	if refused := s.readHeader(r); refused != nil {
		return refused
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return invalid("The body is no form: %v", err)
	}
	for name := range form {
		if name != "Status" && name != "Routing" {
			return invalid("Unknown parameter %s", name)
		}
	}
	switch form.Get("Status") {
	case "":
		return &refusal{http.StatusBadRequest, 45358, "Failed to close Channel. Missing status parameter."}
	case "closed": // inactive exists, too; nobody here wants it
	default:
		return &refusal{http.StatusBadRequest, 45359, "Failed to close Channel. Invalid status parameter."}
	}
	if _, given := form["Routing"]; given {
		routing, ok := object(form.Get("Routing"))
		if status, _ := findText(routing, "status"); !ok || known(status, "closed", "wrapup") == "" {
			return invalid("Invalid Routing: %q", form.Get("Routing"))
		}
	}
	return s.ledger.close(e, strings.Contains(form.Get("Routing"), `"closed"`))
}

// close closes the channel of an interaction, and with it, where ended says so, its tasks.
func (l *ledger) close(e *entry, ended bool) *refusal {
	l.mu.Lock()
	if e.closed {
		l.mu.Unlock()
		return &refusal{http.StatusConflict, 80906, "Received interaction completion event for an Interaction that is already complete"}
	}
	e.closed = true
	l.calls.Closed++
	if ended && e.routed != nil {
		e.routed.completed = cmp.Or(e.routed.completed, time.Now().UnixNano())
	}
	harmed := ""
	for _, other := range l.entries {
		if other != e && !other.closed && l.conversation(other) == l.conversation(e) {
			harmed = l.sid("KD", other.n)
		}
	}
	l.signal()
	l.mu.Unlock()
	if harmed != "" {
		l.violate("closed a channel whose conversation is that of " + harmed)
	}
	return nil
}

// conversation is that of an interaction. One that was attached to a channel has whatever that has. The lock is held.
func (l *ledger) conversation(e *entry) string {
	return cmp.Or(e.mediaSID, e.channelSID, l.sid("CH", e.n))
}

// channelOf is the sid of an interaction's channel.
func (l *ledger) channelOf(e *entry) string { return cmp.Or(e.channelSID, l.sid("UO", e.n)) }

// appendChannel appends the channel of an interaction.
func (l *ledger) appendChannel(buf []byte, e *entry) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	status := e.channelStatus(time.Now().UnixNano())
	buf = append(append(buf, `{"sid":"`...), l.channelOf(e)...)
	buf = l.appendSID(append(buf, `","interaction_sid":"`...), "KD", e.n)
	buf = append(append(buf, `","type":"`...), e.kind...)
	buf = append(append(buf, `","status":"`...), status...)
	if buf = append(buf, `","error_code":`...); status == "failed" {
		buf = strconv.AppendInt(buf, setupErrorCode, 10)
		buf = appendQuoted(append(buf, `,"error_message":`...), []byte(setupErrorMessage))
	} else {
		buf = append(buf, `null,"error_message":null`...)
	}
	return append(buf, `,"url":null,"links":null}`...)
}
