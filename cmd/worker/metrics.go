package main

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"flexworker/internal/flex"
	"flexworker/internal/outbox"
	"flexworker/internal/outbox/gate"
	"flexworker/internal/outbox/operator"
	"flexworker/internal/outbox/request"
	"flexworker/internal/trouble"
)

// backlogEvery is the time between two counts of the backlog. A scrape reads
// the latest count and never the table.
const backlogEvery = 15 * time.Second

type metrics struct {
	took *prometheus.HistogramVec

	mu      sync.Mutex
	backlog []operator.Backlog
	counted time.Time // when the backlog was counted last; zero: never
}

func newMetrics() *metrics {
	return &metrics{took: prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "flexworker_attempt_seconds", Help: "How long a create call took, by its outcome.",
		Buckets: []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 15, 30},
	}, []string{"outcome"})}
}

// registry is all that is exported. Labels have few values: outcomes and states,
// never a source or an id.
func (a *app) registry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		a.state.metrics.took, &exporter{a})
	return r
}

// exporter reads the plain counters of the packages when it is scraped.
type exporter struct{ app *app }

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("flexworker_"+name, help, labels, nil)
}

var (
	eventsDesc    = desc("events_total", "Messages taken from the request stream, by what became of them.", "became")
	attemptsDesc  = desc("attempts_total", "Create calls, by outcome.", "outcome")
	uncountedDesc = desc("attempts_uncounted_total", "Attempts that cost a request nothing.")
	releasedDesc  = desc("leases_released_total", "Leases given back without a call.")
	lookupsDesc   = desc("lookups_total", "Lookups of uncertain requests, by finding.", "finding")
	twiceDesc     = desc("duplicates_found_total", "Requests with more interactions than the one they have, as a lookup or a late answer told: look at once.")
	lapsedDesc    = desc("leases_lapsed_total", "Leases that ran out: the request became uncertain.")
	expiredDesc   = desc("requests_expired_total", "Requests whose deadline passed before they were sent.")
	prunedDesc    = desc("requests_pruned_total", "Rows removed by retention.")
	publishedDesc = desc("results_published_total", "Results that the stream acknowledged.")
	failedDesc    = desc("results_failed_total", "Tries to publish a result that failed.")
	requestsDesc  = desc("requests", "Requests that are not finished, by state; counted every 15 s, absent while they cannot be counted.", "state")
	countedDesc   = desc("backlog_counted_timestamp_seconds", "When they were counted last, in Unix time by this machine's clock.")
	oldestDesc    = desc("requests_oldest_seconds", "Age of the oldest of them.", "state")
	droppedDesc   = desc("log_lines_dropped_total", "Log lines that standard error did not take in time: nobody has seen them.")
	refusedDesc   = desc("credentials_refused_total", "Tokens for page and API that were refused: wrong ones, and those that were not looked at since their address had sent too many wrong ones.", "why")
	natsDesc      = desc("nats_connected", "1 while NATS is connected.")
	replicaDesc   = desc("replica", "1 for the word that this replica says of itself on /readyz, 0 for the others.", "state")
	gateDesc      = desc("gate", "1 for the state of the fleet's gate as this replica found it last, 0 for the others.", "state")
	rateDesc      = desc("rate", "Attempts a second that the whole fleet may make; 0: no limit.")
	differDesc    = desc("settings_differ", "Settings that should be equal in all living workers and are not.")
	createdDesc   = desc("last_created_timestamp_seconds", "When this replica last created an interaction; 0: never.")
	lookedUpDesc  = desc("last_lookup_timestamp_seconds", "When TaskRouter last answered this replica; 0: never.")
)

// Describe sends the descriptions of all that Collect can send.
func (e *exporter) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{eventsDesc, attemptsDesc, uncountedDesc, releasedDesc, lookupsDesc, twiceDesc, lapsedDesc, expiredDesc, prunedDesc,
		publishedDesc, failedDesc, requestsDesc, oldestDesc, countedDesc, droppedDesc, refusedDesc, natsDesc, replicaDesc, gateDesc, rateDesc, differDesc, createdDesc, lookedUpDesc} {
		out <- d
	}
}

