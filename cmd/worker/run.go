package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/singleflight"

	"flexworker/internal/consumer"
	"flexworker/internal/database"
	"flexworker/internal/flex"
	"flexworker/internal/outbox"
	"flexworker/internal/outbox/gate"
	"flexworker/internal/outbox/lookup"
	"flexworker/internal/outbox/request"
	"flexworker/internal/outbox/results"
	"flexworker/internal/outbox/upkeep"
	"flexworker/internal/trouble"
	"flexworker/migrations"
)

// app is one running worker: its parts, joined.
type app struct {
	cfg    Config
	log    *slog.Logger
	lines  *logBuffer
	pool   *pgxpool.Pool
	nats   *nats.Conn
	health natsHealth

	store      *outbox.Store
	consumer   *consumer.Consumer
	dispatcher *outbox.Dispatcher
	resolver   *lookup.Resolver
	upkeep     *upkeep.Upkeep
	fleet      *gate.Registry
	publisher  *results.Publisher
	state      *state
	gateReads  singleflight.Group // of who asks /readyz
}

// run is the worker: it serves until ctx ends, stops in order and returns nil; an
// error means that it could not start, or that it stopped, in the same order,
// because NATS has closed its connection for good. Everything here holds that one
// connection, and who started this process can start it anew: there is no second
// way to join the parts, for an event this rare. lines is where log writes, so that
// the metrics tell what it dropped; nil: log drops nothing.
func run(ctx context.Context, cfg Config, log *slog.Logger, lines *logBuffer) error {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	name := workerName()
	log = log.With("worker", name)
	log.Info("starting", "version", version, "flex", shownAddress(cfg.FlexURL), "rate", cfg.FlexRate, "concurrency", cfg.FlexConcurrency)
	a := &app{cfg: cfg, log: log, lines: lines, state: newState(), health: natsHealth{closed: end}}
	defer a.close()
	if warning := rateWarning(cfg.FlexRate); warning != "" {
		log.Warn("a setting is risky", "setting", "FLEX_RATE", "why", warning)
	}
	for _, warning := range cfg.warnings() {
		log.Warn("a setting is risky", "why", warning)
	}
	if err := a.build(ctx, name); err != nil {
		return err
	}
	endTraces, err := a.traces(ctx)
	if err != nil {
		return err
	}
	defer endTraces()
	admin, err := a.serveAdmin(ctx)
	if err != nil {
		return err
	}
	defer admin()
	if err := a.reachSchema(ctx); err != nil || ctx.Err() != nil {
		return cmp.Or(err, unasked(ctx))
	}
	leave := a.join(ctx)
	defer leave()
	if err := a.reachStreams(ctx); err != nil || ctx.Err() != nil {
		return cmp.Or(err, unasked(ctx))
	}
	log.Info("ready")
	a.serve(ctx)
	log.Info("stopped")
	return unasked(ctx)
}

// unasked is why ctx ended although nobody told the worker to stop; else nil.
func unasked(ctx context.Context) error {
	if err := context.Cause(ctx); errors.Is(err, errClosed) {
		return err
	}
	return nil
}

const (
	// connections of the pool: one for each of eight loops and three groups, and one
	// for whoever else asks.
	connections = 12
	// publishesOnTheWay are results that JetStream has not acknowledged yet, and
	// publishLimit how long it has for that: then they are sent again.
	publishesOnTheWay = 1024
	publishLimit      = 5 * time.Second
)

