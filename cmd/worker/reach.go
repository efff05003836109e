package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"flexworker/internal/consumer"
	"flexworker/internal/database"
	"flexworker/internal/trouble"
	"flexworker/migrations"
)

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

// schema looks whether the schema is there and, where this worker may, brings it up to date. It looks through the pool, whose
// connection the loops use afterwards; the migrator opens its own, so it runs only where something is missing.
func (a *app) schema(ctx context.Context) error {
	err := migrations.Check(ctx, a.pool)
	if !a.cfg.Migrate || !errors.Is(err, migrations.ErrBehind) {
		return fromDatabase(err)
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
