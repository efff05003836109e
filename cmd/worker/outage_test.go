package main

import (
	"flag"
	"fmt"
	"strings"
	"testing"
	"time"

	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/faultproxy"
	"flexworker/internal/testing/flextest"
	"flexworker/internal/testing/pgtest"
)

// outageFor makes each outage of these tests as long as one is in earnest:
// `make outages`. Otherwise they end once they have been noticed, under load.
var outageFor = flag.Duration("outage", 0, "how long each outage lasts, from when /readyz says so; 0: a second")

// outage is one dependency that goes away and comes back under a stream of
// requests.
type outage struct {
	begin, end func() error
	word       string // of /readyz meanwhile
	hangs      bool   // calls of Flex, which end by a short FLEX_TIMEOUT; else none is cut, however busy the machine is
}

// survive sends before, during and after the outage, and waits until all of it
// is settled by itself. It returns the rig's worker.
func (r *rig) survive(o outage) *replica {
	t := r.t
	t.Helper()
	in := r.read()
	cfg := r.unhurried()
	if o.hangs {
		cfg = r.config()
	}
	cfg.FlexConcurrency = 4
	w := r.start(cfg)
	r.says(cfg.AdminAddr, "ok", 200)
	r.flex.Set(flextest.Settings{Latency: 5e6}) // so that there is a backlog
	r.send("before", 0, 150)
	sending := r.load()
	r.reached("some are created", func(c flextest.Calls) bool { return c.Created >= 20 })
	if err := o.begin(); err != nil {
		t.Fatal(err)
	}
	const status = 503
	r.says(cfg.AdminAddr, o.word, status)
	already := sending.begun.Load()
	watched := r.watch(cfg.AdminAddr, fmt.Sprint(o.word, " ", status))
	w.lasts(t, *outageFor, sending, 50)
	asked, other := watched()
	if len(other) > 2+asked/10 { // a busy machine answers late now and then
		t.Errorf("in the outage, of %d times that it was asked, it did not say %s %d times: %s", asked, o.word, len(other), other)
	}
	meanwhile := sending.begun.Load() - already
	if err := o.end(); err != nil {
		t.Fatal(err)
	}
	over := time.Now()
	// Asked of the stream: a connection may not know yet that it is none any more.
	r.eventually(func() error { _, err := r.js.Stream(t.Context(), "INTERACTION_REQUESTS"); return err })
	r.send("after", 0, 50)
	r.says(cfg.AdminAddr, "ok", 200)
	ready := time.Since(over)
	sent := 150 + sending.stop() + 50
	in.balanced(sent)
	r.says(cfg.AdminAddr, "ok", 200)
	if *outageFor > 0 {
		fmt.Printf("%s: %v of it, %d sent meanwhile, /readyz %s %d times of %d\n\tready again after %v, all %d answered after %v: %s\n",
			t.Name(), *outageFor, meanwhile, o.word, asked-len(other), asked, ready.Round(time.Millisecond), sent, time.Since(over).Round(time.Millisecond), r.states())
	}
	return w
}

// uncounted wants every request to have exactly one counted attempt.
func (r *rig) uncounted() {
	r.t.Helper()
	if n := r.count(`SELECT count(*) FROM outbox WHERE attempt - uncounted <> 1`); n != 0 {
		r.t.Errorf("the outage cost %d requests an attempt: %s", n, r.states())
	}
}

func TestPostgresAway(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]func(*pgtest.Server) outage{
		"paused": func(s *pgtest.Server) outage { return outage{begin: s.Pause, end: s.Resume} },
		"killed": func(s *pgtest.Server) outage {
			return outage{begin: s.Kill, end: func() error { return s.Restart(t.Context()) }}
		},
		"restarted": func(s *pgtest.Server) outage {
			return outage{begin: s.Shutdown, end: func() error { return s.Restart(t.Context()) }}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := pgtest.NewServer(t)
			r := rigOn(t, server.DSN("postgres"))
			away := o(server)
			away.word = "database"
			r.survive(away)
			// What Flex had answered is recorded late. What was leased by a statement
			// whose answer did not come is taken back, also when it lapsed first.
			r.uncounted()
		})
	}
}

