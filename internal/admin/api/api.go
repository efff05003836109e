// Package api is /api/v1: the Desk for programs. Each route is a translation of one call of the Desk, which checks the
// caller's right. openapi.yaml describes every route and every answer; a test holds the two equal.
//
// A request goes through access (who asks), fields (what was sent, all faults told together), the Desk, and back as
// JSON. An error is a problem by RFC 9457, of one of the kinds in problem.go. An act with an Idempotency-Key goes
// through Desk.Once (act.go).
//
// What others wrote (ids, sources, payloads, reasons) stands in the answers as it came: as JSON text, in which nothing
// of it can act.
package api

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"log/slog"
	"maps"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"flexworker/internal/admin/access"
	"flexworker/internal/outbox/operator"
)

// Prefix is the path under which all routes lie.
const Prefix = "/api/v1"

// Config is what the API is made of.
type Config struct {
	Access *access.Access
	Desk   *operator.Desk // of any caller: each request gets its own
	// Backlog is the latest count of what is not finished, and when it was made; the zero time: there is none that is
	// young enough to be shown.
	Backlog func() (backlog []operator.Backlog, counted time.Time)
	Log     *slog.Logger
}

//go:embed openapi.yaml
var document []byte

// How long one request may take. What is asked, and to read the body of an act, takes no longer than the page's patience. An act
// may have to ask TaskRouter, and is not cut when its client hangs up.
const (
	askLimit = 5 * time.Second
	actLimit = 55 * time.Second
)

// An api is the API.
type api struct{ Config }

// A call is one request to the API.
type call struct {
	*http.Request
	w    http.ResponseWriter
	desk *operator.Desk // of the caller
	who  string         // the caller
	tag  operator.Tag   // of the request, or of the gate, that the answer shows; "": of neither
}

// takes gives an act its time, also to answer: a worker cuts answers after 15 s. Where the connection does not let that be
// changed, its limit stands.
func (c *call) takes(limit time.Duration) (end context.CancelFunc) {
	ctx, end := context.WithTimeout(context.WithoutCancel(c.Context()), limit)
	c.Request = c.WithContext(ctx)
	_ = http.NewResponseController(c.w).SetWriteDeadline(time.Now().Add(limit + askLimit))
	return end
}

// id is the request that the path names; "", which is nobody's, where it is no text that Postgres could keep.
func (c *call) id() string {
	id := c.PathValue("id")
	if !utf8.ValidString(id) || strings.ContainsRune(id, 0) {
		return ""
	}
	return id
}

