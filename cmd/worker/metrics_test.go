package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/flextest"
	"flexworker/internal/testing/pgtest"
)

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

// TestBacklogNotCounted: gauges that stand still say why in the log.
func TestBacklogNotCounted(t *testing.T) {
	t.Parallel()
	pool, err := pgxpool.New(t.Context(), "postgres://nobody@127.0.0.1:1/none")
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var said string
	log := slog.New(slog.NewTextHandler(writer(func(line []byte) (int, error) {
		said = string(line)
		cancel()
		return len(line), nil
	}), nil))
	(&app{log: log, pool: pool, state: newState()}).watchBacklog(ctx)
	if !strings.Contains(said, "the backlog cannot be counted") || !strings.Contains(said, "127.0.0.1:1") {
		t.Errorf("it said %q", said)
	}
}

// TestReadingGoesStale: what was read long ago is left out, and its time stays.
func TestReadingGoesStale(t *testing.T) {
	t.Parallel()
	var r reading[int]
	if _, ok := r.fresh(time.Now(), time.Hour); ok || !r.at().IsZero() {
		t.Error("what was never read is shown")
	}
	r.set(7)
	if got, ok := r.fresh(r.at().Add(countLimit), countLimit); got != 7 || !ok {
		t.Errorf("%d, %v of a reading that is fresh", got, ok)
	}
	if got, ok := r.fresh(r.at().Add(countLimit+1), countLimit); got != 0 || ok {
		t.Errorf("%d, %v of a reading that is old", got, ok)
	}
}

// positive stands for any value above 0.
const positive = "positive"

// shows waits until /metrics has these series with these values; nil is a series that is not there.
func (r *rig) shows(address string, want map[string]any) {
	r.t.Helper()
	expect.Eventually(r.t, func() error {
		text, err := scrape(address)
		if err != nil {
			return err
		}
		var wrong []error
		for series, value := range want {
			_, rest, has := strings.Cut("\n"+text, "\n"+series+" ")
			got, _, _ := strings.Cut(rest, "\n")
			switch {
			case value == nil && has:
				wrong = append(wrong, fmt.Errorf("%s is there: %s", series, got))
			case value == positive && has && got != "0":
			case value != nil && got != fmt.Sprint(value):
				wrong = append(wrong, fmt.Errorf("%s is %q, want %v", series, got, value))
			}
		}
		return errors.Join(wrong...)
	})
}

// TestMetrics: what a worker did, and what it and another one know of the fleet, stands on /metrics.
func TestMetrics(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	in := r.read()
	cfg := r.unhurried()
	cfg.LookupAttribute = "" // so that what is uncertain waits for a person
	w := r.start(cfg)
	r.says(cfg.AdminAddr, "ok", 200)
	send := func(body string) {
		t.Helper()
		if _, err := r.js.Publish(t.Context(), "interactions.requests.crm", []byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	r.send("m", 0, 3)
	const later = 2 * time.Second
	scheduled := strings.Replace(string(requestOf("scheduled")), "{", fmt.Sprintf(`{"not_before":%q,`, time.Now().Add(later).Format(time.RFC3339Nano)), 1)
	send(scheduled)
	send(`{"request_id":"faulty"}`)
	send("not JSON")
	r.flex.Script("lost", flextest.Reset)
	send(string(requestOf("lost")))
	expect.Eventually(t, func() error {
		got := in.subjects()
		return expect.Is("answers", [4]int{got["interactions.results.created.crm"], got["interactions.results.rejected.crm"], got["interactions.results.malformed.crm"], got["interactions.results.uncertain.crm"]}, [4]int{4, 1, 1, 1})
	})
	r.shows(cfg.AdminAddr, map[string]any{
		`flexworker_build_info{goversion="` + runtime.Version() + `",version="development"}`: 1,
		`flexworker_events_total{became="accepted"}`:                                         5,
		`flexworker_events_total{became="malformed"}`:                                        1,
		`flexworker_attempts_total{outcome="created"}`:                                       4,
		`flexworker_attempts_total{outcome="uncertain"}`:                                     1,
		`flexworker_attempt_seconds_count{outcome="created"}`:                                4,
		`flexworker_due_to_settled_seconds_count{outcome="created"}`:                         4,
		`flexworker_due_to_settled_seconds_count{outcome="rejected"}`:                        1,
		`flexworker_gate{state="ok"}`:                                                        1,
		`flexworker_gate{state="held"}`:                                                      0,
		`flexworker_replica{state="ok"}`:                                                     1,
		`flexworker_replica{state="database"}`:                                               0,
		`flexworker_settings_differ`:                                                         0,
		`flexworker_nats_connected`:                                                          1,
	})
	if took, err := metric(cfg.AdminAddr, `flexworker_due_to_settled_seconds_sum{outcome="created"}`); err != nil || took >= expect.Patience.Seconds() {
		t.Errorf("four requests took %v s, %v", took, err)
	}
	other := r.unhurried() // which counts at once
	other.LookupAttribute, other.FlexRate = "", 5
	r.start(other)
	r.shows(other.AdminAddr, map[string]any{
		`flexworker_requests{state="pending"}`:                       0,
		`flexworker_requests{state="uncertain"}`:                     1,
		`flexworker_requests_for_person`:                             1,
		`flexworker_requests_oldest_seconds{state="pending"}`:        0,
		`flexworker_stream_pending`:                                  0,
		`flexworker_settings_differ`:                                 1,
		`flexworker_attempts_total{outcome="created"}`:               0,
		`flexworker_due_to_settled_seconds_count{outcome="created"}`: nil,
	})
	r.types(r.environment(), typed{[]string{"hold", "--why", "a test"}, 0, nil})
	r.shows(cfg.AdminAddr, map[string]any{`flexworker_gate{state="held"}`: 1, `flexworker_gate{state="ok"}`: 0, `flexworker_replica{state="held"}`: 1})
	w.stop()
	w.wait()
}

// TestMetricsWhilePostgresIsAway: /metrics says so though nobody asks /readyz, what is known no more is left out, and the
// time of the last count stands.
func TestMetricsWhilePostgresIsAway(t *testing.T) {
	t.Parallel()
	server := pgtest.NewServer(t)
	r := rigOn(t, server.DSN("postgres"))
	cfg := r.config()
	r.start(cfg)
	r.shows(cfg.AdminAddr, map[string]any{`flexworker_replica{state="ok"}`: 1, `flexworker_requests_for_person`: 0, `flexworker_stream_pending`: 0, `flexworker_rate`: 0})
	counted, err := metric(cfg.AdminAddr, "flexworker_backlog_counted_timestamp_seconds")
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Pause(); err != nil {
		t.Fatal(err)
	}
	r.shows(cfg.AdminAddr, map[string]any{`flexworker_replica{state="database"}`: 1, `flexworker_replica{state="ok"}`: 0,
		`flexworker_gate{state="ok"}`: nil, `flexworker_rate`: nil, `flexworker_settings_differ`: nil})
	r.send("while", 0, 3)
	r.shows(cfg.AdminAddr, map[string]any{`flexworker_stream_pending`: 3})
	if at, err := metric(cfg.AdminAddr, "flexworker_backlog_counted_timestamp_seconds"); err != nil || at-counted > countLimit.Seconds() {
		t.Errorf("counted at %v, and at %v while Postgres is away: %v", counted, at, err)
	}
	if err := server.Resume(); err != nil {
		t.Fatal(err)
	}
	r.shows(cfg.AdminAddr, map[string]any{`flexworker_replica{state="ok"}`: 1, `flexworker_gate{state="ok"}`: 1, `flexworker_rate`: 0})
}
