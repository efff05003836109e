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

	"github.com/prometheus/client_golang/prometheus/promhttp"

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
	word, reason := a.why(ctx)
	a.state.word.set(word)
	return gate.Standing{Word: word, Reason: reason, Last: a.dispatcher.LastCreated()}
}

func (a *app) why(ctx context.Context) (gate.Word, string) {
	if a.state.draining.Load() {
		return gate.WordDraining, "it was told to stop"
	}
	// A prober that hangs up is no outage: what is found here is also told to others.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	stall, stalled := a.consumer.Stalled()
	failure, failing := a.publisher.Failing()
	g, err := a.readGate(ctx)
	word, reason, stopped := a.dispatcher.Stopped()
	stuck := cmp.Or(a.dispatcher.Stalled(gate.StalledAfter), a.upkeep.Stalled(gate.StalledAfter), a.resolver.Stalled(gate.StalledAfter))
	unavailing := cmp.Or(a.dispatcher.Failing(), a.resolver.Failing())
	if err == nil {
		now := g.State
		if now == gate.Open {
			now = a.dispatcher.Gate()
		}
		a.state.gate.set(now)
	}
	switch {
	case err != nil:
		return gate.WordDatabase, "the gate cannot be read"
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
	read := a.gateReads.DoChan("", func() (any, error) { return gate.Read(context.WithoutCancel(ctx), a.pool) })
	select {
	case r := <-read:
		g, _ := r.Val.(gate.Status)
		return g, r.Err
	case <-ctx.Done():
		return gate.Status{}, ctx.Err()
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
