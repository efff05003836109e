package main

import (
	"flag"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"testing"
	"time"

	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/flextest"
	"flexworker/internal/testing/natstest"
	"flexworker/internal/testing/pgtest"
	"flexworker/internal/testing/wan"
)

// partitionFor makes each partition as long as one is in earnest: `make partitions`.
var partitionFor = flag.Duration("partition", 0, "how long each partition lasts, from when /readyz says so; 0: a second")

// split is one dependency to which one of two replicas loses the way.
type split struct {
	rig  *rig
	port int           // of the server
	far  func(*Config) // makes a replica go the long way
	word string        // of /readyz meanwhile
}

// splits make the world of each partition: the server listens on wan.Near, where everybody reaches it directly but the
// replica that goes by wan.Far.
var splits = map[string]func(t *testing.T) split{
	"nats": func(t *testing.T) split {
		r := rigWith(t, migrated.NewDSN(t), natstest.Options{Host: wan.Near})
		port := portOf(t, r.nats.Addr())
		return split{r, port, func(c *Config) { c.NATSURL = natsURL(fmt.Sprintf("nats://%s:%d", wan.Far, port)) }, "nats"}
	},
	"postgres": func(t *testing.T) split {
		server := pgtest.NewServerWith(t, pgtest.Options{Settings: map[string]string{"listen_addresses": "*"}})
		r := rigOn(t, server.DSN("postgres"))
		// Who comes from Far is let in, too. Postgres works in the folder of its data.
		r.asWriter(`COPY (SELECT 'host all all all trust') TO PROGRAM 'cat >> pg_hba.conf'`)
		r.asWriter(`SELECT pg_reload_conf()`)
		port := portOf(t, server.Addr())
		far, err := url.Parse(r.dsn)
		if err != nil {
			t.Fatal(err)
		}
		far.Host = net.JoinHostPort(wan.Far, strconv.Itoa(port))
		return split{r, port, func(c *Config) { c.DatabaseURL = secretOf(far.String()) }, "database"}
	},
	"flex": func(t *testing.T) split {
		r := newRig(t)
		r.flex = flextest.NewWith(t, flextest.Config{Addr: wan.Near + ":0"})
		port := portOf(t, r.flex.Addr())
		far := fmt.Sprintf("http://%s:%d", wan.Far, port)
		return split{r, port, func(c *Config) { c.FlexURL, c.TaskRouterURL = far, far }, "unreachable"}
	},
}

func portOf(t *testing.T, address string) int {
	t.Helper()
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestPartition: one of two replicas loses the way to one server, in both directions or for the answers alone: packets are
// lost, and nobody is told. That replica says so and is not ready. The other one goes on with everything, also with what the
// first had in hand. Nothing is lost, nothing is created twice, and the first works again when the way is back.
func TestPartition(t *testing.T) {
	t.Parallel()
	for name, world := range splits {
		directions := []string{"answers"} // the harder one: what is sent arrives, and nobody hears of it
		if *partitionFor > 0 {
			directions = append(directions, "both")
		}
		for _, direction := range directions {
			t.Run(name+"_"+direction, func(t *testing.T) {
				t.Parallel()
				if !wan.Alone(t) {
					return
				}
				line := wan.Open(t, 2*time.Millisecond)
				s := world(t)
				s.partition(line, direction)
			})
		}
	}
}

func (s split) partition(line *wan.Line, direction string) {
	r, t := s.rig, s.rig.t
	t.Helper()
	in := r.read()
	apart, other := r.config(), r.config()
	for _, cfg := range []*Config{&apart, &other} {
		cfg.FlexConcurrency, cfg.FlexInsecureHTTP = 4, true
	}
	s.far(&apart)
	r.start(other)
	w := r.start(apart)
	r.says(apart.AdminAddr, "ok", 200)
	r.says(other.AdminAddr, "ok", 200)
	r.flex.Set(flextest.Settings{Latency: 5 * time.Millisecond}) // so that there is a backlog
	r.send("before", 0, 150)
	sending := r.load()
	r.reached("some are created", func(c flextest.Calls) bool { return c.Created >= 20 })

	if direction == "both" {
		line.Cut()
	} else {
		line.CutAnswers(s.port)
	}
	cut := time.Now()
	r.says(apart.AdminAddr, s.word, 503)
	noticed := time.Since(cut)
	r.says(other.AdminAddr, "ok", 200)
	already, settled := sending.begun.Load(), in.ended()
	w.lasts(t, *partitionFor, sending, 50)
	// The other one goes on meanwhile, by itself.
	r.eventually(func() error { return expect.Is("some are settled in the partition", in.ended() >= settled+50, true) })
	meanwhile, answered := sending.begun.Load()-already, in.ended()-settled
	if got, code, err := word(apart.AdminAddr); err != nil || got != s.word || code != 503 {
		t.Errorf("in the partition /readyz says %s %d %v", got, code, err)
	}
	if line.Lost() == 0 {
		t.Error("no packet was lost")
	}

	line.Mend()
	over := time.Now()
	r.says(apart.AdminAddr, "ok", 200)
	ready := time.Since(over)
	sent := 150 + sending.stop()
	in.balanced(sent)
	if *partitionFor > 0 {
		fmt.Printf("%s: %v of it, noticed after %v; %d sent meanwhile, %d answered\n\tready again after %v, all %d answered after %v: %s\n", t.Name(), *partitionFor,
			noticed.Round(time.Millisecond), meanwhile, answered, ready.Round(time.Millisecond), sent, time.Since(over).Round(time.Millisecond), r.states())
	}
}