func TestNATSAway(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.survive(outage{word: "nats", end: r.nats.Restart, begin: func() error {
		// What is in the table goes on without NATS, up to its result.
		expect.Eventually(t, func() error {
			return expect.Is("taken", r.count(`SELECT count(*) FROM outbox WHERE request_id LIKE 'before-%'`), 150)
		})
		r.nats.Shutdown()
		expect.Eventually(t, func() error {
			return expect.Is("created meanwhile", r.flex.Calls().Created, r.count(`SELECT count(*) FROM outbox`))
		})
		return nil
	}})
	r.uncounted()
}

// TestFlexAway: not reached, so nothing counts. Only a call that was just being
// written to a connection that Flex closed as idle ends in EOF, and may have
// arrived: it is uncertain, at most those in flight at that moment.
func TestFlexAway(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.survive(outage{word: "unreachable", begin: func() error { r.flex.Down(); return nil }, end: r.flex.Up})
	const written = `SELECT outbox_id FROM outbox_attempts WHERE kind = 'attempt' AND outcome = 'uncertain'`
	if n := r.count(`SELECT count(*) FROM outbox WHERE attempt - uncounted > 1 AND id NOT IN (` + written + `)`); n != 0 {
		t.Errorf("the outage cost %d requests an attempt: %s", n, r.states())
	}
	if n := r.count(`SELECT count(*) FROM (` + written + `) AS w`); n > 4 {
		t.Errorf("%d are uncertain, with 4 in flight: %s", n, r.states())
	}
	if n := r.count(`SELECT count(*) FROM outbox WHERE uncounted > 0`); n == 0 {
		t.Errorf("nobody met the outage: %s", r.states())
	}
}

// TestFlexBroken: Flex answers nothing, or nonsense. The replica stops after a few
// of them, these few are uncertain and are found out about, the others wait.
func TestFlexBroken(t *testing.T) {
	t.Parallel()
	for _, fault := range []flextest.Fault{flextest.Hang, flextest.CreateThenHang, flextest.Status(503), flextest.CreateThen(flextest.Status(500)), flextest.CreateThenReset} {
		t.Run(string(fault), func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			hangs := fault == flextest.Hang || fault == flextest.CreateThenHang
			r.survive(outage{word: "unreachable", hangs: hangs,
				begin: func() error {
					r.flex.Inject(flextest.Rule{Fault: fault})
					settings := r.flex.Settings()
					settings.FetchTrouble = flextest.Status(503) // reads fail too
					r.flex.Set(settings)
					return nil
				},
				end: func() error {
					r.flex.Clear()
					r.flex.Set(flextest.Settings{})
					return nil
				}})
			met := r.count(`SELECT count(DISTINCT outbox_id) FROM outbox_attempts WHERE kind = 'attempt' AND outcome = 'uncertain'`)
			if met < 5 || met > 20 {
				t.Errorf("%d requests met the outage: it stops after 5 failures, with 4 in flight: %s", met, r.states())
			}
			// A call that a busy machine cuts before it arrives may be made again.
			if c := r.flex.Calls(); strings.HasPrefix(string(fault), "create-then-") && c.Received != c.Created {
				t.Errorf("%d calls arrived, of which each creates, for %d requests: some that existed were sent again: %s", c.Received, c.Created, r.states())
			}
		})
	}
}

// TestNATSSilentAway: the way to NATS is a black hole. Nothing is closed and nothing is answered: /readyz says so at
// once, and the client gives the connection up after two pings (`make outages`, which lasts longer than these).
func TestNATSSilentAway(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	way := faultproxy.New(t, r.nats.Addr())
	r.natsVia = "nats://" + way.Addr()
	r.redeliversSoon()
	r.survive(outage{word: "nats",
		begin: func() error { way.Blackhole(); return nil },
		end:   func() error { way.Heal(); return nil }})
	r.uncounted()
}
