package natstest

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/faultproxy"
)

// Cluster is servers in one process that keep streams together. Each is a Server, which may be shut down, or made a lame
// duck, and restarted.
type Cluster []*Server

// member is one server's place in a cluster. Nil: it is alone.
type member struct {
	name   string
	port   int // for the others
	routes []*url.URL
}

func (m *member) join(o *server.Options) {
	if m == nil {
		return
	}
	o.ServerName = m.name
	o.Cluster = server.ClusterOpts{Name: "flexworker", Host: "127.0.0.1", Port: m.port}
	o.Routes = m.routes
}

// NewCluster starts a cluster of n servers for one test and stops it when the test ends. Then it looks at the results, as New does.
func NewCluster(t testing.TB, n int) Cluster {
	t.Helper()
	members := make([]*member, n)
	for i := range members {
		port, err := faultproxy.FreePort()
		if err != nil {
			t.Fatal(err)
		}
		members[i] = &member{name: fmt.Sprint("flexworker-", i), port: port}
	}
	for _, m := range members {
		for _, other := range members {
			m.routes = append(m.routes, &url.URL{Scheme: "nats", Host: fmt.Sprintf("127.0.0.1:%d", other.port)})
		}
	}
	var c Cluster
	t.Cleanup(func() {
		if len(c) == n && !t.Failed() {
			c.allRun(t)
			c[0].checkResults(t)
		}
		for _, s := range c {
			if err := s.Stop(); err != nil {
				t.Errorf("stop nats: %v", err)
			}
		}
	})
	for _, m := range members {
		s, err := Start(Options{member: m, memory: true})
		if err != nil {
			t.Fatal(err)
		}
		c = append(c, s)
	}
	c.Whole(t)
	return c
}

// allRun starts again what a test has ended.
func (c Cluster) allRun(t testing.TB) {
	t.Helper()
	for _, s := range c {
		s.mu.Lock()
		away := s.server == nil
		s.mu.Unlock()
		if !away {
			continue
		}
		if err := s.Restart(); err != nil {
			t.Error(err)
		}
	}
	c.Whole(t)
}

// Whole waits until all servers run, follow one leader and have every stream as it is.
func (c Cluster) Whole(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), expect.Patience)
	defer cancel()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for !c.whole() {
		select {
		case <-ctx.Done():
			t.Fatal("the servers of the cluster do not find together")
		case <-again.C:
		}
	}
}

func (c Cluster) whole() bool {
	led := false
	for _, s := range c {
		s.mu.Lock()
		ns := s.server
		s.mu.Unlock()
		if ns == nil || !ns.JetStreamIsCurrent() || len(ns.JetStreamClusterPeers()) < len(c) && ns.JetStreamIsLeader() {
			return false
		}
		if health := ns.Healthz(&server.HealthzOptions{}); health != nil && health.StatusCode != 200 {
			return false
		}
		led = led || ns.JetStreamIsLeader()
	}
	return led
}

// URL is where clients connect: every server.
func (c Cluster) URL() string {
	var all []string
	for _, s := range c {
		all = append(all, s.URL())
	}
	return strings.Join(all, ",")
}

// errNoLeader is said of a stream or a consumer that has none at the moment.
var errNoLeader = errors.New("it has no leader")

// LeaderOf is the server that leads a stream, or with consumer that consumer of it.
func (c Cluster) LeaderOf(stream, consumer string) (*Server, error) {
	i := slices.IndexFunc(c, func(s *Server) bool {
		s.mu.Lock()
		ns := s.server
		s.mu.Unlock()
		switch {
		case ns == nil:
			return false
		case consumer != "":
			return ns.JetStreamIsConsumerLeader(server.DEFAULT_GLOBAL_ACCOUNT, stream, consumer)
		default:
			return ns.JetStreamIsStreamLeader(server.DEFAULT_GLOBAL_ACCOUNT, stream)
		}
	})
	if i < 0 {
		return nil, errNoLeader
	}
	return c[i], nil
}
