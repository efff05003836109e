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
	// looksTimeout bounds a question, and actsTimeout an act, which may be one on many requests.
	looksTimeout = "2s"
	actsTimeout  = "60s"
)

// buildDesk makes the desk of page and API. Its pools connect when somebody uses them.
func (a *app) buildDesk(ctx context.Context, client *flex.Client) (err error) {
	pool := func(timeout string, sessions func(*pgxpool.Config)) (*pgxpool.Pool, error) {
		return openPool(ctx, a.cfg.DatabaseURL, deskConnections, timeout, func(config *pgxpool.Config) {
			sessions(config)
			config.MaxConns, config.MinConns, config.MinIdleConns = deskConnections, 0, 0 // also where the address says how many the loops have
			database.Set(config.ConnConfig, "statement_timeout", timeout)                 // also where the address says another one for the loops
		})
	}
	if a.looks, err = pool(looksTimeout, database.ForLoops); err != nil {
		return fmt.Errorf("the pool of those who look: %w", err)
	}
	if a.acts, err = pool(actsTimeout, forWorking); err != nil {
		return fmt.Errorf("the pool of those who act: %w", err)
	}
	asks := func() (operator.Flex, time.Duration, error) { return client, a.cfg.LookupSettle, nil }
	a.desk = operator.NewDesk(a.acts, operator.Caller{}, asks).ReadingFrom(a.looks)
	return nil
}

// page is what people look at.
func (a *app) page() http.Handler {
	return page.New(page.Config{Access: a.access, Desk: a.desk, Backlog: a.counted, Standing: a.standing,
		Worker: a.fleet.Name, Version: version, Log: a.log})
}

// api is what programs ask.
func (a *app) api() http.Handler {
	return a.access.Protect(api.New(api.Config{Access: a.access, Desk: a.desk, Backlog: a.counted, Log: a.log}))
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