// New gives the handler of everything below Prefix.
func New(c Config) http.Handler {
	a := &api{c}
	mux := http.NewServeMux()
	for route, methods := range a.routes() {
		mux.HandleFunc(Prefix+route, func(w http.ResponseWriter, r *http.Request) { a.serve(w, r, methods) })
	}
	nowhere := func(w http.ResponseWriter, r *http.Request) { a.serve(w, r, nil) }
	mux.HandleFunc("/", nowhere)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if at := r.URL.EscapedPath(); path.Clean(at) != at { // which the mux would answer with a page that leads elsewhere
			nowhere(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// routes are the paths, and what is done for each method. Questions are for GET, and HEAD.
func (a *api) routes() map[string]map[string]func(*call) (any, error) {
	list := func(ask func(*call) (any, error)) map[string]func(*call) (any, error) {
		return map[string]func(*call) (any, error){http.MethodGet: ask}
	}
	get := func(ask func(*call) (any, error)) map[string]func(*call) (any, error) { // without parameters
		return list(func(c *call) (any, error) {
			f := parameters(c.Request)
			f.done()
			if err := f.fault(); err != nil {
				return nil, err
			}
			return ask(c)
		})
	}
	post := func(act func(*call) (any, error)) map[string]func(*call) (any, error) {
		return map[string]func(*call) (any, error){http.MethodPost: act}
	}
	return map[string]map[string]func(*call) (any, error){
		"/openapi.yaml":            get(a.document),
		"/gate":                    get(a.gate),
		"/fleet":                   get(a.fleet),
		"/backlog":                 get(a.backlog),
		"/attention":               get(a.attention),
		"/malformed":               list(a.malformed),
		"/requests":                list(a.requests),
		"/requests/{id}":           get(a.request),
		"/requests/{id}/explain":   get(a.explain),
		"/requests/{id}/retry":     post(a.act(readRetry)),
		"/requests/{id}/cancel":    post(a.act(readChange(operator.ToCancel))),
		"/requests/{id}/republish": post(a.act(readChange(operator.ToRepublish))),
		"/requests/{id}/lookup":    post(a.act(readChange(operator.ToLookUp))),
		"/requests/{id}/resolve":   post(a.act(readResolve)),
		"/requests/{id}/close":     post(a.act(readClose)),
		"/requests/{id}/erase":     post(a.act(readErase)),
		"/gate/hold":               post(a.act(readGate((*operator.Desk).Hold))),
		"/gate/release":            post(a.act(readGate((*operator.Desk).Release))),
		"/acts:preview":            post(a.preview),
		"/acts":                    {http.MethodGet: a.acts, http.MethodPost: a.act(readMany)},
	}
}

// serve answers one request: by what its path has for the method, if the caller has a credential.
func (a *api) serve(w http.ResponseWriter, r *http.Request, methods map[string]func(*call) (any, error)) {
	caller, err := a.Access.Caller(r)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	do, known := methods[method]
	switch {
	case methods == nil:
		a.fail(w, r, newProblem("no-route", "openapi.yaml has all paths."))
		return
	case !known:
		w.Header().Set("Allow", strings.Join(slices.Sorted(maps.Keys(methods)), ", "))
		a.fail(w, r, newProblem("method", "The header Allow names those that this path knows."))
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), askLimit)
	defer cancel()
	c := &call{Request: r.WithContext(ctx), w: w, desk: a.Desk.For(caller), who: caller.Name}
	answer, err := do(c)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	if c.tag != "" {
		w.Header().Set("ETag", quoted(c.tag))
	}
	switch answer := answer.(type) {
	case yamlText:
		w.Header().Set("Content-Type", "application/yaml")
		_, _ = w.Write(answer)
	case *reply:
		a.write(w, answer)
	default:
		a.write(w, replyOf(answer, c.tag))
	}
}

// yamlText is an answer that is no JSON.
type yamlText []byte

func (a *api) document(c *call) (any, error) { return yamlText(document), c.desk.MayLook() }

// fail answers with a problem. What callers cannot have caused is logged.
func (a *api) fail(w http.ResponseWriter, r *http.Request, err error) {
	p, known := problemOf(err)
	if !known && r.Context().Err() == nil {
		a.Log.Warn("the API could not answer", "method", r.Method, "route", r.Pattern, "error", err)
	}
	a.write(w, replyOf(p, ""))
}

// A reply is an answer as it is sent, and as it is kept under an idempotency key.
type reply struct {
	Status int             `json:"status"`
	Tag    operator.Tag    `json:"tag,omitempty"`
	Header http.Header     `json:"header,omitempty"` // beside the type and the tag
	Body   json.RawMessage `json:"body"`
}

// replyOf is a reply with this body, of the request with this tag, or a problem.
func replyOf(body any, tag operator.Tag) *reply {
	r := &reply{Status: http.StatusOK, Tag: tag, Header: http.Header{}}
	if p, ok := body.(*problem); ok {
		r.Status = p.Status
		p.header(r.Header)
	}
	text, err := encode(body)
	if err != nil { // a payload that is no JSON: the column is of type json
		p := newProblem("internal", "The answer cannot be written as JSON.")
		r.Status = p.Status
		text, _ = encode(p) // of text alone
	}
	r.Body = text
	return r
}

// encode writes JSON in which payloads stand as they came, number for number, and no character is escaped that need
// not be.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return b.Bytes(), err
}

func (a *api) write(w http.ResponseWriter, r *reply) {
	h := w.Header()
	maps.Copy(h, r.Header)
	if r.Tag != "" {
		h.Set("ETag", quoted(r.Tag))
	}
	h.Set("Content-Type", "application/json")
	if r.Status >= http.StatusBadRequest {
		h.Set("Content-Type", "application/problem+json")
	}
	w.WriteHeader(r.Status)
	_, _ = w.Write(r.Body) // a client that hung up needs no answer
}
