package main

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/natstest"
)

const (
	requestsStream = "INTERACTION_REQUESTS"
	resultsStream  = "INTERACTION_RESULTS"
	consumerName   = "interaction-worker"
)

// TestThreeServers: streams and consumer are kept by three servers of NATS. Under load each leader steps down in turn,
// then the leader of the requests ends, and then one becomes a lame duck. Each time the worker goes on with
// the two that are left; nothing is lost, and no result comes twice.
func TestThreeServers(t *testing.T) {
	t.Parallel()
	cluster := natstest.NewCluster(t, 3)
	r := rigAt(t, migrated.NewDSN(t), cluster[0], len(cluster))
	r.natsVia = cluster.URL()
	r.redeliversSoon()
	in := r.read()
	var addresses []string
	for range 2 {
		cfg := r.unhurried()
		r.start(cfg)
		r.says(cfg.AdminAddr, "ok", 200)
		addresses = append(addresses, cfg.AdminAddr)
	}
	sending := r.load()
	in.goesOn()
	rounds := 1
	if *outageFor > 0 {
		rounds = 5
	}
	for range rounds {
		for _, led := range [][2]string{{requestsStream, ""}, {requestsStream, consumerName}, {resultsStream, ""}} {
			stepDown(t, cluster, led[0], led[1])
			in.goesOn()
		}
	}
	for range rounds {
		leader := leaderOf(t, cluster, requestsStream, "")
		leader.Shutdown()
		in.goesOn()
		if err := leader.Restart(); err != nil {
			t.Fatal(err)
		}
		cluster.Whole(t)
	}
	leader := leaderOf(t, cluster, requestsStream, consumerName)
	leader.LameDuck()
	in.goesOn()
	underLoad := time.Now()
	sent := sending.stop()
	in.balanced(sent)
	for _, address := range addresses {
		r.says(address, "ok", 200)
	}
	r.uncounted()
	consumer, err := r.js.Consumer(t.Context(), requestsStream, consumerName)
	if err != nil {
		t.Fatal(err)
	}
	if has := consumer.CachedInfo(); has.NumPending != 0 {
		t.Errorf("%d messages were not delivered", has.NumPending)
	}
	again := consumer.CachedInfo().Delivered.Consumer - consumer.CachedInfo().Delivered.Stream
	fmt.Printf("%s: %d step-downs, %d ends of a server, a lame duck; %d requests; at most %v between two results, the last %v after the load; %d messages delivered again\n",
		t.Name(), 3*rounds, rounds, sent, in.longestPause(underLoad).Round(time.Millisecond), time.Since(underLoad).Round(time.Second), again)
}

// stepDown has the leader of a stream, or with consumer of that consumer, give its place to another server.
func stepDown(t *testing.T, cluster natstest.Cluster, stream, consumer string) {
	t.Helper()
	was := leaderOf(t, cluster, stream, consumer)
	subject := "$JS.API.STREAM.LEADER.STEPDOWN." + stream
	if consumer != "" {
		subject = "$JS.API.CONSUMER.LEADER.STEPDOWN." + stream + "." + consumer
	}
	conn := was.Connect(t)
	defer conn.Close()
	answer, err := conn.RequestMsgWithContext(t.Context(), nats.NewMsg(subject))
	if err != nil {
		t.Fatalf("%s: %v", subject, err)
	}
	t.Logf("%s: %s", subject, answer.Data)
	leaderOf(t, cluster, stream, consumer)
}

// leaderOf waits until there is one.
func leaderOf(t *testing.T, cluster natstest.Cluster, stream, consumer string) (leader *natstest.Server) {
	t.Helper()
	expect.Eventually(t, func() (err error) { leader, err = cluster.LeaderOf(stream, consumer); return err })
	return leader
}

// longestPause is the longest time between two results that settled before end.
func (in *reader) longestPause(end time.Time) (longest time.Duration) {
	var at []time.Time
	for _, one := range in.list() {
		if one.Body.SettledAt.Before(end) {
			at = append(at, one.Body.SettledAt)
		}
	}
	slices.SortFunc(at, time.Time.Compare)
	for i := 1; i < len(at); i++ {
		longest = max(longest, at[i].Sub(at[i-1]))
	}
	return longest
}