// build joins the parts. Nothing is asked of a server yet.
func (a *app) build(ctx context.Context, name string) error {
	cfg := a.cfg
	var err error
	if a.pool, err = openPool(ctx, cfg.DatabaseURL, connections, statementTimeout, forWorking); err != nil {
		return err
	}
	if a.nats, err = connectNATS(cfg, name, &a.health, a.log); err != nil {
		return err
	}
	stream, err := jetstream.New(a.nats, jetstream.WithPublishAsyncMaxPending(publishesOnTheWay), jetstream.WithPublishAsyncTimeout(publishLimit))
	if err != nil {
		return fmt.Errorf("JetStream: %w", err)
	}
	client, err := flex.New(flex.Config{
		URL: cfg.FlexURL, TaskRouterURL: cfg.TaskRouterURL, InsecureHTTP: cfg.FlexInsecureHTTP, Credentials: cfg.credentials, Timeout: cfg.FlexTimeout,
		Concurrency: cfg.FlexConcurrency, LookupAttribute: cfg.LookupAttribute, UserAgent: "flexworker/" + version,
	})
	if err != nil {
		return err
	}
	counters := &outbox.Counters{}
	policy := request.Policy{MinDelay: cfg.RetryMinDelay, MaxDelay: cfg.RetryMaxDelay, MaxAttempts: cfg.RetryMaxAttempts,
		Settle: cfg.LookupSettle, Undecided: request.Undecided(cfg.UncertainPolicy)}
	a.store = outbox.NewStore(a.pool, name, cfg.FlexTimeout)
	a.upkeep = upkeep.New(a.pool, cfg.FlexTimeout+request.LeaseMargin)
	a.store.Lookups.Attribute, a.store.Retention = cfg.LookupAttribute, cfg.Retention
	maxAge := 7 * 24 * time.Hour
	if cfg.Retention > 0 {
		maxAge = min(maxAge, cfg.Retention/2) // what is replayed is still known
	}
	a.consumer = &consumer.Consumer{
		Retention: cfg.Retention,
		Stream:    stream, Store: a.store, Attribute: cfg.LookupAttribute, Prefetch: max(64, 2*cfg.FlexConcurrency),
		Names: consumer.Names{Stream: cfg.RequestsStream, Subject: cfg.RequestsSubject, Consumer: cfg.RequestsConsumer, Create: cfg.CreateStreams, MaxAge: maxAge},
		Log:   a.log, Counters: &consumer.Counters{},
	}
	a.fleet = &gate.Registry{Pool: a.pool, Name: name, WentBack: a.upkeep.WentBack, Version: version, Log: a.log, Standing: a.standing, Settings: gate.Settings{
		Account: cmp.Or(cfg.TwilioAPIKey, cfg.TwilioAccountSID).String(), LookupAttribute: cfg.LookupAttribute, LookupSettle: cfg.LookupSettle,
		FlexTimeout: cfg.FlexTimeout, FlexRate: cfg.FlexRate, UncertainPolicy: cfg.UncertainPolicy, Retention: cfg.Retention}}
	a.dispatcher = &outbox.Dispatcher{
		Store: a.store, Fleet: a.fleet, Flex: client, Concurrency: cfg.FlexConcurrency, Limit: cfg.FlexTimeout, Log: a.log, Counters: counters,
		Policy: policy, Attempted: a.state.attempted,
	}
	a.dispatcher.AskFirst()
	a.consumer.Yields = a.dispatcher.Yields
	a.resolver = &lookup.Resolver{MayLookUp: a.dispatcher.MayLookUp, Requests: a.store.Lookups, Results: a.store.Results, Due: a.store.Due, Flex: client, Policy: policy, Log: a.log, Counters: &counters.Lookups}
	a.upkeep.Retention, a.upkeep.Registry, a.upkeep.Log = cfg.Retention, a.fleet, a.log
	a.upkeep.Results, a.upkeep.Due, a.upkeep.Uncertain = a.store.Results, a.store.Due, a.store.Lookups.Waiting
	a.publisher = &results.Publisher{Outgoing: a.store.Results, Stream: stream, Subject: cfg.ResultsSubject, Largest: a.nats.MaxPayload, Missing: a.resultsStream, Log: a.log, Counters: &counters.Results}
	return nil
}

// reachSchema brings the schema to where the worker can use it. What is merely away
// is waited for; what a person has to mend is an error.
func (a *app) reachSchema(ctx context.Context) error {
	err := a.until(ctx, "schema", func() (bool, error) {
		err := a.schema(ctx)
		return errors.Is(err, migrations.ErrBehind) || errors.Is(err, migrations.ErrNoSchema) || errors.Is(err, database.ErrEncoding), err
	})
	if err != nil || ctx.Err() != nil {
		return err
	}
	a.state.schema.Store(true)
	a.warnOfCollation(ctx)
	// The rate is known before the first claim.
	return a.until(ctx, "fleet", func() (bool, error) { return false, a.fleet.Renew(ctx) })
}

// join starts the poll that renews this worker's row in outbox_replicas; the
// returned function ends it and removes the row. The row stands also while the
// worker waits for the streams, and until it has drained.
func (a *app) join(ctx context.Context) (leave func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var polling sync.WaitGroup
	polling.Go(func() { a.upkeep.Poll(ctx) })
	return func() {
		cancel()
		polling.Wait()
		if err := a.fleet.Leave(ctx); err != nil {
			a.log.Warn("this worker's row of outbox_replicas cannot be removed; it counts as living for some seconds", "error", err)
		}
	}
}

