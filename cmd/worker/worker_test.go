package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/flextest"
	"flexworker/internal/testing/pgtest"
)

// TestEndToEnd: two replicas, requests by the contract's section 3, results by
// its section 4, each once and as Flex has it.
func TestEndToEnd(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	in := r.read()
	cfg := r.unhurried()
	r.start(cfg)
	r.start(r.unhurried())
	// One call more than one replica makes at once: both have some, however much later the other is ready.
	hanging := cfg.FlexConcurrency + 1
	r.flex.Inject(flextest.Rule{Fault: flextest.Hang, Times: hanging})
	r.send("a", 0, 500)
	r.reached("both make calls", func(c flextest.Calls) bool { return c.Hanging == hanging })
	r.flex.Release()
	in.balanced(500)
	workers := r.count(`SELECT count(DISTINCT worker) FROM outbox_attempts`)
	if n := r.count(`SELECT count(*) FROM outbox_attempts`); n != 500 || workers != 2 {
		t.Errorf("%d attempts by %d workers, want 500 by 2", n, workers)
	}
	for id, results := range in.final() {
		one := results[0]
		if one.Subject != "interactions.results.created.crm" || one.Header.Get("Content-Type") != "application/json" || one.Header.Get("Nats-Msg-Id") == "" {
			t.Fatalf("%s: %s %v", id, one.Subject, one.Header)
		}
		if b := one.Body; b.ResolvedBy != "response" || b.Attempts != 1 || string(b.Metadata) != fmt.Sprintf(`{"for":%q}`, id) ||
			!strings.HasPrefix(b.TaskSID, "WT") || !strings.Contains(string(b.Routing), `"assignment_status":"pending"`) || b.SettledAt.IsZero() || string(b.Error) != "null" {
			t.Fatalf("%s: %+v", id, b)
		}
	}
}

// TestCountsMinutes: a worker that runs counts what settled, and begins with no more than is kept.
func TestCountsMinutes(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	pgtest.Exec(t, r.pool, `UPDATE outbox_counted SET until = date_trunc('minute', now()) - interval '9 days'`)
	r.start(r.config())
	expect.Eventually(t, func() error {
		return expect.Is("counted", r.count(`SELECT count(*) FROM outbox_counted WHERE until > now() - interval '8 days'`), 1)
	})
}

