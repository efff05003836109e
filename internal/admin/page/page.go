package page

import (
	"context"
	"embed"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"flexworker/internal/admin/access"
	"flexworker/internal/outbox/gate"
	"flexworker/internal/outbox/operator"
)

// Config is what the page has from its worker.
type Config struct {
	Access *access.Access
	// Desk answers, for whoever sends a request.
	Desk *operator.Desk
	// Backlog is this worker's own count of what is not finished, and when it was taken; zero: never.
	Backlog func() ([]operator.Backlog, time.Time)
	// Standing is what this worker says of itself. It answers also while Postgres does not.
	Standing func(context.Context) gate.Standing
	// ConfirmOff says whether the confirmation of set-ups has turned itself off. Nil: nobody has turned it on.
	ConfirmOff func() (off bool, at time.Time)
	// Worker is its name and Version that of its program.
	Worker, Version string
	Log             *slog.Logger
}

// Page serves the screens.
type Page struct {
	Config

	memory    memory
	exporting sync.Mutex // held while an export is made
}

const (
	// limit is how long a screen may read. What was not read by then says so.
	limit = 8 * time.Second
	// actLimit is how long an act may take: it may be one on many requests, or ask Flex or TaskRouter first, with every
	// page of its log.
	actLimit = time.Minute
)

//go:embed templates static
var files embed.FS

// New gives the handler of all screens.
func New(c Config) http.Handler { return newPage(c).handler() }

func newPage(c Config) *Page {
	p := &Page{Config: c}
	p.memory.page, p.memory.freshFor = p, freshFor
	return p
}

func (p *Page) handler() http.Handler {
	mux := http.NewServeMux()
	for path, do := range map[string]func(*visit) error{
		"GET /{$}":       (*visit).now,
		"GET /decide":    (*visit).decide,
		"GET /requests":  (*visit).requests,
		"GET /export":    (*visit).export,
		"GET /request":   (*visit).request,
		"GET /acts":      (*visit).acts,
		"GET /malformed": (*visit).malformed,
		"GET /fleet":     (*visit).fleet,
		"GET /pulse":     (*visit).pulse,

		"POST /payload":  (*visit).payload,
		"POST /hold":     (*visit).hold,
		"POST /release":  (*visit).release,
		"POST /act":      (*visit).act,
		"POST /close":    (*visit).close,
		"POST /erase":    (*visit).erase,
		"POST /decide":   (*visit).resolve,
		"POST /requests": (*visit).bulk,
	} {
		mux.HandleFunc(path, p.known(do))
	}
	mux.HandleFunc("GET /login", p.loginForm)
	mux.HandleFunc("POST /login", p.login)
	mux.HandleFunc("POST /logout", p.logout)
	for _, name := range []string{"style.css", "script.js", "icon.svg"} {
		mux.HandleFunc("GET /"+name, static(name))
	}
	mux.HandleFunc("/", p.known((*visit).nothing))
	return p.Access.Protect(mux)
}

// bodyMost bounds a form: a reason, a sid and an id.
const bodyMost = 64 << 10

// known has do answer whoever brings a credential.
func (p *Page) known(do func(*visit) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), limit)
		defer cancel()
		v := &visit{page: p, w: w, r: r.WithContext(ctx), came: r}
		r.Body = http.MaxBytesReader(w, r.Body, bodyMost)
		var err error
		if v.caller, err = p.Access.Caller(r); err == nil {
			v.desk = p.Desk.For(v.caller)
			err = do(v)
		}
		if err != nil {
			v.fault(err)
		}
	}
}

// A visit is one HTTP request of somebody who is known.
type visit struct {
	page   *Page
	w      http.ResponseWriter
	r      *http.Request // ends after limit
	came   *http.Request // ends when the browser hangs up
	caller operator.Caller
	desk   *operator.Desk
	// refused is the act that this answers, where it changed nothing; nil: it answers none.
	refused *refusal
}

// A refusal is an act that changed nothing: what its person is told, and typed.
type refusal struct {
	notice
	Act string // the name of its form
	Why string
	Sid string // of the interaction that the form names
	// Anyway: it may be done for who says that nobody needs to be asked.
	Anyway bool
}

func (v *visit) ctx() context.Context { return v.r.Context() }

// takes gives what is under way longer than a screen has, also to answer. It ends when the browser hangs up.
func (v *visit) takes(longest time.Duration) (end context.CancelFunc) {
	ctx, cancel := context.WithTimeout(v.came.Context(), longest)
	v.r = v.r.WithContext(ctx)
	_ = http.NewResponseController(v.w).SetWriteDeadline(time.Now().Add(longest + limit)) // without it the answer may be cut off
	return cancel
}

// query is a value of the address.
func (v *visit) query(name string) string { return v.r.URL.Query().Get(name) }

// mayAct says whether forms are worth showing. What is permitted, the Desk says.
func (v *visit) mayAct() bool { return v.caller.Right >= operator.MayAct }

// to sends the browser on. The address stays relative, as it came: http.Redirect would make it one from the root, and a
// proxy may have put a path before ours.
func to(w http.ResponseWriter, address string) {
	w.Header().Set("Location", address)
	w.WriteHeader(http.StatusSeeOther)
}

// static serves one embedded file. Its address has no version in it, so a browser asks each time.
func static(name string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-cache")
		w.Header().Set("ETag", assets[name])
		http.ServeFileFS(w, r, files, "static/"+name)
	}
}