// reachStreams waits for the streams likewise.
func (a *app) reachStreams(ctx context.Context) error {
	err := a.until(ctx, "streams", func() (bool, error) {
		err := a.streams(ctx)
		return errors.Is(err, consumer.ErrDrift) || errors.Is(err, errUnbound), err
	})
	a.state.streams.Store(err == nil && ctx.Err() == nil)
	return err
}

// until repeats step about every second while it fails for now; it ends with nil, with
// an error that is for good, or with ctx. Replicas that start together do not ask together.
func (a *app) until(ctx context.Context, what string, step func() (forGood bool, err error)) error {
	var waiting trouble.Trouble
	for {
		forGood, err := step()
		if err != nil && forGood {
			return err
		}
		waiting.Tell(a.log, "not ready yet; trying again", err, "step", what)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil // told to stop before it could start: that is no failure
		case <-time.After(750*time.Millisecond + rand.N(500*time.Millisecond)):
		}
	}
}

func (a *app) schema(ctx context.Context) error {
	if !a.cfg.Migrate {
		return fromDatabase(migrations.Check(ctx, a.pool))
	}
	steps, err := migrations.Up(ctx, a.cfg.DatabaseURL.Value())
	if steps > 0 {
		a.log.Info("the schema was brought up to date", "steps", steps)
	}
	return fromDatabase(err)
}

// warnOfCollation says when another version of a library sorts text than when the
// database was made. None of our indexes has its order, but others' in this database may.
func (a *app) warnOfCollation(ctx context.Context) {
	switch c, err := database.ReadCollation(ctx, a.pool); {
	case err != nil:
		a.log.Debug("the database's collation version could not be read", "error", err)
	case c.Changed():
		a.log.Warn("the database's collation has another version than when it was made: our indexes do not depend on it, others' in this database may be wrong: REINDEX them, then ALTER DATABASE ... REFRESH COLLATION VERSION",
			"made_with", c.Made, "now", c.Now)
	}
}

// errUnbound means that nobody would keep what is published on the results subject.
var errUnbound = errors.New("the results subject is not bound to the results stream")

// streams looks at both streams before the first message is taken.
func (a *app) streams(ctx context.Context) error {
	if !a.nats.IsConnected() {
		return fmt.Errorf("NATS at %s (NATS_URL) does not answer", a.cfg.NATSURL)
	}
	if _, err := a.consumer.Names.Open(ctx, a.consumer.Stream); err != nil {
		return err
	}
	if err := a.resultsStream(ctx); err != nil {
		return err
	}
	for _, advice := range a.consumer.Advice(ctx) {
		a.log.Warn("the request stream should be set up otherwise", "why", advice)
	}
	return nil
}

// resultsStream makes the results stream where it is missing and CREATE_STREAMS says that
// it is the worker's, as the request stream is made anew when it was deleted; else it says
// what is wrong with it. It is asked at the start, and when nobody takes a result.
func (a *app) resultsStream(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	subject := a.cfg.ResultsSubject + ".>"
	if a.cfg.CreateStreams {
		// Limits, so that a message id is remembered also after a restart; a
		// window longer than a reader's or a worker's usual outage.
		_, err := a.consumer.Stream.CreateStream(ctx, jetstream.StreamConfig{
			Name: a.cfg.ResultsStream, Subjects: []string{subject}, Duplicates: 30 * time.Minute, MaxAge: 30 * 24 * time.Hour,
			Description: "flexworker: one final result a request",
		})
		if err != nil && !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			return fmt.Errorf("create stream %s: %w", a.cfg.ResultsStream, err)
		}
	}
	bound, err := a.consumer.Stream.StreamNameBySubject(ctx, subject)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return fmt.Errorf("no stream is bound to %s: create %s, or start with CREATE_STREAMS=true: %w", subject, a.cfg.ResultsStream, err)
	case err != nil:
		// Without the permission to ask, publishing will tell.
		a.log.Debug("the binding of the results subject could not be looked up", "error", err)
	case bound != a.cfg.ResultsStream:
		return fmt.Errorf("%w: %s goes to stream %s, RESULTS_STREAM says %s", errUnbound, subject, bound, a.cfg.ResultsStream)
	}
	return nil
}