// Collect sends the present values.
func (e *exporter) Collect(out chan<- prometheus.Metric) {
	count := func(d *prometheus.Desc, v int64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	in := e.app.consumer.Counters
	for added := range in.Added {
		count(eventsDesc, in.Added[added].Load(), outbox.Added(added).String())
	}
	count(eventsDesc, in.Malformed.Load(), "malformed")
	count(eventsDesc, in.GivenBack.Load(), "given_back")
	count(eventsDesc, in.Markers.Load(), "marker")
	c := e.app.dispatcher.Counters
	for kind := range c.Attempts {
		count(attemptsDesc, c.Attempts[kind].Load(), flex.Kind(kind).String())
	}
	count(uncountedDesc, c.Uncounted.Load())
	count(releasedDesc, c.Released.Load())
	for kind := range c.Lookups.Findings {
		count(lookupsDesc, c.Lookups.Findings[kind].Load(), request.FindingKind(kind).String())
	}
	count(twiceDesc, c.Duplicates.Load()+c.Lookups.Duplicates.Load())
	kept := &e.app.upkeep.Counters
	count(lapsedDesc, kept.Lapsed.Load())
	count(expiredDesc, kept.Expired.Load())
	count(prunedDesc, kept.Pruned.Load())
	count(publishedDesc, c.Results.Published.Load())
	count(failedDesc, c.Results.Failed.Load())
	count(droppedDesc, e.app.lines.Dropped())
	count(refusedDesc, e.app.access.Counters.Wrong.Load(), "wrong")
	count(refusedDesc, e.app.access.Counters.Slowed.Load(), "slowed")
	connected := 0.0
	if e.app.nats.IsConnected() {
		connected = 1
	}
	gauge(natsDesc, connected)
	e.collectFleet(gauge)
	m := e.app.state.metrics
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.counted.IsZero() {
		gauge(countedDesc, float64(m.counted.UnixMilli())/1000)
	}
	for _, b := range m.backlogAt(time.Now()) {
		gauge(requestsDesc, float64(b.Requests), b.State)
		gauge(oldestDesc, b.Oldest.Seconds(), b.State)
	}
}

// collectFleet sends what the latest poll found: of this replica, the gate and the fleet.
func (e *exporter) collectFleet(gauge func(*prometheus.Desc, float64, ...string)) {
	is := func(yes bool) float64 {
		if yes {
			return 1
		}
		return 0
	}
	now := e.app.state.word.Load()
	for _, word := range gate.Words {
		gauge(replicaDesc, is(now != nil && *now == word), string(word))
	}
	shut := e.app.state.gate.Load()
	for _, state := range []gate.State{gate.Open, gate.Limited, gate.Paused, gate.Held} {
		gauge(gateDesc, is(shut != nil && *shut == state), string(state))
	}
	known := e.app.fleet.Known()
	gauge(rateDesc, known.Rate)
	gauge(differDesc, float64(len(known.Differences)))
	for desc, at := range map[*prometheus.Desc]time.Time{createdDesc: e.app.dispatcher.LastCreated(), lookedUpDesc: e.app.resolver.LastAnswered()} {
		seconds := 0.0
		if !at.IsZero() {
			seconds = float64(at.UnixMilli()) / 1000
		}
		gauge(desc, seconds)
	}
}

// staleAfter is how old a count of the backlog may be to be shown: an old one would
// tell an alert that all is as it was.
const staleAfter = 3 * backlogEvery

// backlogAt is the count that may be shown at this moment; m.mu is held.
func (m *metrics) backlogAt(now time.Time) []operator.Backlog {
	if now.Sub(m.counted) > staleAfter {
		return nil
	}
	return m.backlog
}

// watchBacklog counts the backlog now and then until ctx ends.
func (a *app) watchBacklog(ctx context.Context) {
	var counting trouble.Trouble
	tick := time.NewTicker(backlogEvery)
	defer tick.Stop()
	for {
		backlog, err := operator.NewDesk(a.pool, operator.Caller{Right: operator.MayLook}, nil).Backlog(ctx)
		if ctx.Err() == nil {
			counting.Tell(a.log, "the backlog cannot be counted; its metrics are left out until it can", err)
		}
		if err == nil {
			a.state.metrics.mu.Lock()
			a.state.metrics.backlog, a.state.metrics.counted = backlog, time.Now()
			a.state.metrics.mu.Unlock()
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
