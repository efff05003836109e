package main

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"flexworker/internal/admin/api"
	"flexworker/internal/admin/page"
	"flexworker/internal/database"
	"flexworker/internal/flex"
	"flexworker/internal/outbox/operator"
)

const (
	// deskConnections are those of each pool of the desk. Whoever looks or acts never takes a connection from the loops.
	deskConnections = 2
	// looksTimeout bounds a question, and looksPatience its wait for a lock, which is shorter, so that the two can be told apart.
	looksTimeout  = "2s"
	looksPatience = "1s"
	// actsTimeout bounds an act, which may be one on many requests.
	actsTimeout = "60s"
)

// buildDesk makes the desk of page and API. Its pools connect when somebody uses them.
func (a *app) buildDesk(ctx context.Context, client *flex.Client) (err error) {
	if a.looks, err = a.deskPool(ctx, looksTimeout, func(config *pgxpool.Config) {
		database.ForReads(config)
		database.Set(config.ConnConfig, "lock_timeout", looksPatience)
	}); err != nil {
		return fmt.Errorf("the pool of those who look: %w", err)
	}
	if a.acts, err = a.deskPool(ctx, actsTimeout, forWorking); err != nil {
		return fmt.Errorf("the pool of those who act: %w", err)
	}
	asks := func() (operator.Flex, time.Duration, error) { return client, a.cfg.LookupSettle, nil }
	a.desk = operator.NewDesk(a.acts, operator.Caller{}, asks).ReadingFrom(a.looks)
	return nil
}

// deskPool opens a pool of the desk. What the address says of the loops' connections and timeout does not count for it.
func (a *app) deskPool(ctx context.Context, timeout string, sessions func(*pgxpool.Config)) (*pgxpool.Pool, error) {
	return openPool(ctx, a.cfg.DatabaseURL, deskConnections, timeout, func(config *pgxpool.Config) {
		sessions(config)
		config.MaxConns, config.MinConns, config.MinIdleConns = deskConnections, 0, 0
		database.Set(config.ConnConfig, "statement_timeout", timeout)
	})
}

// page is what people look at.
func (a *app) page() http.Handler {
	c := page.Config{Access: a.access, Desk: a.desk, Backlog: a.counted, Stream: a.streamWaits, Standing: a.standing, Worker: a.fleet.Name, Version: version, Log: a.log}
	if a.confirmer != nil {
		c.ConfirmOff = a.confirmer.Off
	}
	return page.New(c)
}

// api is what programs ask.
func (a *app) api() http.Handler {
	return a.access.Protect(api.New(api.Config{Access: a.access, Desk: a.desk, Backlog: a.counted, Log: a.log}))
}

// streamWaits is how many messages wait in the request stream, as this worker counted them last; not known: too long ago.
func (a *app) streamWaits() (messages int, known bool) {
	return a.state.metrics.pending.fresh(time.Now(), countLimit)
}

// counted is the backlog as this worker counted it last, and when; not one that is too old to be shown.
func (a *app) counted() ([]operator.Backlog, time.Time) {
	m := a.state.metrics
	backlog, ok := m.backlog.fresh(time.Now(), countLimit)
	if !ok {
		return nil, time.Time{}
	}
	return backlog, m.backlog.at()
}
