package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// A burn is a backlog burnt down: n requests wait in the stream, whoever is to
// carry them out is ready, and then they are delivered.
type burn struct {
	requests int
	took     time.Duration // until the last result was on its stream
	cpu      time.Duration // of the process, until nothing moved any more
	wal      float64       // bytes of write-ahead log, of Postgres as a whole
	postgres time.Duration // CPU time of Postgres as a whole
}

func (b burn) rate() float64 { return float64(b.requests) / b.took.Seconds() }

// each is the CPU time of one request, in microseconds.
func (b burn) each() float64 { return float64(b.cpu.Microseconds()) / float64(b.requests) }

// postgresEach is the same of Postgres.
func (b burn) postgresEach() float64 {
	return float64(b.postgres.Microseconds()) / float64(b.requests)
}

// burnDown lets started processes burn n requests down and ends them.
func (w *world) burnDown(ctx context.Context, n int, limit time.Duration, run ...*process) (b burn, err error) {
	defer func() {
		for _, p := range run {
			err = errors.Join(err, p.end())
		}
	}()
	if err := w.waits(ctx, len(run)); err != nil {
		return b, err
	}
	pause(ctx, 300*time.Millisecond) // whatever a start leaves to do is done
	created, err := w.created(ctx)
	if err != nil {
		return b, err
	}
	before, err := total(run)
	if err != nil {
		return b, err
	}
	written, spent, err := w.postgresUse(ctx)
	if err != nil {
		return b, err
	}
	if err := w.resume(ctx); err != nil {
		return b, err
	}
	if err := w.delivering(ctx); err != nil {
		return b, err
	}
	began := time.Now()
	if err := w.waitResults(ctx, n, limit); err != nil {
		return b, fmt.Errorf("%w; the last of its log:\n%s", err, run[0].last())
	}
	b = burn{requests: n, took: time.Since(began)}
	pause(ctx, 200*time.Millisecond) // the last marks are written
	after, err := total(run)
	b.cpu = after - before
	if err == nil {
		b.wal, b.postgres, err = w.postgresUse(ctx)
		b.wal, b.postgres = b.wal-written, b.postgres-spent
	}
	if err != nil {
		return b, err
	}
	made, err := w.created(ctx)
	if err == nil && made-created != n {
		err = fmt.Errorf("%d requests, but %d creates", n, made-created)
	}
	return b, err
}

// created is how many interactions the endpoint has made.
func (w *world) created(ctx context.Context) (int, error) {
	calls, err := w.flex.Calls(ctx)
	return calls.Created, err
}

// postgresUse is how much write-ahead log and CPU time Postgres has used so far.
func (w *world) postgresUse(ctx context.Context) (wal float64, cpu time.Duration, err error) {
	var backend int
	if err := w.admin.QueryRow(ctx, `SELECT (pg_current_wal_insert_lsn() - '0/0')::double precision, pg_backend_pid()`).Scan(&wal, &backend); err != nil {
		return 0, 0, err
	}
	server, err := parent(backend)
	if err != nil {
		return 0, 0, err
	}
	cpu, err = family(server)
	return wal, cpu, err
}

// total is the CPU time of all.
func total(run []*process) (sum time.Duration, err error) {
	for _, p := range run {
		used, err := p.cpu()
		if err != nil {
			return 0, err
		}
		sum += used
	}
	return sum, nil
}

const burnLimit = 5 * time.Minute

// burnLoop is a burn-down by the loop that keeps nothing.
func (w *world) burnLoop(ctx context.Context) (burn, error) {
	if err := w.streams(ctx, w.requests); err != nil {
		return burn{}, err
	}
	p, err := w.loop(ctx, roleLoop)
	if err != nil {
		return burn{}, err
	}
	return w.burnDown(ctx, w.requests, burnLimit, p)
}

