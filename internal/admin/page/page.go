package page

import (
	"context"
	"embed"
	"errors"
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
	// Stream is this worker's own count of the messages that wait in the request stream; not known: it has none that is new
	// enough.
	Stream func() (messages int, known bool)
	// Standing is what this worker says of itself. It answers within about a second, also while Postgres does not.
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
	patience  time.Duration
	askFor    time.Duration // how long a screen waits for TaskRouter
	exporting sync.Mutex    // held while an export is made
}

const (
	// limit is how long a screen may read. What was not read by then says so.
	limit = 8 * time.Second
	// patience is how long a screen may read until the worker is asked whether it has Postgres at all. If it has not, the
	// screen says so, and reads no longer.
	patience = 1500 * time.Millisecond
	// actLimit is how long an act may take: it may be one on many requests, or ask Flex or TaskRouter first, with every
	// page of its log.
	actLimit = time.Minute
)

//go:embed templates static
var files embed.FS

// New gives the handler of all screens.
func New(c Config) http.Handler { return newPage(c).handler() }

func newPage(c Config) *Page {
	p := &Page{Config: c, patience: patience, askFor: askFor}
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
		ctx, end := context.WithCancelCause(r.Context())
		ctx, cancel := context.WithTimeout(ctx, limit)
		v := &visit{page: p, w: w, r: r.WithContext(ctx), came: r, end: end}
		var watching sync.WaitGroup
		if r.Method == http.MethodGet { // an act that is cut off may have been done
			watching.Go(func() { v.watchPostgres(ctx) })
		}
		defer watching.Wait()
		defer cancel()
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
	r      *http.Request           // ends after limit
	came   *http.Request           // ends when the browser hangs up
	end    context.CancelCauseFunc // of r
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

// An awayError ends what a screen reads, as its worker has no Postgres.
type awayError struct{ gate.Standing }

func (e awayError) Error() string { return "page: " + e.Reason }

// watchPostgres ends a screen that reads for long once its worker says that it has no Postgres.
func (v *visit) watchPostgres(ctx context.Context) {
	patience := v.page.patience
	if v.page.memory.away() {
		patience = 0 // as it was a moment ago
	}
	slow := time.NewTimer(patience)
	defer slow.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-slow.C:
		}
		if s := v.page.Standing(ctx); s.Away {
			v.end(awayError{s})
		}
		slow.Reset(v.page.patience)
	}
}

// away is what the worker said of itself where that ended the visit.
func (v *visit) away() (s gate.Standing, yes bool) {
	var away awayError
	yes = errors.As(context.Cause(v.ctx()), &away)
	return away.Standing, yes
}

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
