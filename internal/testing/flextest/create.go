package flextest

import (
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// elsewhere is where redirects point.
const elsewhere = "/elsewhere"

// nothing is the body of a 2xx for which no interaction was made.
const nothing = `{"sid":null,"channel":null,"routing":null,"interaction_context_sid":null,"webhook_ttid":null,"url":null,"links":null}`

// buffers are the bodies of answers.
var buffers = sync.Pool{New: func() any { return new(make([]byte, 0, 4096)) }}

// create answers POST /v1/Interactions in the order in which a call meets the
// real service: what stands in front of it, credentials, limits, the content;
// then it is created, and then the answer may go wrong.
func (s *Server) create(w http.ResponseWriter, r *http.Request) {
	settings := s.settings.Load()
	request, inFlight := s.ledger.enter()
	c := call{Server: s, w: w, r: r, status: settings.Status, id: s.ledger.sid("RQ", request), leave: s.ledger.leave}
	w.Header()["Twilio-Request-Id"] = []string{c.id}
	w.Header()["Twilio-Concurrent-Requests"] = []string{strconv.Itoa(inFlight)}

	wish, refused := s.read(r)
	plan := s.faults.choose(&wish)
	if plan.what != "" {
		s.ledger.count(&s.ledger.calls.Faults)
	}
	if !c.rest(settings.Latency) {
		c.abort()
	}
	if plan.what != "" && !plan.created && plan.what != "hang" {
		c.carry(plan, []byte(nothing))
		return
	}
	if plan.what == "hang" && !plan.created {
		c.hang()
		plan.what = ""
	}
	if early := c.refuse(settings, inFlight); early != nil {
		refused = early
	}
	if refused != nil {
		c.leave(refused.status)
		writeError(w, refused)
		return
	}
	r.Header.Del("Authorization")
	set := s.taskRouter.Load()
	e := s.ledger.add(&wish, request, settings, set)
	if plan.what == "twice" {
		e = s.ledger.add(&wish, request, settings, set)
		plan.what = ""
	}
	buf := buffers.Get().(*[]byte)
	*buf = s.ledger.appendInteraction((*buf)[:0], e, set, time.Now().UnixNano())
	c.carry(plan, *buf)
	buffers.Put(buf)
}

// refuse says what stands against a call whatever it asks for: credentials, and
// too many calls at once.
func (c *call) refuse(settings *Settings, inFlight int) *refusal {
	if refused := c.admit(c.w, c.r); refused != nil {
		return refused
	}
	if settings.Concurrency <= 0 || inFlight <= settings.Concurrency {
		return nil
	}
	if settings.RetryAfter != "" {
		c.w.Header().Set("Retry-After", settings.RetryAfter)
	}
	return &refusal{http.StatusTooManyRequests, 20429, "Too many concurrent requests"}
}

// fetch answers GET /v1/Interactions/{KD}.
func (s *Server) fetch(w http.ResponseWriter, r *http.Request) {
	s.ledger.count(&s.ledger.calls.Fetched)
	if r.Method != http.MethodGet {
		w.Header().Set("Allow", http.MethodGet)
		writeError(w, &refusal{http.StatusMethodNotAllowed, 20004, "Method not allowed"})
		return
	}
	if refused := s.admit(w, r); refused != nil {
		writeError(w, refused)
		return
	}
	sid := strings.TrimPrefix(r.URL.Path, "/v1/Interactions/")
	e := s.ledger.interaction(sid)
	plan := must([]Fault{s.settings.Load().FetchTrouble})[0]
	if e == nil && plan.what == "" {
		notFound(w, strings.TrimPrefix(r.URL.Path, "/v1"))
		return
	}
	body := []byte(nothing)
	if e != nil {
		body = s.ledger.appendInteraction(nil, e, s.taskRouter.Load(), time.Now().UnixNano())
	}
	s.trouble(w, r, plan, body)
}

// trouble sends body, or what plan makes of it, for a call that is no create.
func (s *Server) trouble(w http.ResponseWriter, r *http.Request, plan plan, body []byte) {
	c := call{Server: s, w: w, r: r, status: http.StatusOK, leave: func(int) {}}
	c.carry(plan, body)
}

// interaction returns the entry of a KD sid, or nil.
func (l *ledger) interaction(sid string) *entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := l.number("KD", sid); n > 0 && n <= uint64(len(l.entries)) {
		return l.entries[n-1]
	}
	return nil
}
