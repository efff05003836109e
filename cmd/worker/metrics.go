package main

import (
	"context"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"flexworker/internal/flex"
	"flexworker/internal/outbox"
	"flexworker/internal/outbox/gate"
	"flexworker/internal/outbox/operator"
	"flexworker/internal/outbox/request"
	"flexworker/internal/outbox/setup"
	"flexworker/internal/senders"
)

// metrics is what the metrics know beside the counters of the packages. Nothing of it is read from a server when it is
// scraped: watch.go reads it now and then.
type metrics struct {
	attempts *prometheus.HistogramVec
	settled  *prometheus.HistogramVec

	backlog reading[[]operator.Backlog]
	pending reading[int] // messages of the request stream
}

func newMetrics() *metrics {
	return &metrics{
		attempts: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "flexworker_attempt_seconds", Help: "How long a create call took, by its outcome.",
			Buckets: []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 15, 30},
		}, []string{"outcome"}),
		settled: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "flexworker_due_to_settled_seconds",
			Help:    "From when a request was due, at its receipt or its not_before, to its end, by that. What a person had sent again is left out.",
			Buckets: []float64{.05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 6 * 3600},
		}, []string{"outcome"}),
	}
}

// A reading is a value that was read from a server, and when. A scrape shows it while it is fresh: an old one would tell an
// alert that all is as it was. The zero value was never read.
type reading[T any] struct{ latest atomic.Pointer[dated[T]] }

type dated[T any] struct {
	value T
	at    time.Time
}

func (r *reading[T]) set(value T) { r.latest.Store(&dated[T]{value, time.Now()}) }

// at is when it was read last; zero: never.
func (r *reading[T]) at() time.Time {
	if d := r.latest.Load(); d != nil {
		return d.at
	}
	return time.Time{}
}

// fresh is the value, unless it is older than limit or was never read.
func (r *reading[T]) fresh(now time.Time, limit time.Duration) (value T, ok bool) {
	if d := r.latest.Load(); d != nil && now.Sub(d.at) <= limit {
		return d.value, true
	}
	return value, false
}

// registry is all that is exported. Labels have few values: outcomes and states, never a source or an id.
func (a *app) registry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	r.MustRegister(a.collectors()...)
	return r
}

// collectors are those of the worker's own metrics.
func (a *app) collectors() []prometheus.Collector {
	return []prometheus.Collector{a.state.metrics.attempts, a.state.metrics.settled, &exporter{a}}
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
	oldestDesc    = desc("requests_oldest_seconds", "Age of the oldest of them; absent likewise.", "state")
	personDesc    = desc("requests_for_person", "Uncertain requests that wait for a person; absent likewise.")
	countedDesc   = desc("backlog_counted_timestamp_seconds", "When they were counted last, in Unix time by this machine's clock; absent before the first count.")
	pendingDesc   = desc("stream_pending", "Messages of the request stream that no worker has stored, as far as NATS knows; absent while it cannot be asked.")
	droppedDesc   = desc("log_lines_dropped_total", "Log lines that standard error did not take in time: nobody has seen them.")
	refusedDesc   = desc("credentials_refused_total", "Tokens for page and API that were refused: wrong ones, and those that were not looked at since their address had sent too many wrong ones.", "why")
	questionsDesc = desc("questions_total", "Questions and cancellations of senders, by kind and by what they were answered as.", "question", "answer")
	setupsDesc    = desc("setups_total", "Created requests of which CONFIRM has found whether their channel was set up, by the word that was published; absent without CONFIRM.", "word")
	confirmsDesc  = desc("confirmation", "1 while CONFIRM reads whether channels were set up, 0 since Flex has refused those reads and it has turned itself off; absent without CONFIRM, and while it cannot be read.")
	natsDesc      = desc("nats_connected", "1 while NATS is connected.")
	replicaDesc   = desc("replica", "1 for the word that this replica says of itself on /readyz, 0 for the others.", "state")
	gateDesc      = desc("gate", "1 for the state of the fleet's gate, 0 for the others; absent while it cannot be read.", "state")
	rateDesc      = desc("rate", "Attempts a second that the whole fleet may make; 0: no limit; absent while it cannot be read.")
	differDesc    = desc("settings_differ", "Settings that should be equal in all living workers and are not; absent while they cannot be read.")
	createdDesc   = desc("last_created_timestamp_seconds", "When this replica last created an interaction; 0: never.")
	lookedUpDesc  = desc("last_lookup_timestamp_seconds", "When TaskRouter last answered this replica; 0: never.")
	buildDesc     = desc("build_info", "1, with the version of the worker and of Go.", "version", "goversion")
)

