package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"flexworker/internal/testing/faultproxy"
	"flexworker/internal/testing/flextest"
)

// cards is everything that can strike, once each; for processes and proxies one
// of the replicas is chosen as the card is dealt.
func (n *nemesis) cards() []func() stroke {
	var cards []func() stroke
	for _, more := range [][]func() stroke{n.onWorkers(), n.onFleet(), n.onPostgres(), n.onQueue(), n.onProxies(), n.onEndpoint(), n.onTaskRouter()} {
		cards = append(cards, more...)
	}
	return cards
}

func (n *nemesis) onWorkers() []func() stroke {
	end := func(how syscall.Signal, what string) func() stroke {
		return func() stroke {
			r := n.mortal()
			if r == nil {
				return stroke{}
			}
			return stroke{what: fmt.Sprintf("%s to replica %d", what, r.number), on: "workers", last: n.between(100, 3000),
				hit: func() error { return r.end(how) }, heal: r.start}
		}
	}
	freeze := func() stroke {
		r := n.anyone()
		// A process stopped between the look at its lease and the first byte sends
		// late (README). The lease is 7 s; the settle time covers the rest of this.
		var resume func() error
		return stroke{what: fmt.Sprintf("SIGSTOP to replica %d", r.number), on: "workers", last: n.between(1000, 10_000),
			hit:  func() (err error) { resume, err = r.signal(syscall.SIGSTOP); return err },
			heal: func() error { return resume() }}
	}
	all := func() stroke {
		ended := n.mortals()
		if len(ended) == 0 {
			return stroke{}
		}
		return stroke{what: fmt.Sprintf("kill -9 to all %d replicas%s", len(ended), n.butTheFirst()), on: "workers", last: n.between(100, 2000),
			hit:  func() error { endReplicas(ended, syscall.SIGKILL); return nil },
			heal: func() error { return startReplicas(ended) }}
	}
	kill, term := end(syscall.SIGKILL, "kill -9"), end(syscall.SIGTERM, "SIGTERM")
	return []func() stroke{kill, kill, kill, term, freeze, freeze, all}
}

