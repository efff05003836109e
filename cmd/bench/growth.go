package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// sizes are the settled rows beside which a backlog is burnt down.
var sizes = []int{1_000, 10_000, 100_000, 1_000_000, 10_000_000}

// grown is the database that measureSize fills and measureRetention empties.
const grown = "grown"

// measureSize is throughput and the time of a claim against the table's size.
func (w *world) measureSize(ctx context.Context) ([]row, error) {
	list := sizes
	if w.small {
		list = []int{100, 1000}
	}
	dsn, err := w.database(ctx, grown)
	if err != nil {
		return nil, err
	}
	var rows []row
	speed := chart{file: "size-throughput.svg", title: "Burn-down against settled rows in the table", x: "settled rows", y: "requests a second", logX: true}
	claim := chart{file: "size-claim.svg", title: "Time of a claim against settled rows in the table", x: "settled rows", y: "ms, p50 and p99", logX: true}
	for i, size := range list {
		before := 0
		if i > 0 {
			before = list[i-1]
		}
		if err := w.fill(ctx, dsn, before, size, 0); err != nil {
			return nil, err
		}
		r := row{name: fmt.Sprintf("burn-down beside %d settled rows, a second", size)}
		for range w.rounds {
			b, err := w.burnWorkers(ctx, dsn, 1, w.requests)
			if err != nil {
				return nil, err
			}
			if err := w.forget(ctx, dsn); err != nil {
				return nil, err
			}
			r.add(b.rate(), "")
			speed.point("", float64(size), b.rate())
		}
		took, err := w.claims(ctx, dsn, 5000, 0)
		if err != nil {
			return nil, err
		}
		p50 := row{name: fmt.Sprintf("claim beside %d settled rows, ms, p50", size)}
		p50.add(quantile(took, 0.5).Seconds()*1e3, fmt.Sprintf("p99 %.1f, of %d claims", quantile(took, 0.99).Seconds()*1e3, len(took)))
		claim.point("p50", float64(size), quantile(took, 0.5).Seconds()*1e3)
		claim.point("p99", float64(size), quantile(took, 0.99).Seconds()*1e3)
		rows = append(rows, r, p50)
		printRows(progress, []row{r, p50})
	}
	w.charts = append(w.charts, speed, claim)
	return rows, nil
}

// claims puts n requests into the table itself, each due so long after the one before, lets a worker claim
// and carry them out, and reads from Postgres's log how long each claim took.
func (w *world) claims(ctx context.Context, dsn string, n int, apart time.Duration) ([]time.Duration, error) {
	if w.small {
		n = 200
	}
	if err := w.streams(ctx, 0); err != nil {
		return nil, err
	}
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return nil, err
	}
	defer conn.Close(ctx) //nolint:errcheck // nothing is left to say
	w.fills++
	if _, err := conn.Exec(ctx, fillDue, n, string(request(0)), w.fills, apart); err != nil {
		return nil, err
	}
	if err := w.logging(ctx, "log_min_duration_statement", "0"); err != nil {
		return nil, err
	}
	w.log.times(true)
	// It removes nothing: a look for what is older than its own retention would end the
	// turn of the one that is measured, which then rests for a minute.
	p, err := w.worker(ctx, dsn, "RETENTION=0")
	if err != nil {
		return nil, err
	}
	err = errors.Join(w.waitResults(ctx, n, burnLimit), p.end(), w.logging(ctx, "log_min_duration_statement", "-1"))
	return w.log.times(false), err
}

// measureReplicas is throughput against replicas, each with the default
// concurrency, where calls take 100 ms.
func (w *world) measureReplicas(ctx context.Context) ([]row, error) {
	counts := []int{1, 2, 4, 6, 8}
	if w.small {
		counts = []int{1, 2}
	}
	speed := chart{file: "replicas.svg", title: "Burn-down against replicas, 16 calls of 100 ms in flight each", x: "replicas", y: "requests a second"}
	var rows []row
	for _, n := range counts {
		r := row{name: fmt.Sprintf("burn-down by %d replicas, 100 ms endpoint, a second", n)}
		for range w.rounds {
			b, err := w.burnFleet(ctx, n)
			if err != nil {
				return nil, err
			}
			r.add(b.rate(), "")
			speed.point("", float64(n), b.rate())
		}
		rows = append(rows, r)
		printRows(progress, []row{r})
	}
	w.charts = append(w.charts, speed)
	return rows, nil
}

// measureRetention lets one worker remove what was filled into the grown table while
// a backlog in it is claimed, by that worker and another, and holds the time of their
// claims against that of one worker's claims without it.
func (w *world) measureRetention(ctx context.Context) ([]row, error) {
	rows, err := w.retentionOf(ctx, w.postgres.DSN(grown))
	if err != nil {
		return nil, fmt.Errorf("%w (measure size before retention: it fills the table)", err)
	}
	return rows, nil
}

// retentionOf is what measureRetention measures, on a table that is filled.
func (w *world) retentionOf(ctx context.Context, dsn string) ([]row, error) {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return nil, err
	}
	defer conn.Close(ctx) //nolint:errcheck // nothing is left to say
	var before int
	if err := conn.QueryRow(ctx, `SELECT count(*) FROM outbox`).Scan(&before); err != nil {
		return nil, err
	}
	quiet, err := w.claims(ctx, dsn, 5000, 0)
	if err != nil {
		return nil, err
	}
	// All rows that were filled in are older than an hour; so retention removes
	// them for as long as it is let.
	if err := errors.Join(w.streams(ctx, 0), w.resume(ctx)); err != nil {
		return nil, err
	}
	pruner, err := w.worker(ctx, dsn, "RETENTION=1h")
	if err != nil {
		return nil, err
	}
	if err := pruner.ready(ctx); err != nil {
		return nil, err
	}
	began := time.Now()
	busy, err := w.claims(ctx, dsn, 20000, 0)
	if err != nil {
		return nil, err
	}
	pause(ctx, max(0, 30*time.Second-time.Since(began)))
	var pruned float64
	pruned, err = metric(ctx, pruner.admin, "flexworker_requests_pruned_total")
	took := time.Since(began)
	if err := errors.Join(err, pruner.end()); err != nil {
		return nil, err
	}
	rate := row{name: fmt.Sprintf("retention beside %d rows: rows removed a second", before)}
	rate.add(pruned/took.Seconds(), fmt.Sprintf("%.0f in %v", pruned, took.Round(time.Second)))
	p99 := row{name: "claim p99 while it runs against without, ratio"}
	p99.add(quantile(busy, 0.99).Seconds()/quantile(quiet, 0.99).Seconds(),
		fmt.Sprintf("%.1f/%.1f ms; p50 %.1f/%.1f ms", quantile(busy, 0.99).Seconds()*1e3, quantile(quiet, 0.99).Seconds()*1e3,
			quantile(busy, 0.5).Seconds()*1e3, quantile(quiet, 0.5).Seconds()*1e3))
	return []row{rate, p99}, nil
}

// metric reads one number from a worker's metrics.
func metric(ctx context.Context, admin, name string) (float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+admin+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return 0, err
	}
	_, rest, found := strings.Cut(string(text), "\n"+name+" ")
	if !found {
		return 0, fmt.Errorf("there is no metric %s", name)
	}
	value, _, _ := strings.Cut(rest, "\n")
	return strconv.ParseFloat(value, 64)
}
