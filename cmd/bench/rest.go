package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// measureStart is the time from the start of the process to its being ready,
// the schema in place, and what Postgres works for a process that starts, is ready and ends.
func (w *world) measureStart(ctx context.Context) ([]row, error) {
	r := row{name: "from start to ready, ms", least: 500, aim: 150}
	postgres := row{name: "Postgres's CPU for a start, ms", least: 100}
	dsn, drop, err := w.fresh(ctx)
	if err != nil {
		return nil, err
	}
	defer drop()
	if err := errors.Join(w.streams(ctx, 0), w.resume(ctx)); err != nil {
		return nil, err
	}
	for range w.rounds {
		_, before, err := w.postgresUse(ctx)
		if err != nil {
			return nil, err
		}
		p, err := w.worker(ctx, dsn)
		if err != nil {
			return nil, err
		}
		err = p.ready(ctx)
		r.add(float64(time.Since(p.began).Microseconds())/1e3, "")
		pause(ctx, 5*time.Second) // each loop has made its first round, but those of a minute
		if err := errors.Join(err, p.end()); err != nil {
			return nil, err
		}
		_, after, err := w.postgresUse(ctx)
		if err != nil {
			return nil, err
		}
		postgres.add(float64((after - before).Milliseconds()), "")
	}
	return []row{r, postgres}, nil
}

// measureIdle counts what a replica does when there is nothing to do.
func (w *world) measureIdle(ctx context.Context) ([]row, error) {
	queries := row{name: "idle replica: queries a second", least: 3, aim: 1}
	cpu := row{name: "idle replica: CPU, % of one core", least: 0.5}
	dsn, drop, err := w.fresh(ctx)
	if err != nil {
		return nil, err
	}
	defer drop()
	if err := w.streams(ctx, 0); err != nil {
		return nil, err
	}
	if err := w.resume(ctx); err != nil {
		return nil, err
	}
	if err := w.logging(ctx, "log_statement", "all"); err != nil {
		return nil, err
	}
	p, err := w.worker(ctx, dsn)
	if err != nil {
		return nil, err
	}
	if err := p.ready(ctx); err != nil {
		return nil, err
	}
	watch := 20 * time.Second
	if w.small {
		watch = 2 * time.Second
	}
	pause(ctx, watch/4)
	for range w.rounds {
		w.log.counted()
		before, err := p.cpu()
		if err != nil {
			return nil, err
		}
		pause(ctx, watch)
		n := w.log.counted()
		after, err := p.cpu()
		if err != nil {
			return nil, err
		}
		queries.add(float64(n)/watch.Seconds(), "")
		cpu.add(100*(after-before).Seconds()/watch.Seconds(), "")
	}
	return []row{queries, cpu}, errors.Join(p.end(), w.logging(ctx, "log_statement", "none"))
}

// logging changes a setting of Postgres's log for all sessions.
func (w *world) logging(ctx context.Context, name, value string) error {
	if _, err := w.admin.Exec(ctx, fmt.Sprintf("ALTER SYSTEM SET %s = '%s'", name, value)); err != nil {
		return err
	}
	_, err := w.admin.Exec(ctx, "SELECT pg_reload_conf()")
	return err
}

// measureMemory is what a worker takes while it burns down a hundred thousand requests.
func (w *world) measureMemory(ctx context.Context) ([]row, error) {
	n := 100_000
	if w.small {
		n = 1000
	}
	r := row{name: fmt.Sprintf("memory at full load, %d requests waiting, MiB", n), least: 80, aim: 50}
	for range w.rounds {
		peak, err := w.memoryOf(ctx, n)
		if err != nil {
			return nil, err
		}
		r.add(peak/(1<<20), "")
	}
	return []row{r}, nil
}

// memoryOf is the most memory, in bytes, that a worker has while it burns n down.
func (w *world) memoryOf(ctx context.Context, n int) (peak float64, err error) {
	dsn, drop, err := w.fresh(ctx)
	if err != nil {
		return 0, err
	}
	defer drop()
	if err := w.streams(ctx, n); err != nil {
		return 0, err
	}
	p, err := w.worker(ctx, dsn)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, p.end()) }()
	if err := errors.Join(w.waits(ctx, 1), w.resume(ctx), w.waitResults(ctx, n, burnLimit)); err != nil {
		return 0, err
	}
	return p.peak()
}