func (n *nemesis) onPostgres() []func() stroke {
	restart := func() error { return n.postgres.Restart(context.Background()) }
	down := func(what string, how func() error) func() stroke {
		return func() stroke {
			return stroke{what: "Postgres: " + what, on: "postgres", last: n.between(100, 4000), hit: how, heal: restart}
		}
	}
	backends := func() stroke {
		return stroke{what: "Postgres: backends killed, thrice", on: "postgres", last: time.Second, hit: func() error {
			for range 3 {
				if _, err := n.pool.Exec(context.Background(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'flexworker'`); err != nil {
					return err
				}
				rest(context.Background(), 400*time.Millisecond)
			}
			return nil
		}}
	}
	return []func() stroke{
		down("stopped in order", n.postgres.Shutdown), down("stopped at once", n.postgres.Immediate), down("kill -9", n.postgres.Kill), backends, backends,
		func() stroke {
			return stroke{what: "Postgres: SIGSTOP", on: "postgres", last: n.between(1000, 10_000), hit: n.postgres.Pause, heal: n.postgres.Resume}
		},
	}
}

func (n *nemesis) onQueue() []func() stroke {
	down := func(what string, how syscall.Signal) func() stroke {
		return func() stroke {
			return stroke{what: "NATS: " + what, on: "nats", last: n.between(100, 4000),
				hit: func() error { return n.queue.end(how) }, heal: n.queue.start}
		}
	}
	return []func() stroke{
		down("restarted in order", 0), down("kill -9", syscall.SIGKILL), down("kill -9", syscall.SIGKILL),
		func() stroke {
			return stroke{what: "NATS: SIGSTOP", on: "nats", last: n.between(1000, 8000),
				hit: func() error { return n.queue.signal(syscall.SIGSTOP) }, heal: func() error { return n.queue.signal(syscall.SIGCONT) }}
		},
	}
}

// onProxies breaks the way between one replica and one server. What a short
// black hole before Flex held back is delivered late, as the network may; a long
// one is ended by a cut, or a call could be later than the settle time covers.
func (n *nemesis) onProxies() []func() stroke {
	var cards []func() stroke
	for _, to := range []string{"postgres", "nats", "flex"} {
		on := func(r *replica) string { return fmt.Sprintf("way from %d to %s", r.number, to) }
		cards = append(cards, func() stroke {
			r := n.anyone()
			return stroke{what: on(r) + ": cut", on: on(r), last: 100 * time.Millisecond, hit: func() error { r.ways(to, (*faultproxy.Proxy).Cut); return nil }}
		}, func() stroke {
			r := n.anyone()
			return stroke{what: on(r) + ": refused", on: on(r), last: n.between(500, 6000),
				hit: func() error { r.ways(to, (*faultproxy.Proxy).Refuse); return nil }, heal: func() error { r.ways(to, (*faultproxy.Proxy).Heal); return nil }}
		}, func() stroke {
			r := n.anyone()
			return stroke{what: on(r) + ": black hole", on: on(r), last: n.between(500, 3000),
				hit: func() error { r.ways(to, (*faultproxy.Proxy).Blackhole); return nil }, heal: func() error { r.ways(to, (*faultproxy.Proxy).Heal); return nil }}
		}, func() stroke {
			r := n.anyone()
			return stroke{what: on(r) + ": long black hole", on: on(r), last: n.between(4000, 12_000),
				hit:  func() error { r.ways(to, (*faultproxy.Proxy).Blackhole); return nil },
				heal: func() error { r.ways(to, (*faultproxy.Proxy).Cut); r.ways(to, (*faultproxy.Proxy).Heal); return nil }}
		})
	}
	return cards
}

// everyday are the faults that are always there, so that whatever strikes meets requests in every state. Each comes
// once in two seconds, however many requests there are: each 429 pauses the whole fleet.
var everyday = []flextest.Fault{flextest.CreateThenReset, flextest.Status(503), flextest.CreateThen(flextest.Status(500)), flextest.Status(429)}

// restoreRules leaves only the everyday faults.
func (n *nemesis) restoreRules() {
	n.onFlexes(func(s *flextest.Server) { s.Clear() })
	for _, f := range everyday {
		n.inject(flextest.Rule{Fault: f, Share: min(0.5/n.rate, 1)})
	}
}

// pairs are the ways for a create call to go wrong, each also "although it happened".
var pairs = []flextest.Fault{
	flextest.Reset, flextest.EOF, flextest.Hang, flextest.Drip, flextest.SlowBody, flextest.Cut, flextest.NotJSON, flextest.HTML,
	flextest.Empty, flextest.NoSID, flextest.BadSID, flextest.Huge, flextest.Gzip, flextest.GzipBomb, flextest.HugeHeaders, flextest.Flood,
	flextest.Status(408), flextest.Status(500), flextest.Status(502).HTML(), flextest.Status(503), flextest.Status(504).HTML(),
}

// lies are those of which the first kind is a 2xx for nothing: a person has to
// decide about each, so there are few.
var lies = map[flextest.Fault]bool{flextest.SlowBody: true, flextest.Cut: true, flextest.NotJSON: true, flextest.HTML: true, flextest.Empty: true,
	flextest.NoSID: true, flextest.BadSID: true, flextest.Huge: true, flextest.Gzip: true, flextest.GzipBomb: true, flextest.Flood: true,
	flextest.Drip: true, flextest.HugeHeaders: true}

func (n *nemesis) onEndpoint() []func() stroke {
	var rules []flextest.Rule
	for _, f := range pairs {
		if rules = append(rules, flextest.Rule{Fault: flextest.CreateThen(f), Share: 0.05, Times: 25}); lies[f] {
			rules = append(rules, flextest.Rule{Fault: f, Share: 0.02, Times: 2})
		} else {
			rules = append(rules, flextest.Rule{Fault: f, Share: 0.03, Times: 15})
		}
	}
	rules = append(rules, flextest.Rule{Fault: flextest.CreateThenClose, Share: 0.1}, flextest.Rule{Fault: flextest.CreateThenCloseNext, Share: 0.1},
		flextest.Rule{Fault: flextest.Status(429).RetryAfter("1"), Share: 0.02}, flextest.Rule{Fault: flextest.Status(429).RetryAfter("soon"), Share: 0.05})
	for _, f := range []flextest.Fault{flextest.Status(301), flextest.Status(302), flextest.Status(307), flextest.Status(401), flextest.Status(403),
		flextest.CreateThen(flextest.Status(301)), flextest.CreateThen(flextest.Status(307))} {
		rules = append(rules, flextest.Rule{Fault: f, Share: 0.02, Times: 2})
	}
	n.dice.Shuffle(len(rules), func(i, j int) { rules[i], rules[j] = rules[j], rules[i] })
	var cards []func() stroke
	for len(rules) > 0 {
		some := rules[:min(4, len(rules))]
		rules = rules[len(some):]
		cards = append(cards, func() stroke { return n.faults(some) })
	}
	settings := func(what string, change func(*flextest.Settings)) func() stroke {
		return func() stroke {
			set := usual
			change(&set)
			return stroke{what: "Flex: " + what, on: "settings", last: n.between(1000, 5000),
				hit: func() error { n.set(set); return nil }, heal: func() error { n.set(usual); return nil }}
		}
	}
	access := func(what string, hit func(*flextest.Server)) func() stroke {
		return func() stroke {
			return stroke{what: "Flex: " + what, on: "flex", last: n.between(500, 4000), hit: func() error { n.onFlexes(hit); return nil }, heal: func() error {
				n.onFlexes(func(s *flextest.Server) {
					s.SetCredentials(flextest.Credential{User: flextest.AccountSID, Secret: flextest.AuthToken})
				})
				return nil
			}}
		}
	}
	return append(cards,
		settings("slow", func(s *flextest.Settings) { s.Latency = 1200 * time.Millisecond }),
		settings("at most 4 at a time, 429 beyond", func(s *flextest.Settings) { s.Concurrency, s.Latency = 4, 50*time.Millisecond }),
		settings("created is 201", func(s *flextest.Settings) { s.Status = 201 }),
		settings("interactions cannot be read", func(s *flextest.Settings) { s.FetchTrouble = flextest.Status(500) }),
		access("the account is suspended", (*flextest.Server).Suspend),
		access("the credentials are wrong", func(s *flextest.Server) { s.SetCredentials(flextest.Credential{User: "AC0", Secret: "x"}) }),
		func() stroke {
			return stroke{what: "Flex: down", on: "flex", last: n.between(500, 5000), hit: func() error { n.onFlexes((*flextest.Server).Down); return nil }, heal: n.up}
		},
		func() stroke {
			return stroke{what: "Flex: cannot be dialled", on: "flex", last: n.between(500, 5000), hit: func() error { return errors.Join(n.flex.BlackHole(), n.beside.flex.BlackHole()) }, heal: n.up}
		})
}

// faults puts rules into force for a while.
func (n *nemesis) faults(rules []flextest.Rule) stroke {
	names := make([]string, len(rules))
	for i, r := range rules {
		names[i] = string(r.Fault)
	}
	return stroke{what: "Flex: " + strings.Join(names, ", "), on: "faults", last: n.between(2000, 6000),
		hit: func() error {
			for _, r := range rules {
				n.inject(r)
			}
			return nil
		}, heal: func() error { n.restoreRules(); return nil }}
}

func (n *nemesis) onTaskRouter() []func() stroke {
	card := func(what string, set flextest.TaskRouter) func() stroke {
		return func() stroke {
			if set.Lag == 0 {
				set.Lag = n.between(0, int(maxLag.Milliseconds()))
			}
			if set.EventLag == 0 {
				set.EventLag = n.between(0, int(maxLag.Milliseconds()))
			}
			return stroke{what: fmt.Sprintf("TaskRouter: %s, lag %v and %v", what, set.Lag, set.EventLag), on: "taskrouter", last: n.between(1000, 6000),
				hit:  func() error { n.flex.SetTaskRouter(set); return nil },
				heal: func() error { n.flex.SetTaskRouter(flextest.TaskRouter{Lag: lag, EventLag: lag}); return nil }}
		}
	}
	// What lies about tasks and what lies about events never come in one run: a
	// request whose task is gone while the log is empty is proved absent, and no
	// client could know better. Two in a row would do, so the seed decides.
	blind := []func() stroke{
		card("no task is listed", flextest.TaskRouter{Blind: true}),
		card("tasks forgotten at once", flextest.TaskRouter{Life: 3 * time.Second, After: -1}),
	}
	if n.seed%2 == 1 {
		blind = []func() stroke{card("no event is listed", flextest.TaskRouter{NoEvents: true})}
	}
	return append(blind,
		card("late", flextest.TaskRouter{}), card("late", flextest.TaskRouter{Lag: maxLag, EventLag: maxLag}),
		card("lists without attributes", flextest.TaskRouter{NullAttributes: true}),
		card("lists are not understood", flextest.TaskRouter{NoLists: true}),
		card("500", flextest.TaskRouter{Trouble: flextest.Status(500)}),
		card("429", flextest.TaskRouter{Trouble: flextest.Status(429).RetryAfter("1")}),
		card("nonsense", flextest.TaskRouter{Trouble: flextest.HTML}),
		card("no answer", flextest.TaskRouter{Trouble: flextest.Hang}),
		card("events: 503", flextest.TaskRouter{EventTrouble: flextest.Status(503)}),
		card("events: cut", flextest.TaskRouter{EventTrouble: flextest.Cut}))
}