// burnWrites is a burn-down by the loop that writes.
func (w *world) burnWrites(ctx context.Context) (burn, error) {
	if err := w.streams(ctx, w.requests); err != nil {
		return burn{}, err
	}
	dsn, drop, err := w.fresh(ctx)
	if err != nil {
		return burn{}, err
	}
	defer drop()
	p, err := w.loop(ctx, roleWrites, "DATABASE_URL="+dsn)
	if err != nil {
		return burn{}, err
	}
	return w.burnDown(ctx, w.requests, burnLimit, p)
}

// burnWorkers is a burn-down by so many replicas of the worker.
func (w *world) burnWorkers(ctx context.Context, dsn string, replicas, requests int, settings ...string) (burn, error) {
	if err := w.streams(ctx, requests); err != nil {
		return burn{}, err
	}
	var run []*process
	for range replicas {
		p, err := w.worker(ctx, dsn, settings...)
		if err == nil {
			run = append(run, p)
			// Not p.ready: while the consumer is paused a worker rightly says that nothing comes.
			err = w.waits(ctx, len(run))
		}
		if err != nil {
			for _, p := range run {
				err = errors.Join(err, p.end())
			}
			return burn{}, err
		}
	}
	return w.burnDown(ctx, requests, burnLimit, run...)
}

// burnFresh is a burn-down by one worker on an empty table.
func (w *world) burnFresh(ctx context.Context, settings ...string) (burn, error) {
	dsn, drop, err := w.fresh(ctx)
	if err != nil {
		return burn{}, err
	}
	defer drop()
	return w.burnWorkers(ctx, dsn, 1, w.requests, settings...)
}

// measureBurn burns down with as many calls in flight as all figures have, and with
// four times as many: a write of more rows costs less a row.
func (w *world) measureBurn(ctx context.Context) (rows []row, err error) {
	usual := w.concurrency
	defer func() { w.concurrency = usual }()
	for _, w.concurrency = range []int{usual, 4 * usual} {
		at, err := w.burnBeside(ctx)
		if err != nil {
			return nil, err
		}
		rows = append(rows, at...)
	}
	return rows, nil
}

// burnBeside burns down by the loop, by the one that writes and by the worker in turns.
func (w *world) burnBeside(ctx context.Context) ([]row, error) {
	in := fmt.Sprintf(", %d in flight", w.concurrency)
	speed := row{name: "burn-down throughput against the loop" + in, least: 0.65, aim: 0.80, more: true}
	writes := row{name: "three batched writes and no other duty against the loop" + in, more: true}
	promises := row{name: "the worker against three batched writes" + in, more: true}
	cost := row{name: "worker CPU a request against the loop" + in, least: 1.6, aim: 1.2}
	log := row{name: "write-ahead log a request, bytes" + in}
	postgres := row{name: "Postgres's CPU a request, µs" + in}
	for round := range w.rounds {
		var l, t, b burn
		runs := []struct {
			who string
			of  *burn
			run func(context.Context) (burn, error)
		}{{"loop", &l, w.burnLoop}, {"writes", &t, w.burnWrites}, {"worker", &b, func(ctx context.Context) (burn, error) { return w.burnFresh(ctx) }}}
		for i := range runs { // another begins each round: the machine's speed drifts
			r := runs[(i+round)%len(runs)]
			var err error
			if *r.of, err = r.run(ctx); err != nil {
				return nil, fmt.Errorf("%s: %w", r.who, err)
			}
		}
		speed.add(b.rate()/l.rate(), fmt.Sprintf("%.0f/%.0f a second", b.rate(), l.rate()))
		writes.add(t.rate()/l.rate(), fmt.Sprintf("%.0f/%.0f a second", t.rate(), l.rate()))
		promises.add(b.rate()/t.rate(), fmt.Sprintf("%.0f/%.0f µs of its CPU, %.0f/%.0f of Postgres's", b.each(), t.each(), b.postgresEach(), t.postgresEach()))
		cost.add(b.each()/l.each(), fmt.Sprintf("%.0f/%.0f µs", b.each(), l.each()))
		log.add(b.wal/float64(w.requests), "")
		postgres.add(b.postgresEach(), "")
	}
	return []row{speed, writes, promises, cost, log, postgres}, nil
}
