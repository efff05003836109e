package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/singleflight"

	"flexworker/internal/outbox"
	"flexworker/internal/outbox/gate"
	"flexworker/internal/outbox/results"
)

// state is what health and metrics are read from.
type state struct {
	schema   atomic.Bool // the database has our tables
	streams  atomic.Bool // both streams were there, so that the loops could begin
	draining atomic.Bool
	word     reading[gate.Word]  // of this replica
	spell    spell               // since when it is that word
	gate     reading[gate.State] // of the fleet
	tracing  bool                // attempts are written as spans; set before the loops begin
	metrics  *metrics
}

func newState() *state { return &state{metrics: newMetrics()} }

func (s *state) attempted(at outbox.Attempt) {
	s.metrics.attempts.WithLabelValues(at.Outcome.Kind.String()).Observe(at.Outcome.Took.Seconds())
	if s.tracing {
		traceAttempt(at)
	}
}

// settled notes how long a request took. When it was due again is not known of one that a person had sent again.
func (s *state) settled(r *results.Settled) {
	if r.SettledAt != nil && r.Revision == 1 {
		s.metrics.settled.WithLabelValues(string(r.State)).Observe(max(r.SettledAt.Sub(r.Due()), 0).Seconds())
	}
}

// serveAdmin listens on ADMIN_ADDR; the returned function ends that.
func (a *app) serveAdmin(ctx context.Context) (func(), error) {
	if a.cfg.AdminAddr == "" {
		return func() {}, nil
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", a.cfg.AdminAddr)
	if err != nil {
		return nil, fmt.Errorf("ADMIN_ADDR: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", a.readyz)
	mux.Handle("GET /metrics", promhttp.HandlerFor(a.registry(), promhttp.HandlerOpts{}))
	mux.Handle("/", a.page())
	mux.Handle("/api/", a.api())
	server := adminServer(mux, slog.NewLogLogger(a.log.Handler(), slog.LevelWarn))
	server.ConnState = newCrowd(mostConnections).state
	watching, unwatch := context.WithCancel(context.WithoutCancel(ctx))
	var serving sync.WaitGroup
	serving.Go(func() { a.watchStanding(watching) })
	serving.Go(func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			a.log.Error("the admin address is no longer served", "error", err)
		}
	})
	a.log.Info("health and metrics", "address", listener.Addr().String())
	return func() {
		_ = server.Close() // scrapes and probes under way may be cut
		unwatch()
		serving.Wait()
	}, nil
}

// adminServer has limits for connections that say nothing more, or read no answer:
// without them each stays for ever.
func adminServer(handler http.Handler, errs *log.Logger) *http.Server {
	return &http.Server{
		Handler: handler, ErrorLog: errs, MaxHeaderBytes: 16 << 10,
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 15 * time.Second, IdleTimeout: 2 * time.Minute,
	}
}

// readyz says in one word whether this replica can work, and why requests are
// not moving when they are not. limited, paused and held are no fault of the
// replica: it takes events, so it is ready.
func (a *app) readyz(w http.ResponseWriter, r *http.Request) {
	status, word := http.StatusOK, a.standing(r.Context()).Word
	if !word.Ready() {
		status = http.StatusServiceUnavailable
	}
	answer(w, status, string(word))
}

// standing is what this worker says of itself, on /readyz and in outbox_replicas.
func (a *app) standing(ctx context.Context) gate.Standing {
	asked := time.Now()
	// A prober that hangs up is no outage: what is found here is also told to others.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	now := gate.Standing{Word: gate.WordDraining, Reason: "it was told to stop", Last: a.dispatcher.LastCreated()}
	if !a.state.draining.Load() {
		if g, err := a.readGate(ctx); err != nil {
			now.Word, now.Reason, now.Away = gate.WordDatabase, unread(err), true
		} else {
			now.Word, now.Reason = a.why(ctx, g)
		}
	}
	a.state.word.set(now.Word)
	now.Since = a.state.spell.since(now.Word, asked)
	return now
}

// spell is how long a word has been the same. The zero value has had none.
type spell struct {
	mu    sync.Mutex
	word  gate.Word
	began time.Time
}

// since is when the word became this one, which it was at that time.
func (s *spell) since(word gate.Word, at time.Time) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.word != word {
		s.word, s.began = word, at
	}
	return s.began
}

