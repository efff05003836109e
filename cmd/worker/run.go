package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/singleflight"

	"flexworker/internal/admin/access"
	"flexworker/internal/consumer"
	"flexworker/internal/database"
	"flexworker/internal/flex"
	"flexworker/internal/outbox"
	"flexworker/internal/outbox/gate"
	"flexworker/internal/outbox/lookup"
	"flexworker/internal/outbox/operator"
	"flexworker/internal/outbox/request"
	"flexworker/internal/outbox/results"
	"flexworker/internal/outbox/setup"
	"flexworker/internal/outbox/upkeep"
	"flexworker/internal/senders"
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
	confirmer  *setup.Confirmer // nil: CONFIRM is off
	access     *access.Access
	asked      *pgxpool.Pool    // for senders; nil: SERVICE_SUBJECT is empty
	senders    *senders.Service // nil likewise
	desk       *operator.Desk
	looks      *pgxpool.Pool // of the desk: for questions
	acts       *pgxpool.Pool // of the desk
	state      *state
	gateReads  singleflight.Group // of who asks /readyz or the page
	natsAsked  singleflight.Group // of who asks /readyz and /metrics
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
	// connections of the pool, at most. Loops and groups of statements share them; with fewer they wait for each other.
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
	most := connections
	if cfg.Confirm {
		most++ // it is a loop more
	}
	if a.pool, err = openPool(ctx, cfg.DatabaseURL, most, statementTimeout, forWorking); err != nil {
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
	trusted, err := access.ParseProxies(cfg.TrustedProxies)
	if err != nil {
		return fmt.Errorf("TRUSTED_PROXIES: %w", err)
	}
	a.access = access.New(access.Config{Token: cfg.AdminToken.Value, ReadToken: cfg.AdminReadToken.Value, Trusted: trusted, Log: a.log})
	if err := a.buildDesk(ctx, client); err != nil {
		return err
	}
	counters := &outbox.Counters{}
	policy := request.Policy{MinDelay: cfg.RetryMinDelay, MaxDelay: cfg.RetryMaxDelay, MaxAttempts: cfg.RetryMaxAttempts,
		Settle: cfg.LookupSettle, Undecided: request.Undecided(cfg.UncertainPolicy)}
	a.store = outbox.NewStore(a.pool, name, cfg.FlexTimeout, cfg.LookupAttribute)
	a.store.Results.OnSettled = a.state.settled
	a.desk = a.desk.Telling(a.store.Results.OfferIDs)
	a.upkeep = upkeep.New(a.pool, a.store.LeaseFor())
	a.store.Retention = cfg.Retention
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
	a.fleet = &gate.Registry{Pool: a.pool, Name: name, WentBack: a.upkeep.WentBack, Version: version, Log: a.log, Standing: a.standing, Concurrency: cfg.FlexConcurrency, Settings: gate.Settings{
		Account: cmp.Or(cfg.TwilioAPIKey, cfg.TwilioAccountSID).String(), LookupAttribute: cfg.LookupAttribute, LookupSettle: cfg.LookupSettle,
		FlexTimeout: cfg.FlexTimeout, FlexRate: cfg.FlexRate, UncertainPolicy: cfg.UncertainPolicy, Retention: cfg.Retention}}
	if cfg.Confirm {
		a.fleet.Settings.ConfirmRate = cfg.ConfirmRate
	}
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
	if err := a.buildConfirmer(); err != nil {
		return err
	}
	return a.buildSenders(ctx)
}

// buildSenders makes the service for senders, which has connections of its own: who asks takes none from what has to be done.
func (a *app) buildSenders(ctx context.Context) (err error) {
	if a.cfg.ServiceSubject == "" {
		return nil
	}
	if a.asked, err = openPool(ctx, a.cfg.DatabaseURL, len(senders.Kinds), sendersTimeout, database.OnlyReadWrite); err != nil {
		return err
	}
	a.senders = senders.New(senders.Config{Conn: a.nats, Subject: a.cfg.ServiceSubject, Inbox: inboxPrefix, Version: version,
		Desk: operator.NewDesk(a.asked, operator.Caller{}, nil).Telling(a.store.Results.OfferIDs), Log: a.log})
	return nil
}

// buildConfirmer is for CONFIRM. Its client has connections of its own: no create waits for a read of a set-up.
func (a *app) buildConfirmer() error {
	cfg := a.cfg
	if !cfg.Confirm {
		return nil
	}
	reader, err := flex.New(flex.Config{
		URL: cfg.FlexURL, TaskRouterURL: cfg.TaskRouterURL, InsecureHTTP: cfg.FlexInsecureHTTP, Credentials: cfg.credentials,
		Timeout: min(cfg.FlexTimeout, setup.ReadLimit), Concurrency: setup.AtOnce, UserAgent: "flexworker/" + version,
	})
	if err != nil {
		return err
	}
	a.store.Results.FirstLook = setup.FirstLook
	a.confirmer = &setup.Confirmer{Setups: &setup.Setups{Pool: a.pool}, Flex: reader, Rate: cfg.ConfirmRate, MayRead: a.dispatcher.MayLookUp,
		Told: a.store.Results.Words, Log: a.log}
	return nil
}

// join starts the poll that renews this worker's row in outbox_replicas, and the count
// of the backlog; the returned function ends both and removes the row. They go on also
// while the worker waits for the streams, and until it has drained.
func (a *app) join(ctx context.Context) (leave func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var polling sync.WaitGroup
	polling.Go(func() { a.upkeep.Poll(ctx) })
	polling.Go(func() { a.watchBacklog(ctx) })
	return func() {
		cancel()
		polling.Wait()
		if err := a.fleet.Leave(ctx); err != nil {
			a.log.Warn("this worker's row of outbox_replicas cannot be removed; it counts as living for some seconds", "error", err)
		}
	}
}
