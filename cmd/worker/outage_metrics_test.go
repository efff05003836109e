package main

import (
	"fmt"
	"testing"
	"time"

	"flexworker/internal/testing/flextest"
)

// TestOutagesOnMetrics: in the outages of docs/faults.md /metrics has what deploy/prometheus/outages_test.yaml plays, though nobody
// asks /readyz. Of two that are not here: TestMetricsWhilePostgresIsAway, and who is dead has no metrics.
func TestOutagesOnMetrics(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		begin func(*rig)
		shows map[string]any
	}{
		"postgres-read-only": {func(r *rig) {
			r.asWriter(fmt.Sprintf(`ALTER DATABASE %s SET default_transaction_read_only = true`, r.pool.Config().ConnConfig.Database))
			r.asWriter(`SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`)
		}, map[string]any{`flexworker_replica{state="database"}`: 1, `flexworker_gate{state="ok"}`: nil, `flexworker_settings_differ`: nil}},
		"gate-locked": {func(r *rig) { r.psql(`SELECT rate FROM outbox_gate FOR UPDATE`) },
			map[string]any{`flexworker_replica{state="database"}`: 1, `flexworker_gate{state="ok"}`: 1, `flexworker_requests_oldest_seconds{state="pending"}`: positive, `flexworker_settings_differ`: 0}},
		"nats-away": {func(r *rig) { r.nats.Shutdown() },
			map[string]any{`flexworker_nats_connected`: 0, `flexworker_replica{state="nats"}`: 1, `flexworker_gate{state="ok"}`: 1, `flexworker_requests_for_person`: 0}},
		"results-stream-missing": {func(r *rig) {
			if err := r.js.DeleteStream(r.t.Context(), "INTERACTION_RESULTS"); err != nil {
				r.t.Fatal(err)
			}
		}, map[string]any{`flexworker_nats_connected`: 1, `flexworker_replica{state="nats"}`: 1, `flexworker_results_failed_total`: positive, `flexworker_requests_oldest_seconds{state="unpublished"}`: positive}},
		"consumer-paused": {func(r *rig) {
			stream, err := r.js.Stream(r.t.Context(), "INTERACTION_REQUESTS")
			if err == nil {
				_, err = stream.PauseConsumer(r.t.Context(), "interaction-worker", time.Now().Add(time.Hour))
			}
			if err != nil {
				r.t.Fatal(err)
			}
		}, map[string]any{`flexworker_nats_connected`: 1, `flexworker_replica{state="nats"}`: 1, `flexworker_stream_pending`: 3, `flexworker_requests_oldest_seconds{state="pending"}`: 0}},
		"flex-unreachable": {func(r *rig) { r.flex.Down() },
			map[string]any{`flexworker_replica{state="unreachable"}`: 1, `flexworker_attempts_total{outcome="refused"}`: positive, `flexworker_requests_oldest_seconds{state="pending"}`: positive}},
		"flex-hangs": {func(r *rig) { r.flex.Inject(flextest.Rule{Fault: flextest.Hang}) },
			map[string]any{`flexworker_replica{state="failing"}`: 1, `flexworker_attempts_total{outcome="uncertain"}`: positive, `flexworker_attempt_seconds_bucket{outcome="uncertain",le="+Inf"}`: positive,
				`flexworker_attempt_seconds_bucket{outcome="uncertain",le="0.5"}`: 0, `flexworker_lookups_total{finding="absent"}`: positive}},
		"taskrouter-away": {func(r *rig) {
			r.flex.SetTaskRouter(flextest.TaskRouter{Trouble: flextest.Status(500), EventTrouble: flextest.Status(500)})
			r.flex.Script("while-0", flextest.CreateThenReset)
		}, map[string]any{`flexworker_replica{state="failing"}`: 1, `flexworker_requests{state="uncertain"}`: 1, `flexworker_lookups_total{finding="unclear"}`: positive, `flexworker_last_lookup_timestamp_seconds`: 0}},
		"credentials-revoked": {func(r *rig) {
			r.flex.SetCredentials(flextest.Credential{User: flextest.AccountSID, Secret: "another"})
		}, map[string]any{`flexworker_replica{state="unauthorized"}`: 1, `flexworker_attempts_total{outcome="blocked"}`: positive, `flexworker_requests_oldest_seconds{state="pending"}`: positive}},
		"limited-for-long": {func(r *rig) { r.flex.Inject(flextest.Rule{Fault: flextest.Status(429).RetryAfter("600")}) },
			map[string]any{`flexworker_replica{state="paused"}`: 1, `flexworker_gate{state="paused"}`: 1, `flexworker_gate{state="ok"}`: 0, `flexworker_attempts_total{outcome="refused"}`: positive}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			cfg := r.unhurried()
			cfg.FlexRate = 50 // without a rate no claim takes the gate's row
			if name == "flex-hangs" {
				cfg.FlexTimeout = time.Second
			}
			r.start(cfg)
			r.shows(cfg.AdminAddr, map[string]any{`flexworker_replica{state="ok"}`: 1, `flexworker_gate{state="ok"}`: 1, `flexworker_settings_differ`: 0})
			tt.begin(r)
			if name != "nats-away" {
				r.send("while", 0, 3)
			}
			r.shows(cfg.AdminAddr, tt.shows)
		})
	}
}