// TestAnswers: what bad, repeated and conflicting input gets, row by row of the
// contract's table.
func TestAnswers(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	in := r.read()
	r.start(r.unhurried())
	send := func(source, body string, header nats.Header) {
		t.Helper()
		m := nats.NewMsg("interactions.requests." + source)
		m.Data, m.Header = []byte(body), header
		if _, err := r.js.PublishMsg(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	send("crm", string(requestOf("a")), nats.Header{"traceparent": {trace}})
	expect.Eventually(t, func() error { return expect.Is("created", in.subjects()["interactions.results.created.crm"], 1) })
	send("shop.eu", string(requestOf("a")), nil)                                           // the same question by another
	send("web", strings.Replace(string(requestOf("a")), "+15550100", "+15550101", 1), nil) // another request
	send("bad", `{"request_id":"b","channel":{},"oops":1}`, nil)                           // faults
	send("worse", "hello", nil)                                                            // no request at all
	send("bad", `{"request_id":"b","channel":{},"oops":1}`, nil)                           // asked again
	send("late", strings.Replace(string(requestOf("c")), `"channel"`, `"expires_at":"2026-01-01T00:00:00Z","channel"`, 1), nil)
	want := map[string]int{
		"interactions.results.created.crm": 1, "interactions.results.created.shop.eu": 1, "interactions.results.conflict.web": 1,
		"interactions.results.rejected.bad": 2, "interactions.results.malformed.worse": 1, "interactions.results.expired.late": 1,
	}
	expect.Eventually(t, func() error { return expect.Is("subjects", fmt.Sprint(in.subjects()), fmt.Sprint(want)) })
	for _, one := range in.list() {
		switch one.Subject {
		case "interactions.results.created.crm":
			if one.Header.Get("traceparent") != trace {
				t.Errorf("the trace is lost: %v", one.Header)
			}
		case "interactions.results.rejected.bad":
			for _, fault := range []string{"oops", "channel.type", "channel.initiated_by", "routing"} {
				if !strings.Contains(string(one.Body.Error), `"path":"`+fault+`"`) {
					t.Errorf("%s is not named: %s", fault, one.Body.Error)
				}
			}
		case "interactions.results.malformed.worse":
			if one.Body.Sequence != 5 || !strings.Contains(string(one.Body.Error), "not JSON at byte 1") {
				t.Errorf("%+v", one.Body)
			}
		}
	}
	if c := r.flex.Calls(); c.Received != 1 {
		t.Errorf("%d calls, want 1", c.Received)
	}
}

// TestReadyz: every word.
func TestReadyz(t *testing.T) {
	t.Parallel()
	server := pgtest.NewServer(t)
	r := rigOn(t, server.DSN("postgres"))
	cfg := r.unhurried() // the call that hangs does so until it is released
	w := r.start(cfg)
	r.says(cfg.AdminAddr, "ok", 200)

	if err := server.Pause(); err != nil {
		t.Fatal(err)
	}
	r.says(cfg.AdminAddr, "database", 503)
	if err := server.Resume(); err != nil {
		t.Fatal(err)
	}
	r.says(cfg.AdminAddr, "ok", 200)

	r.nats.Shutdown()
	r.says(cfg.AdminAddr, "nats", 503)
	if err := r.nats.Restart(); err != nil {
		t.Fatal(err)
	}
	r.says(cfg.AdminAddr, "ok", 200)

	in := r.read()
	r.flex.SetCredentials()
	r.send("denied", 0, 1)
	r.says(cfg.AdminAddr, "unauthorized", 503)
	r.flex.SetCredentials(flextest.Credential{User: flextest.AccountSID, Secret: flextest.AuthToken})
	in.balanced(1) // by itself, as soon as the credentials are right
	r.says(cfg.AdminAddr, "ok", 200)

	r.flex.Next(flextest.Status(429).RetryAfter("600"))
	r.send("paused", 0, 1)
	r.says(cfg.AdminAddr, "paused", 200)
	expect.Eventually(t, func() error {
		return expect.Is("pending", r.count(`SELECT count(*) FROM outbox WHERE state = 'pending'`), 1)
	})
	r.must(`UPDATE outbox_gate SET paused_until = clock_timestamp()`) // the time passes once it was seen
	r.must(`UPDATE outbox SET due_at = clock_timestamp() WHERE state = 'pending'`)
	in.balanced(2)
	r.says(cfg.AdminAddr, "ok", 200)
	if n := r.count(`SELECT count(*) FROM outbox WHERE attempt - uncounted = 1 AND uncounted >= 1`); n != 2 {
		t.Errorf("%d have one counted attempt and the others uncounted, want 2: %s", n, r.states())
	}

	r.flex.Next(flextest.Hang)
	r.send("hanging", 0, 1)
	if err := r.flex.Wait(t.Context(), func(c flextest.Calls) bool { return c.Hanging == 1 }); err != nil {
		t.Fatal(err)
	}
	w.stop()
	r.says(cfg.AdminAddr, "draining", 503)
	r.flex.Release()
	w.wait()
	in.balanced(3)
}

// TestReadyzLimited: a backlog that only the rate holds up.
func TestReadyzLimited(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	in := r.read()
	cfg := r.config()
	cfg.FlexRate = 1
	r.start(cfg)
	r.says(cfg.AdminAddr, "ok", 200)
	r.send("a", 0, 4)
	r.says(cfg.AdminAddr, "limited", 200)
	in.balanced(4)
	r.says(cfg.AdminAddr, "ok", 200)
	started := r.count(`SELECT extract(epoch FROM max(started_at) - min(started_at))::int FROM outbox_attempts`)
	if started < 2 { // at one a second, with one saved up
		t.Errorf("four attempts within %d seconds", started)
	}
}

// TestStartFaults: what a person has to mend ends the start; what is merely away
// is waited for.
func TestStartFaults(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	cfg := r.config()
	cfg.ResultsSubject = "nobody.keeps.this"
	w := r.start(cfg)
	r.says(cfg.AdminAddr, "nats", 503) // it waits for the stream, and says so in its log
	w.stop()
	w.wait()

	cfg = r.config()
	cfg.ResultsStream = "OTHER"
	if err := runOnce(r, cfg); err == nil || !strings.Contains(err.Error(), "interactions.results.> goes to stream INTERACTION_RESULTS, RESULTS_STREAM says OTHER") {
		t.Errorf("unbound: %v", err)
	}
	cfg = r.config()
	cfg.Migrate, cfg.DatabaseURL = false, secretOf(pgtest.NewDSN(t))
	if err := runOnce(r, cfg); err == nil || !strings.Contains(err.Error(), "behind this version: run `worker migrate up`") {
		t.Errorf("empty database: %v", err)
	}
	taken := r.config()
	other := r.start(taken)
	r.says(taken.AdminAddr, "ok", 200)
	if err := runOnce(r, taken); err == nil || !strings.Contains(err.Error(), "ADMIN_ADDR: ") {
		t.Errorf("taken address: %v", err)
	}
	other.stop()
	other.wait()
}

// TestReadyzWithoutStreams: a replica that waits for its streams takes nothing, so
// it is not ready; it is once they are there.
func TestReadyzWithoutStreams(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	if err := r.js.DeleteStream(t.Context(), "INTERACTION_REQUESTS"); err != nil {
		t.Fatal(err)
	}
	cfg := r.config()
	r.start(cfg)
	r.says(cfg.AdminAddr, "nats", 503)
	stream := jetstream.StreamConfig{Name: "INTERACTION_REQUESTS", Subjects: []string{"interactions.requests.>"}}
	if _, err := r.js.CreateStream(t.Context(), stream); err != nil {
		t.Fatal(err)
	}
	r.says(cfg.AdminAddr, "ok", 200)
	in := r.read()
	r.send("a", 0, 3)
	in.balanced(3)
}

// TestReadyzWithoutResults: a replica whose results nobody takes is not ready; they wait
// in the table, and come when the stream is back.
func TestReadyzWithoutResults(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	results, err := r.js.Stream(t.Context(), "INTERACTION_RESULTS")
	if err != nil {
		t.Fatal(err)
	}
	cfg := r.config()
	r.start(cfg)
	r.says(cfg.AdminAddr, "ok", 200)
	if err := r.js.DeleteStream(t.Context(), "INTERACTION_RESULTS"); err != nil {
		t.Fatal(err)
	}
	r.send("a", 0, 3)
	r.says(cfg.AdminAddr, "nats", 503)
	if _, err := r.js.CreateStream(t.Context(), results.CachedInfo().Config); err != nil {
		t.Fatal(err)
	}
	r.says(cfg.AdminAddr, "ok", 200)
	r.read().balanced(3)
}

// runOnce runs a worker that does not come to life.
func runOnce(r *rig, cfg Config) error {
	r.t.Helper()
	done := make(chan error, 1)
	go func() { done <- run(r.t.Context(), cfg, newLog(r.t.Output(), "warn", "text"), nil) }()
	select {
	case err := <-done:
		return err
	case <-time.After(expect.Patience):
		r.t.Fatal("it serves")
		return nil
	}
}

// TestCreateStreams: with CREATE_STREAMS=true nothing has to be there before.
func TestCreateStreams(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, name := range []string{"INTERACTION_REQUESTS", "INTERACTION_RESULTS"} {
		if err := r.js.DeleteStream(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	cfg := r.config()
	cfg.CreateStreams = true
	r.start(cfg)
	for _, name := range []string{"INTERACTION_REQUESTS", "INTERACTION_RESULTS"} {
		expect.Eventually(t, func() error { _, err := r.js.Stream(t.Context(), name); return err })
	}
	in := r.read()
	r.send("a", 0, 5)
	in.balanced(5)
}