// why is the word of a worker that could read the gate, and its reason.
func (a *app) why(ctx context.Context, g gate.Status) (gate.Word, string) {
	stall, stalled := a.consumer.Stalled()
	failure, failing := a.publisher.Failing()
	word, reason, stopped := a.dispatcher.Stopped()
	stuck := cmp.Or(a.dispatcher.Stalled(gate.StalledAfter), a.upkeep.Stalled(gate.StalledAfter), a.resolver.Stalled(gate.StalledAfter))
	unavailing := cmp.Or(a.dispatcher.Failing(), a.resolver.Failing())
	now := g.State
	if now == gate.Open {
		now = a.dispatcher.Gate()
	}
	a.state.gate.set(now)
	switch {
	case g.ReadOnly:
		return gate.WordDatabase, "the database is read-only"
	case !a.state.schema.Load():
		return gate.WordDatabase, "the schema is not up to date yet"
	case stuck != "":
		// Postgres answers reads, but does not do what it is asked to write. It is said before the gate's word: a held
		// fleet still has outcomes to record.
		return gate.WordDatabase, stuck
	case !a.state.streams.Load():
		return gate.WordNATS, "the streams were not reached yet"
	case a.health.refusals.standing(time.Now(), a.consumer.LastAcked()):
		return gate.WordNATS, "NATS refuses a subject"
	case failing:
		return gate.WordNATS, "results cannot be published: " + failure
	case !a.natsAnswers(ctx):
		return gate.WordNATS, "NATS does not answer"
	case stalled:
		return gate.WordNATS, stall
	case stopped:
		return word, reason
	case g.State != gate.Open:
		return gate.Word(g.State), g.Reason
	case unavailing != "":
		return gate.WordFailing, unavailing
	default:
		return gate.Word(a.dispatcher.Gate()), ""
	}
}

// readGate reads the gate, once for all who ask meanwhile, and waits for it no longer
// than ctx. The read itself goes on: one that is cut costs the pool a connection, and
// probers would cut many while Postgres is slow.
func (a *app) readGate(ctx context.Context) (gate.Status, error) {
	read := a.gateReads.DoChan("gate", func() (any, error) { return gate.Read(context.WithoutCancel(ctx), a.pool) })
	slow := time.NewTimer(gateSlow)
	defer slow.Stop()
	var answers <-chan singleflight.Result
	waits := false // for a lock: Postgres answers
	for {
		select {
		case r := <-read:
			g, _ := r.Val.(gate.Status)
			return g, r.Err
		case <-slow.C:
			answers = a.gateReads.DoChan("ping", func() (any, error) {
				ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
				defer cancel()
				return nil, a.looks.Ping(ctx)
			})
		case r := <-answers:
			answers, waits = nil, r.Err == nil
		case <-ctx.Done():
			if waits {
				return gate.Status{}, errGateWaits
			}
			return gate.Status{}, ctx.Err()
		}
	}
}

// gateSlow is after how long a read of the gate is slow: then Postgres is asked whether it answers at all.
const gateSlow = 300 * time.Millisecond

// errGateWaits is returned where the gate could not be read in time by a Postgres that answers.
var errGateWaits = errors.New("the gate is locked")

// unread says why the gate cannot be read: Postgres says why, or it does not answer at all, or it answers others, so that
// somebody holds a lock.
func unread(err error) string {
	var said *pgconn.PgError
	switch {
	case errors.As(err, &said):
		return "Postgres refuses to read the gate: " + said.Message
	case errors.Is(err, errGateWaits):
		return "the gate cannot be read, although Postgres answers: a session may hold a lock on outbox_gate"
	default:
		return "Postgres does not answer"
	}
}

// natsConnected tells whether the connection is there.
func (a *app) natsConnected(ctx context.Context) bool {
	return a.askNATS(ctx, "connected", a.nats.IsConnected)
}

// natsAnswers asks the server for a sign of life.
func (a *app) natsAnswers(ctx context.Context) bool {
	return a.askNATS(ctx, "answers", func() bool {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		return a.nats.IsConnected() && a.nats.FlushWithContext(ctx) == nil
	})
}

// askNATS asks the client library, once for all who ask meanwhile, and waits for it no longer than ctx. The library dials
// with its lock held: in a black hole whoever asks it waits for as long as a dial may take.
func (a *app) askNATS(ctx context.Context, question string, ask func() bool) bool {
	asked := a.natsAsked.DoChan(question, func() (any, error) { return ask(), nil })
	select {
	case r := <-asked:
		yes, _ := r.Val.(bool)
		return yes
	case <-ctx.Done():
		return false
	}
}

func answer(w http.ResponseWriter, status int, word string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = fmt.Fprintln(w, word) // a prober that hung up needs no answer
}
