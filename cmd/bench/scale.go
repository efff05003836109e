package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// measureScale fills one table and measures on it the time of a claim, all that people ask, and retention, in this order:
// retention empties it.
func (w *world) measureScale(ctx context.Context) ([]row, error) {
	dsn, err := w.filled(ctx, w.settled, w.notDue)
	if err != nil {
		return nil, err
	}
	size := row{name: fmt.Sprintf("disk of a row, with its attempt and indexes, beside %d settled and %d waiting rows, bytes", w.settled, w.notDue)}
	bytes, err := w.diskOf(ctx, dsn)
	if err != nil {
		return nil, err
	}
	size.add(bytes/float64(w.settled+w.notDue), fmt.Sprintf("%.1f GiB in all", bytes/(1<<30)))
	claim := row{name: "claim, ms, p50"}
	for range w.rounds {
		took, err := w.claims(ctx, dsn, 5000, 0)
		if err != nil {
			return nil, err
		}
		claim.add(milliseconds(took, 0.5), fmt.Sprintf("p99 %.1f, of %d claims", milliseconds(took, 0.99), len(took)))
	}
	rows := []row{size, claim}
	printRows(progress, rows)
	reads, err := w.readsOf(ctx, dsn)
	if err != nil {
		return nil, err
	}
	retention, err := w.retentionOf(ctx, dsn)
	return append(append(rows, reads...), retention...), err
}

// diskOf is what all tables of a database take, with their indexes.
func (w *world) diskOf(ctx context.Context, dsn string) (bytes float64, err error) {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return 0, err
	}
	defer conn.Close(ctx) //nolint:errcheck // nothing is left to say
	err = conn.QueryRow(ctx, `SELECT pg_database_size(current_database())::double precision`).Scan(&bytes)
	return bytes, err
}

// twenty is how many replicas measureTwenty starts.
const twenty = 20

// measureTwenty counts what a fleet of twenty replicas costs one Postgres while there is nothing to do.
func (w *world) measureTwenty(ctx context.Context) ([]row, error) {
	connections := row{name: "twenty idle replicas: connections to Postgres"}
	queries := row{name: "twenty idle replicas: queries a second"}
	postgres := row{name: "twenty idle replicas: Postgres's CPU, % of one core"}
	workers := row{name: "twenty idle replicas: their CPU together, % of one core"}
	memory := row{name: "twenty idle replicas: most memory of one, MiB"}
	dsn, drop, err := w.fresh(ctx)
	if err != nil {
		return nil, err
	}
	defer drop()
	if err := errors.Join(w.streams(ctx, 0), w.resume(ctx), w.logging(ctx, "log_statement", "all")); err != nil {
		return nil, err
	}
	n, watch := twenty, 20*time.Second
	if w.small {
		n, watch = 3, 2*time.Second
	}
	var fleet []*process
	defer func() {
		for _, p := range fleet {
			err = errors.Join(err, p.end())
		}
		err = errors.Join(err, w.logging(ctx, "log_statement", "none"))
	}()
	for range n {
		p, err := w.worker(ctx, dsn)
		if err != nil {
			return nil, err
		}
		fleet = append(fleet, p)
	}
	for _, p := range fleet {
		if err := p.ready(ctx); err != nil {
			return nil, err
		}
	}
	pause(ctx, watch/2)
	for range w.rounds {
		w.log.counted()
		_, before, err := w.postgresUse(ctx)
		if err != nil {
			return nil, err
		}
		worked, err := total(fleet)
		if err != nil {
			return nil, err
		}
		pause(ctx, watch)
		counted := w.log.counted()
		_, after, err := w.postgresUse(ctx)
		if err != nil {
			return nil, err
		}
		working, err := total(fleet)
		if err != nil {
			return nil, err
		}
		var open, most float64
		if err := w.admin.QueryRow(ctx, `SELECT count(*)::double precision FROM pg_stat_activity WHERE application_name = 'flexworker'`).Scan(&open); err != nil {
			return nil, err
		}
		for _, p := range fleet {
			peak, err := p.peak()
			if err != nil {
				return nil, err
			}
			most = max(most, peak)
		}
		connections.add(open, fmt.Sprintf("%.1f a replica", open/float64(n)))
		queries.add(float64(counted)/watch.Seconds(), "")
		postgres.add(100*(after-before).Seconds()/watch.Seconds(), "")
		workers.add(100*(working-worked).Seconds()/watch.Seconds(), "")
		memory.add(most/(1<<20), "")
	}
	return []row{connections, queries, postgres, workers, memory}, nil
}