// Describe sends the descriptions of all that Collect can send.
func (e *exporter) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{eventsDesc, attemptsDesc, uncountedDesc, releasedDesc, lookupsDesc, twiceDesc, lapsedDesc, expiredDesc, prunedDesc,
		publishedDesc, failedDesc, requestsDesc, oldestDesc, personDesc, countedDesc, pendingDesc, droppedDesc, refusedDesc, questionsDesc, setupsDesc, confirmsDesc, natsDesc, replicaDesc, gateDesc, rateDesc, differDesc,
		createdDesc, lookedUpDesc, buildDesc} {
		out <- d
	}
}

// Collect sends the present values.
func (e *exporter) Collect(out chan<- prometheus.Metric) {
	e.collectCounters(func(d *prometheus.Desc, v int64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	})
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	now := time.Now()
	e.collectReplica(now, gauge)
	e.collectFleet(now, gauge)
}

func (e *exporter) collectCounters(count func(*prometheus.Desc, int64, ...string)) {
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
	if confirmer := e.app.confirmer; confirmer != nil {
		for i, word := range setup.Words {
			count(setupsDesc, confirmer.Counters[i].Load(), string(word))
		}
	}
	count(droppedDesc, e.app.lines.Dropped())
	count(refusedDesc, e.app.access.Counters.Wrong.Load(), "wrong")
	count(refusedDesc, e.app.access.Counters.Slowed.Load(), "slowed")
	if s := e.app.senders; s != nil {
		for _, kind := range senders.Kinds {
			for _, as := range senders.Ases {
				count(questionsDesc, s.Counters[kind][as].Load(), kind.String(), as.String())
			}
		}
	}
}

// collectReplica sends what this replica knows of itself, whoever is away.
func (e *exporter) collectReplica(now time.Time, gauge func(*prometheus.Desc, float64, ...string)) {
	gauge(buildDesc, 1, version, runtime.Version())
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	gauge(natsDesc, is(e.app.natsConnected(ctx)))
	if word, ok := e.app.state.word.fresh(now, standingLimit); ok {
		for _, w := range gate.Words {
			gauge(replicaDesc, is(word == w), string(w))
		}
	}
	gauge(createdDesc, unixSeconds(e.app.dispatcher.LastCreated()))
	gauge(lookedUpDesc, unixSeconds(e.app.resolver.LastAnswered()))
}

// collectFleet sends what was read of the whole fleet and is fresh: every replica sends the same.
func (e *exporter) collectFleet(now time.Time, gauge func(*prometheus.Desc, float64, ...string)) {
	if shut, ok := e.app.state.gate.fresh(now, standingLimit); ok {
		for _, s := range []gate.State{gate.Open, gate.Limited, gate.Paused, gate.Held} {
			gauge(gateDesc, is(shut == s), string(s))
		}
	}
	if now.Sub(e.app.fleet.KnownAt()) <= standingLimit {
		known := e.app.fleet.Known()
		gauge(rateDesc, known.Rate)
		gauge(differDesc, float64(len(known.Differences)))
	}
	if confirmer := e.app.confirmer; confirmer != nil {
		if off, at := confirmer.Off(); now.Sub(at) <= standingLimit {
			gauge(confirmsDesc, is(!off))
		}
	}
	m := e.app.state.metrics
	if at := m.backlog.at(); !at.IsZero() {
		gauge(countedDesc, unixSeconds(at))
	}
	if backlog, ok := m.backlog.fresh(now, countLimit); ok {
		var forPerson int64
		for _, b := range backlog {
			gauge(requestsDesc, float64(b.Requests), b.State)
			gauge(oldestDesc, b.Oldest.Seconds(), b.State)
			forPerson += b.ForPerson
		}
		gauge(personDesc, float64(forPerson))
	}
	if pending, ok := m.pending.fresh(now, countLimit); ok {
		gauge(pendingDesc, float64(pending))
	}
}

func is(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

// unixSeconds is a moment in Unix time; 0 for the zero one.
func unixSeconds(at time.Time) float64 {
	if at.IsZero() {
		return 0
	}
	return float64(at.UnixMilli()) / 1000
}
