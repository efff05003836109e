package main

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go/jetstream"

	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/flextest"
)

// account is one of two fleets on one database and one NATS server: a schema, subjects and an endpoint of its own.
type account struct {
	*rig
	name string
	cfg  Config
	env  []string
}

// accountOn is the fleet of that name, in the schema of that name.
func accountOn(r *rig, name string) *account {
	t := r.t
	own := &rig{t: t, nats: r.nats, flex: flextest.New(t), dsn: r.dsn + "&search_path=" + name, js: r.js}
	if _, err := r.pool.Exec(t.Context(), `CREATE SCHEMA `+name); err != nil {
		t.Fatal(err)
	}
	var err error
	if own.pool, err = pgxpool.New(t.Context(), own.dsn); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(own.pool.Close)
	// A result whose acknowledgement a busy machine brings late is published again, and dropped.
	for stream, remembers := range map[string]time.Duration{"requests": 100 * time.Millisecond, "results": 30 * time.Minute} {
		if _, err := r.js.CreateStream(t.Context(), jetstream.StreamConfig{Name: name + "_" + stream, Subjects: []string{name + "." + stream + ".>"},
			Duplicates: remembers}); err != nil {
			t.Fatal(err)
		}
	}
	cfg := own.config()
	cfg.RequestsStream, cfg.RequestsSubject, cfg.RequestsConsumer = name+"_requests", name+".requests", name+"-worker"
	cfg.ResultsStream, cfg.ResultsSubject, cfg.ServiceSubject = name+"_results", name+".results", name
	return &account{own, name, cfg, own.environment("REQUESTS_STREAM="+cfg.RequestsStream, "REQUESTS_SUBJECT="+cfg.RequestsSubject,
		"REQUESTS_CONSUMER="+cfg.RequestsConsumer, "RESULTS_STREAM="+cfg.ResultsStream, "RESULTS_SUBJECT="+cfg.ResultsSubject, "SERVICE_SUBJECT="+name)}
}

// ask publishes requests from up to to of that fleet.
func (a *account) ask(from, to int) {
	a.t.Helper()
	for i := from; i < to; i++ {
		if _, err := a.js.Publish(a.t.Context(), a.name+".requests.crm", requestOf(fmt.Sprintf("same-%d", i))); err != nil {
			a.t.Fatal(err)
		}
	}
}

// has waits for so many interactions and results, and none twice.
func (a *account) has(want int) {
	a.t.Helper()
	a.eventually(func() error {
		s, err := a.js.Stream(a.t.Context(), a.cfg.ResultsStream)
		if err != nil {
			return err
		}
		return expect.Is(a.name+": interactions and results", fmt.Sprint(a.flex.Calls().Created, " ", s.CachedInfo().State.Msgs), fmt.Sprint(want, " ", want))
	})
	if twice := a.flex.Duplicates(); len(twice) > 0 {
		a.t.Errorf("%s: created twice: %v", a.name, twice)
	}
}

// TestTwoFleets: two accounts are two fleets on one database and one NATS server. The same ids are different requests;
// what one fleet's people and Flex do stops that fleet alone; senders' questions and audits are each fleet's own.
func TestTwoFleets(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	one, two := accountOn(r, "one"), accountOn(r, "two")
	for _, a := range []*account{one, two} { // both make their tables at once
		a.start(a.cfg)
		second := a.cfg
		second.AdminAddr = a.config().AdminAddr
		a.start(second)
	}
	for _, a := range []*account{one, two} {
		a.says(a.cfg.AdminAddr, "ok", http.StatusOK)
		a.ask(0, 30)
	}
	one.has(30)
	two.has(30)

	if status, out, errs := one.try(one.env, "hold", "--why", "one fleet alone", "--by", "ann"); status != 0 {
		t.Fatalf("hold: %d: %s%s", status, out, errs)
	}
	one.says(one.cfg.AdminAddr, "held", http.StatusOK)
	one.ask(30, 40)
	two.ask(30, 40)
	two.has(40)
	one.has(30)
	conn := r.nats.Connect(t)
	for subject, state := range map[string]string{"one.status.crm": "pending", "two.status.crm": "created"} {
		expect.Eventually(t, func() error {
			body, code := askedAs(t, conn, subject, "same-35")
			return expect.Is(subject+" "+code, fmt.Sprint(body["state"]), state)
		})
	}
	if status, out, errs := one.try(one.env, "release", "--why", "again", "--by", "ann"); status != 0 {
		t.Fatalf("release: %d: %s%s", status, out, errs)
	}
	one.has(40)
	for _, a := range []*account{one, two} {
		a.eventually(func() error {
			status, out, errs := a.try(a.env, "audit")
			if status != 0 {
				return fmt.Errorf("%s: audit: %d: %s%s", a.name, status, out, errs)
			}
			return nil
		})
	}
}
